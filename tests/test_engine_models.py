"""Which servers are up at once, and who answers for a model that the run trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rlaif.completions import Store
from rlaif.config import EngineConfig
from rlaif.engine import Models, ScriptedEngine, models
from rlaif.errors import RunError
from rlaif.pipeline import Pipeline
from rlaif.runs import Run
from rlaif.shipped import folder
from rlaif.stages import stage_record
from rlaif.templates import Templates
from tests import finished_run
from tests.test_online import Players, finetuned

Said = list[tuple[str, str]]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Said:
    """What went up and down; no server is started."""
    log: Said = []

    @contextmanager
    def serving(config: EngineConfig) -> Iterator[ScriptedEngine]:
        log.append(("up", config.model))
        yield ScriptedEngine(lambda call: "Yes.")
        log.append(("down", config.model))

    monkeypatch.setattr(models, "serving", serving)
    return log


def ask(served: Models, *names: str, **config: Any) -> None:
    for name in names:
        served.engine(EngineConfig(model=name, **config))


def test_one_model_at_a_time_unless_there_is_room(said: Said) -> None:
    with Models(None) as served:
        ask(served, "a", "a", "b")
        assert said == [("up", "a"), ("down", "a"), ("up", "b")]
        served.make_room()
        assert said[3:] == [("down", "b")]
        ask(served, "b")
    assert said[4:] == [("up", "b"), ("down", "b")]


def test_with_room_for_two_the_one_asked_longest_ago_gives_way(said: Said) -> None:
    with Models(None, at_once=2) as served:
        ask(served, "a", "b", "a", "c")
        assert said == [("up", "a"), ("up", "b"), ("down", "b"), ("up", "c")]
        served.make_room()
        assert len(said) == 4
    assert sorted(said[4:]) == [("down", "a"), ("down", "c")]


def test_a_server_of_the_users_takes_no_room(said: Said) -> None:
    with Models(None) as served:
        ask(served, "theirs", base_urls=("http://127.0.0.1:9",))
        ask(served, "a", "b")
        assert ("down", "theirs") not in said
    assert said[-1][0] == "down"


def test_the_users_server_never_answers_for_a_model_that_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It serves the start model: its answers would be kept as those of the policy."""
    engine = {"base_urls": ["http://127.0.0.1:9"], "served_name": "s", "api_key_env": "KEY"}
    told = finished_run.config(prompts=tmp_path / "p.jsonl", engine=engine)
    monkeypatch.setattr(Models, "model", lambda self, config: config)
    with Run.open(told, root=tmp_path) as run:
        templates = Templates(folder("prompts"))
        made = Pipeline(run, told, finished_run.law(), templates, Models(None))
        start, trained = made.start, made.made(tmp_path / "policy")
    assert isinstance(start, EngineConfig)
    assert isinstance(trained, EngineConfig)
    assert start.base_urls
    assert (start.served_name, start.api_key_env) == ("s", "KEY")
    assert trained.model == str(tmp_path / "policy" / "model")
    assert (trained.base_urls, trained.served_name, trained.api_key_env) == ((), None, None)


class Seen(Templates):
    """Templates that remember which of them were read."""

    read: set[str]

    def render(self, name: str, **given: Any) -> Any:
        self.read.add(name)
        return super().render(name, **given)

    def dialogue(self, name: str, **given: Any) -> Any:
        self.read.add(name)
        return super().dialogue(name, **given)


@pytest.mark.parametrize("stage", ["critique", "preferences", "evaluation"])
def test_a_stage_is_made_from_the_law_and_every_template_that_it_reads(
    stage: str, tmp_path: Path
) -> None:
    asked = finished_run.requests(tmp_path / "p.jsonl", train=4, heldout=2)
    told = finished_run.config(prompts=asked, preferences={"principles": 2})
    templates = Seen(folder("prompts"))
    with Store(tmp_path / "store.sqlite3") as store:

        def go(law: Any) -> Path:
            with Run.open(told, root=tmp_path) as run:
                made = Pipeline(run, told, law, templates, Players(store))
                prompts = made.prompts()
                templates.read = set()
                critiqued = made.critique(prompts)
                if stage == "critique":
                    return critiqued
                tuned = run.stage("finetune", None, finetuned)
                templates.read = set()
                preferred = made.preferences(prompts, tuned)
                if stage == "preferences":
                    return preferred
                policy = run.stage("policy", None, finetuned)
                templates.read = set()
                return made.evaluation(prompts, critiqued, tuned, preferred, policy)

        done = go(finished_run.law())
        inputs = stage_record(done)["made_from"]["inputs"]
        assert templates.read
        assert {f"prompts/{name}.j2" for name in templates.read} <= inputs.keys()
        law = finished_run.law()
        assert inputs["constitution"] == law.digest
        with pytest.raises(RunError, match=r"made from something else: .*constitution"):
            go(law.without(law.principles[0].id))
