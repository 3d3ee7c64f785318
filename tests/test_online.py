"""Iterative DPO: each round is stages of its own, resumed, traced, planned and made anew as others.

The labels are made for real by scripted models; the trainings are pretended.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import rlaif.policy
from rlaif.completions import Store
from rlaif.config import EngineConfig, RunConfig
from rlaif.config.policy import DpoConfig, OnlineConfig
from rlaif.engine import Model, Models
from rlaif.engine.model import identity
from rlaif.errors import RunError
from rlaif.jsonl import rows
from rlaif.pipeline import Pipeline
from rlaif.preferences import Candidates
from rlaif.records import Pair
from rlaif.runs import Run
from rlaif.shipped import folder
from rlaif.stages import stage_record
from rlaif.templates import Templates
from rlaif.trace import trace
from tests import finished_run

LATER = ("policy-1", "preferences-2", "policy-2", "preferences-3", "policy")


class Players(Models):
    """Every model is played; the better trained, the fewer faults it has."""

    def model(self, config: EngineConfig) -> Model:
        path = Path(config.model)
        rate = json.loads((path / "config.json").read_text()).get("rate", 1.0)
        return Model.of(finished_run.engine(identity(config), rate), self.store)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the pretended trainings were given, in order."""
    given: list[dict[str, Any]] = []

    def policy(into: Path, config: DpoConfig, *, pairs: Path, model: str, **_: Any) -> Any:
        given.append({"config": config, "pairs": pairs.name, "model": Path(model).parent.name})
        before = json.loads((Path(model) / "config.json").read_text())
        learned = sum(pair.target is not None for pair in rows(pairs / "pairs.jsonl", Pair))
        (into / "model").mkdir()
        told = {"rate": before["rate"] / 2, "learned": learned}
        (into / "model" / "config.json").write_text(json.dumps(told))
        return {"examples": learned}

    monkeypatch.setattr(rlaif.policy, "policy", policy)
    return given


def config(root: Path, rounds: int = 3) -> RunConfig:
    root.mkdir(exist_ok=True)
    asked = finished_run.requests(root / "p.jsonl", train=8, heldout=4)
    section = {"kind": "online", "rounds": rounds, "dpo": {"beta": 0.3}}
    return finished_run.config(prompts=asked, policy=section)


@contextmanager
def pipeline(root: Path, rounds: int = 3, *fresh: str) -> Iterator[Pipeline]:
    told = config(root, rounds)
    with Run.open(told, root=root, fresh=fresh) as run, Store(root / "store.sqlite3") as store:
        law, templates = finished_run.law(), Templates(folder("prompts"))
        yield Pipeline(run, told, law, templates, Players(store))


def finetuned(into: Path) -> dict[str, Any]:
    (into / "model").mkdir()
    (into / "model" / "config.json").write_text(json.dumps({"rate": 0.8}))
    return {}


def go(root: Path, rounds: int = 3, *fresh: str) -> Path:
    """A run up to its policy; its folder."""
    with pipeline(root, rounds, *fresh) as made:
        prompts = made.prompts()
        tuned = made.run.stage("finetune", None, finetuned)
        preferred = made.preferences(prompts, tuned)
        assert made.policy(preferred, tuned, prompts, None) == made.run.folder / "policy"
        return made.run.folder


def test_each_round_labels_answers_of_the_policy_so_far(
    tmp_path: Path, trained: list[dict[str, Any]]
) -> None:
    run = go(tmp_path)
    assert [(given["pairs"], given["model"]) for given in trained] == [
        ("preferences", "finetune"),
        ("preferences-2", "policy-1"),
        ("preferences-3", "policy-2"),
    ]
    assert {given["config"].beta for given in trained} == {0.3}
    for n, stage in enumerate(("policy-1", "policy-2"), 2):
        made_from = stage_record(run / f"preferences-{n}")["made_from"]["inputs"]
        assert made_from["policy"] == stage_record(run / stage)["digest"]
    texts = [
        {text for row in rows(run / stage / "answers.jsonl", Candidates) for text in row.texts}
        for stage in ("preferences", "preferences-2", "preferences-3")
    ]
    assert texts[0] != texts[1] != texts[2]


def test_a_run_that_stops_in_a_round_goes_on_there(
    tmp_path: Path, trained: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = go(tmp_path / "whole")
    work = rlaif.policy.policy
    trained.clear()

    def stopped(into: Path, config: Any, **given: Any) -> Any:
        if given["pairs"].name == "preferences-2":
            raise KeyboardInterrupt
        return work(into, config, **given)

    monkeypatch.setattr(rlaif.policy, "policy", stopped)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "torn")
    monkeypatch.setattr(rlaif.policy, "policy", work)
    torn = go(tmp_path / "torn")
    assert [given["pairs"] for given in trained] == [
        "preferences",
        "preferences-2",
        "preferences-3",
    ]
    for stage in LATER:
        assert stage_record(torn / stage)["digest"] == stage_record(whole / stage)["digest"]


def test_more_rounds_keep_those_that_are_done(
    tmp_path: Path, trained: list[dict[str, Any]]
) -> None:
    run = go(tmp_path, 2)
    kept = {stage: stage_record(run / stage) for stage in ("policy-1", "preferences-2")}
    go(tmp_path, 3)
    assert [given["pairs"] for given in trained[2:]] == ["preferences-2", "preferences-3"]
    assert {stage: stage_record(run / stage) for stage in kept} == kept
    with pytest.raises(RunError, match="stage policy is there already"):
        go(tmp_path, 2)


def test_a_fresh_policy_is_all_of_its_rounds(tmp_path: Path, trained: list[dict[str, Any]]) -> None:
    run = go(tmp_path)
    labels = stage_record(run / "preferences-2")
    go(tmp_path)
    assert len(trained) == 3
    go(tmp_path, 3, "policy")
    assert len(trained) == 6
    assert stage_record(run / "preferences-2") == labels  # made of the same as before


def test_a_trace_shows_the_labels_of_every_round(
    tmp_path: Path, trained: list[dict[str, Any]]
) -> None:
    from click.testing import CliRunner

    from rlaif.cli.trace import trace as command

    run = go(tmp_path)
    pair = next(pair for pair in rows(run / "preferences-2" / "pairs.jsonl", Pair) if pair.verdicts)
    with Store(tmp_path / "store.sqlite3") as store:
        found = trace(run, pair.id, store)
        assert not [key for key, sent in found.calls.items() if sent.missing]
        whole = trace(run, pair.prompt.id, store)
    assert "preferences-2" in found.labelled
    assert f"policy-2 {pair.id}" in found.used
    assert {"preferences", "preferences-2"} <= {*whole.labelled} <= {
        "preferences", "preferences-2", "preferences-3"
    }  # fmt: skip
    last = next(rows(run / "preferences-3" / "pairs.jsonl", Pair))
    assert f"policy {last.id}" in trace(run, last.id).used
    told = CliRunner().invoke(command, [str(run), pair.id, "--brief"])
    assert f"pair {pair.id} of preferences-2: P(a is preferred)" in told.output


def test_a_plan_counts_the_rounds(tmp_path: Path, trained: list[dict[str, Any]]) -> None:
    from rlaif.planning import Plan, _estimated

    told = config(tmp_path)
    go(tmp_path, 1)
    planned = Plan(list(_estimated(told, 9, tmp_path / "run" / "prompts"))).stages
    by_name = {stage.stage: stage for stage in planned}
    assert [*by_name][1:] == ["preferences", "reward", *LATER, "evaluation"]
    labels = by_name["preferences"].at_most
    assert labels == by_name["preferences-2"].at_most == by_name["preferences-3"].at_most > 0


def test_a_plan_trains_no_round(
    tmp_path: Path, trained: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlaif import planning

    with pipeline(tmp_path) as made:
        made.critique(made.prompts())
        tuned = made.run.stage("finetune", None, finetuned)
        made.preferences(made.prompts(), tuned)
        monkeypatch.setattr(planning._Silent, "model", Players.model)
        monkeypatch.setattr(Pipeline, "finetune", lambda self, chains: tuned)
    told = made.config.model_copy(update={"reward": made.config.reward.model_copy(
        update={"enabled": False})})  # fmt: skip
    found = planning.plan(told, root=tmp_path, store=str(tmp_path / "store.sqlite3"))
    states = {stage.stage: stage.state for stage in found.stages}
    assert states["preferences"] == "done"
    assert states["policy-1"] == states["preferences-2"] == "to do"
    assert not trained


def test_a_round_is_trained_as_dpo_is(tmp_path: Path) -> None:
    section = config(tmp_path).policy
    assert isinstance(section, OnlineConfig)
    assert section.dpo == DpoConfig(beta=0.3)
