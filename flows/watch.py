"""Looks after what nobody waits for: constitutions that change, gates that open, runs that died.

    python -m flows.watch --constitution constitution --runs runs     # `make server` starts it

It looks at how things are, every few seconds, rather than trusting that it saw them happen: what
changed while it was down is found when it is up again. What it tells Prefect are events; the
triggers in prefect.yaml react to them.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from flows.api import Api
from flows.server import prefect_home
from rlaif.constitution import load
from rlaif.errors import RlaifError

log = logging.getLogger("rlaif.flows.watch")

POOL = "rlaif"
AWAITING = "awaiting.json"
"""In the folder of a run whose training waits for an audit (flows/gate.py)."""

TICK_MS = 3000
AGAIN_S = 600.0  # until an event that nobody acted upon is sent again
CRASHES, NEVER_BEGAN = 5, 2  # after so many, a run is left to a person
BACK_OFF_S = 5.0
PENDING_S = 60.0
OLD = timedelta(days=7)


@dataclass
class Watch:
    """What was seen so far. `laws` and `told` are kept in Prefect's folder."""

    api: Api
    laws: tuple[Path, ...]
    runs: Path
    home: Path = field(default_factory=prefect_home)

    def look(self) -> None:
        """Look at everything once; a server that does not answer is asked again next time."""
        for part in (self.constitutions, self.gates, self.dead, self.crashed):
            try:
                part()
            except OSError as error:
                log.debug("%s: %s", part.__name__, error)
            except RlaifError as error:
                log.warning("%s: %s", part.__name__, error)

    # --- constitutions --------------------------------------------------------------------------

    def constitutions(self) -> None:
        """`rlaif.constitution.changed` for each file whose meaning is another than last time."""
        kept = self._kept("laws.json")
        for path in _files(self.laws):
            try:
                law = load(path)
            except RlaifError as error:
                self._once(f"invalid {path}", str(error), kept)
                continue
            before = kept.get(str(path))
            if before == law.digest:
                continue
            if before:  # a file that was not known is not a change
                log.info("%s is now %s@%s", path, law.id, law.version)
                self.api.emit(
                    "rlaif.constitution.changed", f"rlaif.constitution.{law.id}",
                    path=str(path), version=str(law.version), digest=law.digest, before=before,
                )  # fmt: skip
            kept[str(path)] = law.digest
            self._keep("laws.json", kept)

    def _once(self, what: str, said: str, kept: dict[str, Any]) -> None:
        if kept.get(what) != said:
            log.warning("%s", said)
            kept[what] = said
            self._keep("laws.json", kept)

    # --- gates ----------------------------------------------------------------------------------

    def gates(self) -> None:
        """`rlaif.audit.passed` or `.failed` for each run that waits and need wait no longer.

        Sent again until the training has begun, which takes `awaiting.json` away.
        """
        from rlaif.audit import gate_state
        from rlaif.audit.told import sentence

        for note in self.runs.glob(f"*/{AWAITING}"):
            run, found = note.parent, gate_state(note.parent)
            passed = found.passed
            if not passed and found.state != "fail":
                continue
            told = self._kept("told.json")
            mark = f"{run.absolute()} {found.state} {found.labels}"
            if not self._due(told.get(mark), repeat=passed and not self._under_way(run)):
                continue
            self.api.emit(
                "rlaif.audit.passed" if passed else "rlaif.audit.failed", f"rlaif.run.{run.name}",
                run=str(run.absolute()), labels=found.labels, reason=sentence(found),
            )  # fmt: skip
            log.info("%s: the gate says %s: %s", run, found.state, sentence(found))
            told[mark] = datetime.now(UTC).isoformat()
            self._keep("told.json", told)

    def _due(self, told: str | None, *, repeat: bool) -> bool:
        if told is None:
            return True
        return repeat and _age(told).total_seconds() > AGAIN_S

    def _under_way(self, run: Path) -> bool:
        """Whether a flow is to go on with this run, or does."""
        going = self.api.runs(POOL, "SCHEDULED", "PENDING", "RUNNING")
        return any(r["parameters"].get("config_file") == str(run.absolute()) for r in going)

    # --- flow runs that died --------------------------------------------------------------------

    def dead(self) -> None:
        """Flow runs whose process on this machine is gone are crashed, whatever the server
        believes; those that never began are scheduled again."""
        for run in self.api.runs(POOL, "RUNNING", "PENDING", "CANCELLING"):
            alive = self.home / "alive" / run["id"]
            if run["state_type"] == "PENDING":
                self._pending(run, alive)
            elif alive.exists() and not _held(alive):
                ended = "CANCELLED" if run["state_type"] == "CANCELLING" else "CRASHED"
                self.api.set_state(run["id"], ended, ended.capitalize(), "its process is gone")
                alive.unlink(missing_ok=True)
                log.info("%s: its process is gone", run["name"])

    def _pending(self, run: dict[str, Any], alive: Path) -> None:
        since, pid = run["state"]["timestamp"], run["infrastructure_pid"]
        lost = not pid or not Path(f"/proc/{str(pid).split(':')[-1]}").exists()
        if lost and not alive.exists() and _age(since).total_seconds() > PENDING_S:
            self._again(run, "it never began", 0)

    def crashed(self) -> None:
        """A crashed flow run is tried again, some times: its run folder knows how far it was."""
        for run in self.api.runs(POOL, "CRASHED"):
            if _age(run["state"]["timestamp"]) > OLD:
                continue
            crashes = sum(s["type"] == "CRASHED" for s in self.api.states(run["id"]))
            if crashes < (CRASHES if run["run_count"] else NEVER_BEGAN):
                self._again(run, f"crashed {crashes} times", BACK_OFF_S * crashes)

    def _again(self, run: dict[str, Any], why: str, after_s: float) -> None:
        when = datetime.now(UTC) + timedelta(seconds=after_s)
        said = f"{why}; it goes on from what is finished"
        (self.home / "alive" / run["id"]).unlink(missing_ok=True)  # the next attempt makes its own
        self.api.set_state(run["id"], "SCHEDULED", "AwaitingRetry", said, scheduled_time=when)
        log.info("%s: %s", run["name"], said)

    # --- what is remembered ---------------------------------------------------------------------

    def _kept(self, name: str) -> dict[str, Any]:
        try:
            return json.loads((self.home / name).read_text("utf-8"))
        except (OSError, ValueError):
            return {}

    def _keep(self, name: str, value: dict[str, Any]) -> None:
        draft = self.home / f".{name}.tmp"
        draft.write_text(json.dumps(value, indent=1), "utf-8")
        draft.replace(self.home / name)


def _age(stamp: str) -> timedelta:
    return datetime.now(UTC) - datetime.fromisoformat(stamp)


def _held(path: Path) -> bool:
    """Whether a living process has its lock on this file."""
    with path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        return False


def _files(laws: Iterable[Path]) -> Iterable[Path]:
    for path in laws:
        yield from sorted(path.glob("*.yaml")) if path.is_dir() else [path.resolve()]


@click.command()
@click.option("--constitution", "laws", multiple=True, type=click.Path(path_type=Path))
@click.option("--runs", default="runs", type=click.Path(path_type=Path), show_default=True)
def main(laws: tuple[Path, ...], runs: Path) -> None:
    """Watch until stopped; PREFECT_API_URL says whom to tell."""
    from watchfiles import watch

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("rlaif.flows").setLevel(logging.INFO)
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    paths = tuple(path.resolve() for path in laws or (Path("constitution"),))
    seen = Watch(Api(os.environ["PREFECT_API_URL"]), paths, runs)
    seen.look()
    for _ in watch(*paths, stop_event=over, rust_timeout=TICK_MS, yield_on_timeout=True):
        seen.look()


if __name__ == "__main__":
    main()
