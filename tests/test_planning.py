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
