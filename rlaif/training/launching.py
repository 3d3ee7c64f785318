"""The stage's side of a training: start it, show its progress, pass on its result or its error."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlaif import errors
from rlaif.config.section import TrainerConfig
from rlaif.engine.child import Child
from rlaif.errors import RlaifError, RunError, TrainingFailed

JOB, RESULT, ERROR, PROGRESS = "job.json", "result.json", "error.json", "progress.json"
LOG, CHECKPOINTS, EXAMPLES = "train.log", "checkpoints", "examples"
DISK_FULL = errno.ENOSPC  # the exit status where not even an error can be written

_PATIENCE_S = 20.0  # for a last checkpoint, when the training is stopped
_POLL_S = 0.1

_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONSAFEPATH": "1",  # no module is taken from the folder where we happen to be
}

_NO_MEMORY = ("CUDA out of memory", "OutOfMemoryError", "can't allocate memory", "MemoryError")
_SAVING = (
    "set a smaller micro_batch (the result stays the same), a smaller max_length, or `lora: {}`"
)
_REMEDIES = (
    (
        ("CUDA error", "NCCL"),
        "the GPU failed; start the same command again: it goes on from the last checkpoint",
    ),
    (("No module named",), "a package is missing: `make setup`, or pip install 'rlaif[train]'"),
    (("outgoing traffic has been disabled", "LocalEntryNotFoundError"), "the hub is off: unset "
     "HF_HUB_OFFLINE, or name a folder"),
)  # fmt: skip


def train(entry: str, into: Path, config: TrainerConfig, **given: Any) -> dict[str, Any]:
    """Train in a child process and return the metrics; `given` is what `job(into)` has beside
    `config`, paths as text.

    A folder with checkpoints is an interrupted training, which goes on. What only the training
    needs is gone at the end: its job, its examples and its checkpoints.

    Raises:
        TrainingFailed: the training ended without a result.
        RlaifError: what the training itself raised.
    """
    into.mkdir(parents=True, exist_ok=True)
    told = {"config": config.model_dump(mode="json"), **given}
    (into / JOB).write_text(json.dumps(told, default=_text), "utf-8")
    if not (into / RESULT).is_file():
        launch(entry, into, args=config.launch)
    if not (into / RESULT).is_file():
        raise TrainingFailed("it left no result", where=entry, remedy=f"read {into / LOG}")
    metrics = json.loads((into / RESULT).read_text("utf-8"))
    for name in (CHECKPOINTS, EXAMPLES):
        shutil.rmtree(into / name, ignore_errors=True)
    for name in (JOB, PROGRESS, RESULT):  # the result last: with it, all is done
        (into / name).unlink(missing_ok=True)
    return metrics


def launch(entry: str, folder: Path, *, args: Sequence[str] = (), saving: str = _SAVING) -> None:
    """Call `entry` ("module:function") with `folder` in a child process, and wait for its end.

    With `args` the child is `accelerate launch ARGS`. It cannot outlive us, however we die; when we
    are stopped it has some seconds for a checkpoint. Its output is in FOLDER/train.log. `saving`
    is the remedy where memory is full.

    Raises:
        RlaifError: the function raised it; here it is the same.
        TrainingFailed: it failed in another way; the message has the end of its log.
        RunError: the disk is full.
    """
    folder = folder.resolve()
    (folder / ERROR).unlink(missing_ok=True)
    child = Child(
        _command(entry, folder, args),
        _environment(args),
        folder / LOG,
        patience_s=_PATIENCE_S,
    )
    try:
        _watch(child, folder, entry)
    finally:
        child.stop()
    if child.returncode:
        raise _failure(child, child.returncode, folder, entry, saving)


def job(folder: Path) -> dict[str, Any]:
    """What the stage asked for: `config` and the rest, as JSON."""
    return json.loads((folder / JOB).read_text("utf-8"))


def finish(folder: Path, metrics: dict[str, Any]) -> None:
    """Leave the metrics for the stage; of several processes, the first one does."""
    if os.environ.get("RANK", "0") == "0":
        write_whole(folder / RESULT, metrics)


def write_whole(path: Path, value: object) -> None:
    """Write JSON so that a reader finds all of it or the version before."""
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    draft.write_text(json.dumps(value), "utf-8")
    draft.replace(path)


def _text(value: object) -> str:
    if isinstance(value, Path):
        return str(value.resolve())
    raise TypeError(f"{value!r} is no JSON")


def _command(entry: str, folder: Path, args: Sequence[str]) -> list[str]:
    accelerate = ["-m", "accelerate.commands.launch", *args] if args else []
    return [sys.executable, *accelerate, "-m", "rlaif.training", entry, str(folder)]


def _environment(args: Sequence[str]) -> dict[str, str]:
    """Ours, with a single GPU for a single process: TRL refuses several (nn.DataParallel)."""
    env = _ENVIRONMENT | os.environ
    if not args:
        env["CUDA_VISIBLE_DEVICES"] = env.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return env


def _watch(child: Child, folder: Path, entry: str) -> None:
    """Wait for the end, behind a bar that shows what the training says of its steps."""
    from tqdm import tqdm

    what = entry.split(":")[0].removeprefix("rlaif.")
    with tqdm(desc=what, unit=" steps", disable=None, leave=False) as bar:
        while child.returncode is None:
            if not bar.disable and (folder / PROGRESS).is_file():
                said = json.loads((folder / PROGRESS).read_text("utf-8"))
                bar.total, bar.n = said["total"], said["step"]
                bar.set_postfix_str(said["text"])
            time.sleep(_POLL_S)


def _failure(child: Child, code: int, folder: Path, entry: str, saving: str) -> RlaifError:
    if told := _told(folder):
        return told
    end = child.log_end()
    if code == DISK_FULL or "No space left on device" in end:
        remedy = "make room and start the same command again: it goes on from the last checkpoint"
        return RunError("the disk is full", where=str(folder), remedy=remedy)
    return TrainingFailed(
        f"the training failed (exit status {code}); the end of its log:\n{end}",
        where=entry,
        remedy=_remedy(end, code, folder / LOG, saving),
    )


def _told(folder: Path) -> RlaifError | None:
    """The error that the training raised on purpose, if it did."""
    try:
        told = json.loads((folder / ERROR).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    kind = getattr(errors, told["kind"])
    return kind(told["what"], where=told["where"], remedy=told["remedy"])


def _remedy(log: str, code: int, path: Path, saving: str) -> str:
    if any(mark in log for mark in _NO_MEMORY):
        return f"memory is full: {saving}"
    for marks, advice in _REMEDIES:
        if any(mark in log for mark in marks):
            return advice
    if code in (137, -9):
        return (
            f"it was killed, most likely for want of memory: {saving}; started again, it goes on "
            "from the last checkpoint"
        )
    return f"read {path}; started again, it goes on from the last checkpoint"
