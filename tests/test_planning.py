"""What a run would cost: counts from the store, estimates from runs of the same models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rlaif.cli.plan import plan as command
from rlaif.config import RunConfig
from rlaif.engine.models import Models
from rlaif.pipeline import Pipeline
from rlaif.planning import plan
from tests import finished_run


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of runs with one that began: `run` has prompts and revisions."""
    monkeypatch.setenv("RLAIF_STORE", str(tmp_path / "store.sqlite3"))
    begin(told(tmp_path), tmp_path / "runs", monkeypatch)
    return tmp_path / "runs"


def told(folder: Path, **sections: Any) -> RunConfig:
    asked = finished_run.requests(folder / "p.jsonl", train=6, heldout=4)
    return finished_run.config(prompts=asked, **sections)


def begin(config: RunConfig, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = finished_run.engine("start", 1.0)
    with monkeypatch.context() as patched:
        patched.setattr(Models, "engine", lambda self, config: engine)
        with Pipeline.open(config, root=root) as run:
            run.critique(run.prompts())


@pytest.fixture
def planned(root: Path) -> Callable[..., Result]:
    def call(config: Path, *more: str) -> Result:
        return CliRunner().invoke(command, [str(config), "--runs", str(root), *more])

    return call


def states(result: Result) -> dict[str, str]:
    assert result.exit_code == 0, result.exception
    return {stage["stage"]: stage["state"] for stage in json.loads(result.stdout)["stages"]}


def test_a_run_is_planned_by_its_folder_wherever_that_is(
    root: Path, planned: Callable[..., Result]
) -> None:
    moved = root.with_name("elsewhere") / "renamed"
    moved.parent.mkdir()
    (root / "run").rename(moved)
    found = states(planned(moved, "--json"))
    assert (found["prompts"], found["critique"], found["finetune"]) == ("done", "done", "to do")


def test_a_run_by_its_folder_is_planned_as_it_stood(
    root: Path, planned: Callable[..., Result]
) -> None:
    with (root.parent / "p.jsonl").open("a") as prompts:
        prompts.write('{"prompt": "one more"}\n')
    assert states(planned(root / "run", "--json"))["critique"] == "done"
    changed = states(planned(root / "run", "--json", "--set", "critique.rounds=4"))
    assert (changed["prompts"], changed["critique"]) == ("done", "anew")


def test_what_a_run_refuses_is_refused(root: Path, planned: Callable[..., Result]) -> None:
    refused = planned(root / "run", "--set", "preferences.overlay=missing.jsonl")
    assert "there is no file" in str(refused.exception)


def test_a_stage_that_a_run_refuses_comes_with_the_command(
    root: Path, planned: Callable[..., Result]
) -> None:
    fine = planned(root / "run")
    assert "refuses" not in fine.stdout
    changed = planned(root / "run", "--set", "critique.rounds=4")
    assert "`rlaif run` refuses: critique is there" in changed.stdout
    command = f"rlaif run {root / 'run'} --set critique.rounds=4 --runs {root} --fresh critique"
    assert changed.stdout.endswith(f"  {command}\n")
    another = json.loads(planned(root / "run", "--json", "--set", "critique.rounds=4").stdout)
    assert another["fresh"] == "critique"


# --- estimates ------------------------------------------------------------------------------------


def plan_of(config: RunConfig, root: Path) -> dict[str, Any]:
    return plan(config, root=root, store=str(root.parent / "none.sqlite3")).json()


def finished(root: Path, stage: str, seconds: float) -> None:
    """Let the run have finished a training that took so long."""
    (root / "run" / stage).mkdir()
    record = {"finished": "2026-01-01", "seconds": seconds}
    record |= {"metrics": {}, "made_from": {}, "outputs": {}, "digest": ""}
    (root / "run" / stage / "stage.json").write_text(json.dumps(record))


def by_stage(planned: dict[str, Any], key: str) -> dict[str, Any]:
    return {stage["stage"]: stage[key] for stage in planned["stages"]}


def test_with_no_run_on_record_nothing_is_estimated(root: Path) -> None:
    found = plan_of(told(root.parent), root.with_name("no runs"))
    assert (found["total"]["tokens"], found["total"]["seconds"]) == (None, None)
    assert found["total"]["at_least"] == []
    assert found["total"]["new"] == 6


def test_a_partial_sum_is_said_to_be_one(root: Path, planned: Callable[..., Result]) -> None:
    found = plan_of(told(root.parent, name="next"), root)
    assert found["total"]["tokens"] == by_stage(found, "tokens")["critique"] > 0
    assert found["total"]["at_least"] == ["tokens", "seconds"]
    shown = planned(root / "run", "--set", "name=next", "--set", "seed=1").stdout
    assert "at least " in shown.splitlines()[-1]


def test_another_model_tells_nothing(root: Path) -> None:
    for feedback in ({"model": "sandbox", "dtype": "float32"}, {"model": "org/judge"}):
        found = plan_of(told(root.parent, name="next", feedback=feedback), root)
        assert by_stage(found, "tokens")["critique"] is None


def test_a_training_takes_longer_with_more_to_learn_from(root: Path) -> None:
    for stage, seconds in (("finetune", 30.0), ("policy", 60.0)):
        finished(root, stage, seconds)
    asked = told(root.parent, name="next", critique={"limit": 2}, policy={"epochs": 2})
    seconds = by_stage(plan_of(asked, root), "seconds")
    assert (seconds["finetune"], seconds["reward"], seconds["policy"]) == (10.0, None, 120.0)
    ppo = told(root.parent, name="next", policy={"kind": "ppo"})
    assert by_stage(plan_of(ppo, root), "seconds")["policy"] is None
