"""Runs: a stage is complete or absent, reused if made from the same, refused if not."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rlaif.config import RunConfig
from rlaif.config.policy import DpoConfig, OnlineConfig
from rlaif.config.run import CritiqueConfig, PromptsConfig, SourceConfig
from rlaif.errors import ConfigError, RunError
from rlaif.runs import Run, Work
from rlaif.stages import digest, stage_record

PROMPTS = PromptsConfig(sources=(SourceConfig(path=Path("p.jsonl")),))
CONFIG = RunConfig(name="r", constitution=Path("law.yaml"), model="m", prompts=PROMPTS)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with Run.open(CONFIG, root=tmp_path) as opened:
        yield opened


def writes(text: str, seen: list[str] | None = None) -> Work:
    def work(into: Path) -> dict[str, int]:
        if seen is not None:
            seen.append(text)
        (into / "rows.jsonl").write_text(text)
        return {"rows": len(text)}

    return work


def test_a_stage_leaves_its_files_metrics_and_lineage(run: Run) -> None:
    done = run.stage("critique", CritiqueConfig(rounds=2), writes("abc"), law="d1")
    record = stage_record(done)
    assert (done / "rows.jsonl").read_text() == "abc"
    assert json.loads((done / "metrics.json").read_text()) == {"rows": 3} == record["metrics"]
    assert record["made_from"]["section"]["rounds"] == 2
    assert record["made_from"]["inputs"] == {"law": "d1"}
    assert list(record["outputs"]) == ["rows.jsonl"]
    assert not list(run.folder.glob(".*.partial"))
    about = json.loads((run.folder / "run.json").read_text())
    assert about["config"]["name"] == "r"
    assert "torch" in about["packages"]


def test_made_from_the_same_is_reused(run: Run) -> None:
    seen: list[str] = []
    for _ in range(2):
        run.stage("critique", CritiqueConfig(), writes("abc", seen), law="d1")
    assert seen == ["abc"]


@pytest.mark.parametrize(
    ("section", "law", "changed"),
    [(CritiqueConfig(rounds=1), "d1", "rounds"), (CritiqueConfig(), "d2", "law")],
)
def test_made_from_something_else_is_an_error_with_a_remedy(
    tmp_path: Path, section: CritiqueConfig, law: str, changed: str
) -> None:
    with Run.open(CONFIG, root=tmp_path) as run:
        run.stage("critique", CritiqueConfig(), writes("abc"), law="d1")
    with Run.open(CONFIG, root=tmp_path) as run:
        with pytest.raises(RunError, match=f"from something else: {changed}") as caught:
            run.stage("critique", section, writes("new"), law=law)
        assert "--fresh critique" in caught.value.remedy
        assert (run.folder / "critique" / "rows.jsonl").read_text() == "abc"


def test_fresh_makes_a_stage_anew_and_what_follows_from_it(tmp_path: Path) -> None:
    def both(run: Run, text: str) -> str:
        first = run.stage("critique", CritiqueConfig(), writes(text))
        return (
            run.stage("finetune", None, writes(text * 2), chains=first) / "rows.jsonl"
        ).read_text()

    with Run.open(CONFIG, root=tmp_path) as run:
        assert both(run, "a") == "aa"
    with Run.open(CONFIG, root=tmp_path, fresh=["critique"]) as run:
        assert both(run, "b") == "bb"
    with Run.open(CONFIG, root=tmp_path, fresh=["critique"]) as run:  # the same comes out of it
        assert both(run, "b") == "bb"
        assert stage_record(run.folder / "finetune")["made_from"]["inputs"]["chains"] == digest(
            run.folder / "critique"
        )


def test_a_stage_that_is_half_removed_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Run.open(CONFIG, root=tmp_path) as run:
        run.stage("critique", CritiqueConfig(), writes("abc"))
    remove = os.unlink

    def unlink(name: Any, **where: Any) -> None:
        if str(name).endswith("metrics.json"):
            raise KeyboardInterrupt
        remove(name, **where)

    with Run.open(CONFIG, root=tmp_path, fresh=["critique"]) as run:
        monkeypatch.setattr(os, "unlink", unlink)
        with pytest.raises(KeyboardInterrupt):
            run.stage("critique", CritiqueConfig(), writes("new"))
        monkeypatch.undo()
        assert not (run.folder / "critique").exists()
    with Run.open(CONFIG, root=tmp_path) as run:
        done = run.stage("critique", CritiqueConfig(), writes("new"))
        assert (done / "rows.jsonl").read_text() == "new"
        assert not list(run.folder.glob(".critique*"))


@pytest.mark.parametrize(
    ("stage", "remedy"),
    [("policy-1", "policy"), ("preferences-2", "preferences"), ("audit", "audit")],
)
def test_the_remedy_is_one_that_can_be_followed(stage: str, remedy: str, tmp_path: Path) -> None:
    with Run.open(CONFIG, root=tmp_path) as run:
        run.stage(stage, None, writes("a"), law="d1")
    with (
        Run.open(CONFIG, root=tmp_path) as run,
        pytest.raises(RunError, match="from something else: law") as caught,
    ):
        run.stage(stage, None, writes("b"), law="d2")
    assert f"--fresh {remedy} makes" in caught.value.remedy
    with Run.open(CONFIG, root=tmp_path, fresh=[remedy]) as run:
        assert (run.stage(stage, None, writes("b"), law="d2") / "rows.jsonl").read_text() == "b"


def test_fresh_wants_the_name_of_a_stage(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="no stage is called 'critic'"),
        Run.open(CONFIG, root=tmp_path, fresh=["critic"]),
    ):
        pass


def test_how_a_training_is_launched_does_not_matter(run: Run) -> None:
    config = CONFIG.finetune
    first = run.stage("finetune", config, writes("a"))
    again = config.model_copy(update={"launch": ("--num_processes=8",), "save_every": 7})
    assert run.stage("finetune", again, writes("b")) == first
    assert (first / "rows.jsonl").read_text() == "a"


def test_where_curves_go_does_not_matter_at_any_depth(run: Run) -> None:
    seen: list[str] = []
    for section in (DpoConfig(), OnlineConfig()):
        name = section.kind
        first = run.stage(name, section, writes("a", seen))
        record = json.loads((first / "stage.json").read_text())
        assert "report_to" not in json.dumps(record["made_from"])
        older = section.model_dump(mode="json")  # as it was recorded by an earlier version
        record["made_from"]["section"] = older
        (first / "stage.json").write_text(json.dumps(record))
        seen.clear()
        board = {"report_to": ("tensorboard",)}
        inner = section.dpo.model_copy(update=board) if section.kind == "online" else None
        again = section.model_copy(update={"dpo": inner} if inner else board)
        assert run.stage(name, again, writes("b", seen)) == first
        assert not seen


def test_an_attempt_of_an_earlier_version_is_gone_on_with(run: Run) -> None:
    (run.folder / ".policy.partial").mkdir()
    older = {"seed": 0, "section": DpoConfig().model_dump(mode="json"), "inputs": {}}
    (run.folder / ".policy.partial" / "made_from.json").write_text(json.dumps(older))
    (run.folder / ".policy.partial" / "checkpoint").write_text("half")
    section = DpoConfig(report_to=("tensorboard",))
    assert (run.stage("policy", section, writes("a")) / "checkpoint").is_file()


def test_an_interrupted_attempt_is_gone_on_with_if_it_is_the_same(tmp_path: Path) -> None:
    def breaks(into: Path) -> dict[str, int]:
        (into / "checkpoint").write_text("half")
        raise KeyboardInterrupt

    def goes_on(into: Path) -> dict[str, int]:
        (into / "rows.jsonl").write_text(str((into / "checkpoint").exists()))
        return {}

    for section, resumed in ((CritiqueConfig(), "True"), (CritiqueConfig(rounds=1), "False")):
        with Run.open(CONFIG, root=tmp_path) as run:
            with pytest.raises(KeyboardInterrupt):
                run.stage("critique", CritiqueConfig(), breaks)
            assert not (run.folder / "critique").exists()
            done = run.stage("critique", section, goes_on)
            assert (done / "rows.jsonl").read_text() == resumed
            done.rename(tmp_path / f"kept {resumed}")


def test_a_full_disk_has_a_remedy(run: Run) -> None:
    def full(into: Path) -> dict[str, int]:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunError, match="the disk is full") as caught:
        run.stage("critique", CritiqueConfig(), full)
    assert "start the same command again" in caught.value.remedy
    assert (run.stage("critique", CritiqueConfig(), writes("a")) / "rows.jsonl").exists()


def test_a_disk_that_is_full_before_a_stage_begins_has_a_remedy(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as inside:
        inside.setattr(Path, "write_text", full)
        with pytest.raises(RunError, match="the disk is full"):
            run.stage("critique", CritiqueConfig(), writes("a"))
    monkeypatch.setattr(os, "getpid", full)  # as the write of it fails
    other = CONFIG.model_copy(update={"name": "other"})
    with pytest.raises(RunError, match="the disk is full"), Run.open(other, root=run.folder):
        pass


def test_a_damaged_record_has_a_remedy(run: Run) -> None:
    done = run.stage("critique", CritiqueConfig(), writes("a"))
    (done / "stage.json").write_text("{")
    with pytest.raises(RunError, match="not a finished stage") as caught:
        run.stage("critique", CritiqueConfig(), writes("a"))
    assert "--fresh critique" in caught.value.remedy
    (done / "stage.json").write_text("{}")
    with pytest.raises(RunError, match="not a finished stage"):
        run.stage("critique", CritiqueConfig(), writes("a"))
    run.fresh.add("critique")
    run.stage("critique", CritiqueConfig(), writes("a"))
    assert stage_record(done)["stage"] == "critique"


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with (
        pytest.raises(RunError, match="cannot be written"),
        Run.open(CONFIG, root=tmp_path / "file"),
    ):
        pass
    (tmp_path / CONFIG.name / ".lock").mkdir(parents=True)
    with (
        pytest.raises(RunError, match="cannot be written") as caught,
        Run.open(CONFIG, root=tmp_path),
    ):
        pass
    assert "may write" in caught.value.remedy


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        Run.open(CONFIG, root=tmp_path),
        pytest.raises(RunError, match=f"another process \\({os.getpid()} on "),
        Run.open(CONFIG, root=tmp_path),
    ):
        pass
    with Run.open(CONFIG, root=tmp_path):  # given back
        pass


KILLED = """
import sys, time
from pathlib import Path
from rlaif.runs import Run
from tests.test_runs import CONFIG, CritiqueConfig

def work(into):
    for n in range(200):
        (into / f"{n}.txt").write_text(str(n))
        print("at work", flush=True)
        time.sleep(0.005)
    return {}

with Run.open(CONFIG, root=Path(sys.argv[1])) as run:
    run.stage("critique", CritiqueConfig(), work)
"""


def test_kill_9_leaves_no_half_stage_and_no_lock(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout
    assert child.stdout.readline() == "at work\n"
    time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    with Run.open(CONFIG, root=tmp_path) as run:
        assert not (run.folder / "critique").exists()
        assert (run.stage("critique", CritiqueConfig(), writes("a")) / "0.txt").exists()


# --- attempts and versions ------------------------------------------------------------------------


def forget(run: Run, stage: str, key: str) -> None:
    """Let the stage have been made by a version that did not know this option."""
    path = run.folder / stage / "stage.json"
    record = json.loads(path.read_text())
    del record["made_from"]["section"][key]
    path.write_text(json.dumps(record))


def test_an_option_of_a_later_version_makes_no_difference_as_it_is_by_default(
    tmp_path: Path,
) -> None:
    seen: list[str] = []
    with Run.open(CONFIG, root=tmp_path) as run:
        run.stage("critique", CritiqueConfig(), writes("abc", seen), law="d1")
        forget(run, "critique", "direct")
    with Run.open(CONFIG, root=tmp_path) as run:
        run.stage("critique", CritiqueConfig(), writes("abc", seen), law="d1")
        assert seen == ["abc"]
        assert run.is_made_from("critique", CritiqueConfig(), {"law": "d1"})
        with pytest.raises(RunError, match="something else: direct"):
            run.stage("critique", CritiqueConfig(direct=True), writes("abc"), law="d1")


def test_a_later_attempt_makes_fresh_stages_once(tmp_path: Path) -> None:
    def attempt(since: datetime | None) -> list[str]:
        seen: list[str] = []
        with Run.open(CONFIG, root=tmp_path, fresh=["critique"], since=since) as run:
            first = run.stage("critique", None, writes(f"{since}", seen))
            if len(seen) == 0 or since is None:
                run.stage("finetune", None, writes("weights", seen), chains=first)
        return seen

    assert attempt(None) == ["None", "weights"]
    began = datetime.now(UTC) + timedelta(seconds=2)
    time.sleep(2.1)
    with Run.open(CONFIG, root=tmp_path, fresh=["critique"], since=began) as run:
        run.stage("critique", None, writes("anew"))  # and then it is killed
    assert attempt(began) == ["weights"]  # made from the new chains, and not refused


def test_as_it_stood_a_stage_is_no_older_for_an_edited_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = tmp_path / "mine.jsonl"
    prompts.write_text("one")
    given: dict[str, Path | str] = {"source 0": prompts, "prompts/draft.j2": "d1"}
    with Run.open(CONFIG, root=tmp_path) as run:
        run.stage("prompts", None, writes("abc"), **given)
    prompts.write_text("two")
    given["prompts/draft.j2"] = "d2"
    with Run.open(CONFIG, root=tmp_path) as run, pytest.raises(RunError, match="source 0"):
        run.stage("prompts", None, writes("abc"), **given)
    with Run.open(CONFIG, root=tmp_path, as_it_stood=True) as run:
        seen: list[str] = []
        run.stage("prompts", None, writes("abc", seen), **given)
        assert not seen
        assert "source 0" in caplog.text
        with pytest.raises(RunError, match="something else: judge"):
            run.stage("prompts", None, writes("abc"), **given, judge="another")
