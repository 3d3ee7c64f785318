"""`rlaif runs`: what is on the disk, side by side, and removed only where nobody needs it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rlaif import keeping
from rlaif.audit.ledger import Ledger
from rlaif.cli.runs import runs
from rlaif.config import RunConfig
from rlaif.errors import RunError
from rlaif.runs import Run
from tests.finished_run import made


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("made"), train=6, heldout=8)


@pytest.fixture
def root(finished: Path, tmp_path: Path) -> Path:
    """Two runs: `first`, and `second`, whose model `first` made."""
    for name in ("first", "second"):
        shutil.copytree(finished, tmp_path / name)
    _tell(tmp_path / "second", model=str(tmp_path / "first" / "policy" / "model"), seed=1)
    return tmp_path


def _tell(run: Path, **config: Any) -> None:
    record = json.loads((run / "run.json").read_text("utf-8"))
    record["config"] |= config
    (run / "run.json").write_text(json.dumps(record), "utf-8")


@pytest.fixture
def rlaif(root: Path) -> Callable[..., Result]:
    def call(*args: str, **how: Any) -> Result:
        return CliRunner().invoke(runs, [args[0], "--runs", str(root), *args[1:]], **how)

    return call


def test_list_says_state_size_and_figures(rlaif: Callable[..., Result], root: Path) -> None:
    shutil.rmtree(root / "second" / "evaluation")
    found = {run["name"]: run for run in json.loads(rlaif("list", "--json").stdout)}
    first, second = found["first"], found["second"]
    assert (first["state"], second["state"]) == ("done", "unfinished")
    sizes = sum(p.stat().st_size for p in (root / "first").rglob("*") if p.is_file())
    assert first["bytes"] == sizes
    assert first["constitution"].startswith("sandbox@1+")
    assert first["figures"]["violations"]["policy"]["value"] is not None
    assert first["figures"]["calls"]["answered"] > 0
    shown = rlaif("list").stdout.splitlines()
    assert shown[0].split()[:3] == ["run", "state", "size"]
    assert shown[1].split()[:2] == ["first", "done"]


def test_an_empty_folder_is_said_to_be_empty(tmp_path: Path) -> None:
    done = CliRunner().invoke(runs, ["list", "--runs", str(tmp_path)])
    assert (done.exit_code, done.stdout) == (0, "")
    assert "no runs" in done.stderr


def test_show_has_every_stage_and_who_needs_it(rlaif: Callable[..., Result], root: Path) -> None:
    told = json.loads(rlaif("show", "first", "--json").stdout)
    stages = {stage["name"]: stage for stage in told["stages"]}
    assert stages["critique"]["state"] == "done"
    assert stages["critique"]["bytes"] > 0
    assert told["needed_by"] == ["second"]
    _tell(root / "first", model="/another/checkout/rlaif/sandbox/seed")
    shown = rlaif("show", "first").stdout
    assert re.search(r"sandbox@1\+[0-9a-f]{8}; model sandbox$", shown, re.M)
    assert "needed by second" in shown


def test_show_has_audited_labels_and_every_round(rlaif: Callable[..., Result], root: Path) -> None:
    rounds = ("policy-1", "preferences-2", "policy-2", "preferences-3")
    for stage in (*rounds, "audit"):
        shutil.copytree(root / "first" / "preferences", root / "first" / stage)
    (root / "first" / ".policy-10.partial").mkdir()
    stages = json.loads(rlaif("show", "first", "--json").stdout)["stages"]
    names = [stage["name"] for stage in stages]
    assert names == [
        "prompts", "critique", "finetune", "preferences", "audit", "reward", *rounds, "policy-10",
        "policy", "evaluation", "report",
    ]  # fmt: skip
    sizes = {stage["name"]: stage["bytes"] for stage in stages}
    assert sizes["audit"] == sizes["preferences-2"] == sizes["preferences"] > 0
    assert {s["name"]: s["state"] for s in stages}["policy-10"] == "begun"


def test_compare_shows_figures_and_differences_only(rlaif: Callable[..., Result]) -> None:
    told = json.loads(rlaif("compare", "first", "second", "--json").stdout)
    assert set(told["config"]) == {"model", "seed"}
    assert told["config"]["seed"] == [0, 1]
    lines = rlaif("compare", "first", "second").stdout.splitlines()
    assert lines[0].split() == ["first", "second"]
    assert any(line.startswith("break a principle, policy") for line in lines)


def test_compare_tells_two_texts_of_one_law_apart(rlaif: Callable[..., Result], root: Path) -> None:
    law = root / "second" / "constitution.yaml"
    text = law.read_text("utf-8")
    law.write_text(text.replace("makes a crime easier", "makes a theft easier"), "utf-8")
    lines = rlaif("compare", "first", "second").stdout.splitlines()
    (one, other) = next(line.split()[1:] for line in lines if line.startswith("constitution "))
    assert one != other
    assert one.partition("+")[0] == other.partition("+")[0] == "sandbox@1"
    assert any(line.split() == ["answers", "read", "by", "oracle", "oracle"] for line in lines)


def test_rm_asks_and_no_is_no(rlaif: Callable[..., Result], root: Path) -> None:
    assert rlaif("rm", "second", input="n\n").exit_code == 1
    assert (root / "second" / "run.json").is_file()
    assert rlaif("rm", "second", input="y\n").exit_code == 0
    assert not (root / "second").exists()
    assert not list(root.glob(".*"))


def test_rm_refuses_what_another_run_needs(rlaif: Callable[..., Result], root: Path) -> None:
    refused = rlaif("rm", "first", "--yes")
    assert "second depends on it" in str(refused.exception)
    assert (root / "first").is_dir()
    told = json.loads(rlaif("rm", "first", "second", "--yes", "--json").stdout)
    assert told["removed"] == ["first", "second"]
    assert told["bytes"] > 0
    assert not (root / "first").exists()


def test_rm_refuses_what_a_process_works_in(rlaif: Callable[..., Result], root: Path) -> None:
    config = RunConfig.model_validate(
        {"name": "second", "constitution": "sandbox", "model": "sandbox",
         "prompts": {"sources": [{"path": "p.jsonl"}]}}
    )  # fmt: skip
    with Run.open(config, root=root):
        assert json.loads(rlaif("show", "second", "--json").stdout)["state"] == "running"
        assert "another process" in str(rlaif("rm", "second", "--yes").exception)
    assert rlaif("rm", "second", "--yes").exit_code == 0


def test_rm_refuses_what_people_review(rlaif: Callable[..., Result], root: Path) -> None:
    run = root / "second"
    with Ledger.open(run / "audit.db"):
        pass
    command = [sys.executable, "-m", "rlaif", "audit", "serve", str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as app:
        assert app.stdout
        assert app.stdout.readline().startswith("Review at ")
        refused = rlaif("rm", "second", "--yes")
        app.send_signal(signal.SIGINT)
    assert "its review app is up" in str(refused.exception)
    asked = rlaif("rm", "second", input="y\n")
    assert "with what people said in its audit" in asked.stderr
    assert not run.exists()


def test_the_size_of_a_run_that_is_at_work(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and folders that are removed while it is measured don't count."""
    run, walk = root / "second", os.walk
    (run / "policy" / "checkpoint-1").mkdir()
    (run / "policy" / "checkpoint-1" / "weights").write_text("x")
    size = keeping.kept(run, root).bytes

    def walked(folder: Path) -> Iterator[Any]:
        for found in walk(folder):
            if found[0].endswith("checkpoint-1"):
                shutil.rmtree(found[0])
            yield found

    monkeypatch.setattr(keeping.os, "walk", walked)
    assert keeping.kept(run, root).bytes == size - 1


def test_a_run_is_named_by_the_folder_that_one_is_in(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root / "second" / "policy")
    for name in ("..", "../../second"):
        assert keeping.kept(keeping.place(name, root / "none"), root).name == "second"
    monkeypatch.chdir(root / "second")
    done = CliRunner().invoke(runs, ["rm", "--yes", "."])
    assert done.exit_code == 0
    assert not (root / "second").exists()


def test_a_run_that_waits_for_its_audit_says_so(root: Path) -> None:
    (root / "first" / "awaiting.json").write_text("{}", "utf-8")
    assert keeping.kept(root / "first", root).state == "waiting"


def test_a_wrong_name_lists_the_right_ones(rlaif: Callable[..., Result]) -> None:
    error = str(rlaif("show", "frist").exception)
    assert "no run is called 'frist'" in error
    assert "first, second" in error


def test_a_path_names_a_run_elsewhere(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    assert keeping.place(str(root / "first"), elsewhere) == root / "first"


def test_rm_looks_where_the_run_is_for_those_that_need_it(root: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    asked = ["rm", "--runs", str(tmp_path / "here"), str(root / "first"), "--yes"]
    refused = CliRunner().invoke(runs, asked)
    assert "second depends on it" in str(refused.exception)
    assert (root / "first").is_dir()


def test_rm_after_one_that_was_interrupted(rlaif: Callable[..., Result], root: Path) -> None:
    left = root / ".second.gone" / "policy"
    left.mkdir(parents=True)
    (left / "weights").write_text("half removed")
    assert "no run is called 'other'" in str(rlaif("rm", "other", "--yes").exception)
    assert not left.parent.exists()  # any removal ends one that was interrupted
    left.mkdir(parents=True)
    done = rlaif("rm", "second", "--yes")
    assert f"removed {left.parent}, left by" in done.stderr
    assert not left.parent.exists()
    assert not (root / "second").exists()


def test_a_damaged_run_hides_no_other(rlaif: Callable[..., Result], root: Path) -> None:
    (root / "first" / "run.json").write_text("{")
    listed = rlaif("list")
    assert listed.exit_code == 0
    assert "run.json cannot be read" in listed.stderr
    assert "second" in listed.stdout


@pytest.mark.parametrize("record", ["{", "[1]", '{"config": null}', "3"])
def test_a_record_of_another_shape_hides_no_other(
    record: str, rlaif: Callable[..., Result], root: Path
) -> None:
    (root / "foreign").mkdir()
    (root / "foreign" / "run.json").write_text(record)
    listed = rlaif("list")
    assert listed.exit_code == 0
    assert "run.json cannot be read" in listed.stderr
    assert "second" in listed.stdout
    assert rlaif("show", "first").exit_code == 0
    assert isinstance(rlaif("show", "foreign").exception, RunError)
    assert rlaif("rm", "second", "--yes").exit_code == 0


def test_a_damaged_stage_is_told_by_its_run_alone(rlaif: Callable[..., Result], root: Path) -> None:
    (root / "first" / "policy" / "stage.json").write_text("{}")
    assert "not a finished stage" in rlaif("list").stderr
    assert rlaif("show", "second").exit_code == 0


def test_where_every_run_is_damaged_list_fails(rlaif: Callable[..., Result], root: Path) -> None:
    for name in ("first", "second"):
        (root / name / "run.json").write_text("{")
    listed = rlaif("list")
    assert listed.exit_code == 1
    assert "no runs in" not in listed.stderr
