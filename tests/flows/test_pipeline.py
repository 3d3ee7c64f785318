"""The flow that `rlaif run` is, on real Prefect, real vLLM and the embedded model, in small."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlaif.shipped import SEED_MODEL
from rlaif.stages import STAGES, stage_record

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

SMALL = """
name: small
constitution: sandbox
model: sandbox
engine: {dtype: float32, max_model_len: 2048, at_once: 2}
prompts:
  sources: [{path: %s}]
critique:
  rounds: 2
  limit: 24
  critique: {temperature: 0, max_tokens: 64}
  revise: {temperature: 0, max_tokens: 128}
finetune: {learning_rate: 1e-4, max_length: 512}
preferences: {limit: 24, principles: 2, sampling: {max_tokens: 128}}
reward: {learning_rate: 1e-4, max_length: 512, heldout: 0.3}
policy: {learning_rate: 1e-4, max_length: 512}
evaluation: {limit: 16, oracle: sandbox, sampling: {max_tokens: 128}}
"""


STAGES_WITH_DATA = set(STAGES) - {"report"}


class Command:
    """`rlaif run small.yaml` in a folder of its own, with its own store and its own Prefect."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, folder / "runs"
        (folder / "small.yaml").write_text(SMALL % SEED_MODEL.with_name("prompts.jsonl"))

    def __call__(self, *more: str, name: str = "run") -> subprocess.CompletedProcess[str]:
        own = {
            "RLAIF_STORE": str(self.folder / "store.sqlite3"),
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_LOCAL_STORAGE_PATH": str(self.folder / "prefect" / "storage"),
        }
        command = [sys.executable, "-m", "rlaif", name, "small.yaml", "--runs", "runs", *more]
        return subprocess.run(
            command,
            cwd=self.folder,
            env=os.environ | own,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    return Command(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def first(command: Command) -> dict[str, Any]:
    done = command("--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_run_leaves_every_stage_and_a_report(command: Command, first: dict[str, Any]) -> None:
    run = command.runs / "small"
    assert {name for name in STAGES if (run / name / "stage.json").is_file()} >= STAGES_WITH_DATA
    assert "<svg" in (run / "report" / "index.html").read_text()
    assert {"seed", "finetuned", "policy"} <= first["violations"].keys()
    assert first["calls"]["sent"] > 0
    assert not list(run.glob(".*.partial"))


def test_prefect_saw_every_stage(command: Command, first: dict[str, Any]) -> None:
    database = sqlite3.connect(command.folder / "prefect" / "prefect.db")
    states = dict(database.execute("SELECT name, state_type FROM task_run"))
    flows = database.execute("SELECT state_type FROM flow_run").fetchall()
    database.close()
    assert flows == [("COMPLETED",)]
    assert {name.rsplit("-", 1)[0] for name in states} == set(STAGES)
    assert set(states.values()) == {"COMPLETED"}


def test_the_same_run_under_another_name_sends_nothing_and_ends_the_same(
    command: Command, first: dict[str, Any]
) -> None:
    again = command("--json", "--set", "name=again")
    assert again.returncode == 0, again.stderr
    figures = json.loads(again.stdout)
    assert figures["calls"]["sent"] == 0
    assert figures["violations"] == first["violations"]
    for name in STAGES_WITH_DATA:
        digests = [stage_record(command.runs / run / name)["digest"] for run in ("small", "again")]
        assert digests[0] == digests[1], name


def test_the_plan_of_a_finished_run_is_to_do_nothing(
    command: Command, first: dict[str, Any]
) -> None:
    planned = json.loads(command("--json", name="plan").stdout)
    assert {s["stage"]: s["state"] for s in planned["stages"]} == dict.fromkeys(
        STAGES_WITH_DATA, "done"
    )
    assert planned["total"]["new"] == 0
    anew = json.loads(command("--json", "--set", "critique.rounds=3", name="plan").stdout)
    states = {s["stage"]: (s["state"], s["new"] + s["at_most"]) for s in anew["stages"]}
    assert states["prompts"] == ("done", 0)
    assert states["critique"][0] == "anew"
    assert 0 < states["critique"][1] <= 48  # the third round's critiques, and revisions


def test_a_run_stops_where_it_is_told_to(command: Command) -> None:
    early = ("--set", "name=early", "--until", "prompts")
    done = command(*early, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["missing"] == [
        s for s in STAGES if s not in ("prompts", "report")
    ]
    assert command(*early).stdout.startswith("prompts: runs/early/prompts\n")
    assert not (command.runs / "early" / "critique").exists()


def test_an_end_that_is_never_reached_is_refused(command: Command) -> None:
    refused = command("--until", "reward", "--set", "reward.enabled=false", "--set", "name=never")
    assert refused.returncode == 1
    assert "until: the reward stage is switched off" in refused.stderr
    assert not (command.runs / "never").exists()


def test_a_mistake_is_one_screen_before_anything_starts(command: Command) -> None:
    wrong = command("--set", "policy.betta=1")
    assert wrong.returncode == 1
    assert "did you mean `beta`?" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_a_change_without_fresh_is_refused_with_the_remedy(
    command: Command, first: dict[str, Any]
) -> None:
    changed = command("--set", "critique.rounds=1")
    assert changed.returncode == 1
    assert "stage critique is there already, made from something else: rounds" in changed.stderr
    assert "--fresh critique" in changed.stderr
    assert "Traceback" not in changed.stderr
