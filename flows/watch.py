"""Looks after what nobody waits for: constitutions that change, gates that open, runs that died.

    python -m flows.watch --constitution constitution --runs runs     # `make server` starts it

It looks at how things are, every few seconds, rather than trusting that it saw them happen: what
changed while it was down is found when it is up again. What it tells Prefect are events; the
triggers in prefect.yaml react to them.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError

import click

from flows.api import Api, url
from flows.server import prefect_home
from rlaif.audit import AWAITING
from rlaif.constitution import load
from rlaif.errors import RlaifError
from rlaif.runs import held

T = TypeVar("T")
log = logging.getLogger("rlaif.flows.watch")

ENDED = {"fail": "failed", "inconclusive": "inconclusive", "pass": "held"}
"""What an audit has come to that does not let training begin."""

NO_ANSWER = (URLError, ConnectionError, TimeoutError)
"""What `Api` raises where the server does not answer."""

TICK_MS = 3000
AGAIN_S, TIMES = 600.0, 6  # until an event that nobody acted upon is sent again, and how often
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
    several: bool = False
    """Flow runs begin on other machines as well, whose processes cannot be seen from here."""

    def __post_init__(self) -> None:
        self._memory: dict[str, dict[str, Any]] = {}  # of what the disk had no room for
        self._said: dict[str, str] = {}

    def look(self) -> None:
        """Look at everything once. What fails is told of, once; a server that does not answer is
        asked again next time."""
        for part in (self.constitutions, self.gates, self.dead, self.crashed):
            try:
                part()
            except HTTPError as error:
                hint = " (PREFECT_API_AUTH_STRING is its password)" if error.code == 401 else ""
                self._complain(part.__name__, f"Prefect's server says {error.code}{hint}")
            except NO_ANSWER as error:
                log.debug("%s: %s", part.__name__, error)
            except Exception as error:
                self._complain(part.__name__, repr(error))

    def _each(self, items: Iterable[T], name: Callable[[T], str], act: Callable[[T], None]) -> None:
        """One that fails is told of, once, and keeps no other from its turn.

        Raises:
            OSError: the server does not answer.
        """
        for item in items:
            try:
                act(item)
                self._said.pop(name(item), None)
            except (HTTPError, RlaifError) as error:
                self._complain(name(item), str(error))
            except NO_ANSWER:
                raise
            except Exception as error:
                self._complain(name(item), repr(error))

    def _complain(self, what: str, said: str) -> None:
        if self._said.get(what) != said:
            self._said[what] = said
            log.warning("%s: %s", what, said)

    # --- constitutions --------------------------------------------------------------------------

    def constitutions(self) -> None:
        """`rlaif.constitution.changed` for each file whose meaning is another than last time."""
        self._each(_files(self.laws), str, self._constitution)

    def _constitution(self, path: Path) -> None:
        law, kept = load(path), self._kept("laws.json")
        before = kept.get(str(path))
        if before == law.digest:
            return
        if before:  # a file that was not known is not a change
            log.info("%s is now %s@%s", path, law.id, law.version)
            self.api.emit(
                "rlaif.constitution.changed", f"rlaif.constitution.{law.id}",
                path=str(path), version=str(law.version), digest=law.digest, before=before,
            )  # fmt: skip
        self._keep("laws.json", kept | {str(path): law.digest})

    # --- gates ----------------------------------------------------------------------------------

    def gates(self) -> None:
        """`rlaif.audit.passed`, `.failed`, `.inconclusive` or `.held` for each run that waits, once
        its audit has come to that.

        `passed` is sent again until the training has begun, which takes `awaiting.json` away.
        """
        waiting = sorted(note.parent for note in self.runs.glob(f"*/{AWAITING}"))
        self._each(waiting, str, self._waiting)

    def _waiting(self, run: Path) -> None:
        from rlaif.audit import gate_state
        from rlaif.audit.told import sentence

        found = gate_state(run)
        if found.state == "open":
            return
        ended = "passed" if found.passed else ENDED[found.state]
        kept, mark = self._kept("told.json"), f"{run.absolute()} {ended} {found.labels}"
        times = kept.get(mark, [])
        if times and not (found.passed and self._unanswered(run, times)):
            return
        asked = json.loads((run / AWAITING).read_text("utf-8"))
        self.api.emit(
            f"rlaif.audit.{ended}", f"rlaif.run.{run.name}", run=str(run.absolute()),
            labels=found.labels, reason=sentence(found), until=asked["until"],
            shards=asked["shards"],
        )  # fmt: skip
        log.info("%s: the audit has %s: %s", run, ended, sentence(found))
        self._keep("told.json", kept | {mark: [*times, datetime.now(UTC).isoformat()]})

    def _unanswered(self, run: Path, times: list[str]) -> bool:
        """Whether it is time to say again what was said at these times, for nobody acts upon it."""
        if len(times) >= TIMES or _age(times[-1]).total_seconds() < AGAIN_S:
            return False
        going = self.api.runs("SCHEDULED", "PENDING", "RUNNING")
        return all(r["parameters"].get("config_file") != str(run.absolute()) for r in going)

    # --- flow runs that died --------------------------------------------------------------------

    def dead(self) -> None:
        """Flow runs whose process on this machine is gone are crashed, whatever the server
        believes; those that never began are scheduled again."""
        self._each(self.api.runs("RUNNING", "PENDING", "CANCELLING"), _called, self._dead)

    def _dead(self, run: dict[str, Any]) -> None:
        alive = self.home / "alive" / run["id"]
        if run["state_type"] == "PENDING":
            self._pending(run, alive)
        elif held(alive) is False:
            ended = "CANCELLED" if run["state_type"] == "CANCELLING" else "CRASHED"
            self.api.set_state(run["id"], ended, ended.capitalize(), "its process is gone")
            alive.unlink(missing_ok=True)
            log.info("%s: its process is gone", run["name"])

    def _pending(self, run: dict[str, Any], alive: Path) -> None:
        since, pid = run["state"]["timestamp"], run["infrastructure_pid"]
        here = pid and not self.several
        lost = not pid or (here and not Path(f"/proc/{str(pid).split(':')[-1]}").exists())
        if lost and not alive.exists() and _age(since).total_seconds() > PENDING_S:
            self._again(run, "it never began", 0)

    def crashed(self) -> None:
        """A crashed flow run is tried again, some times: its run folder knows how far it was."""
        lately = [r for r in self.api.runs("CRASHED") if _age(r["state"]["timestamp"]) < OLD]
        self._each(lately, _called, self._crashed)

    def _crashed(self, run: dict[str, Any]) -> None:
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
        if name in self._memory:
            return self._memory[name]
        try:
            return json.loads((self.home / name).read_text("utf-8"))
        except (OSError, ValueError):
            return {}

    def _keep(self, name: str, value: dict[str, Any]) -> None:
        """On disk; where that is full, in memory, so that nothing is told again and again."""
        draft = self.home / f".{name}.tmp"
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(value, indent=1), "utf-8")
            draft.replace(self.home / name)
            self._memory.pop(name, None)
        except OSError as error:
            self._memory[name] = value
            self._complain(name, f"{error}; it is remembered until the watch process ends")


def _called(run: dict[str, Any]) -> str:
    return f"flow run {run['name']}"


def _age(stamp: str) -> timedelta:
    return datetime.now(UTC) - datetime.fromisoformat(stamp)


def _files(laws: Iterable[Path]) -> Iterable[Path]:
    for path in laws:
        yield from sorted(path.glob("*.yaml")) if path.is_dir() else [path.resolve()]


def _folder(path: Path) -> Path:
    """Where a change to it is seen, also of a file that editors replace, or that is still to
    come."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


@click.command()
@click.option("--constitution", "laws", multiple=True, type=click.Path(path_type=Path))
@click.option("--runs", default="runs", type=click.Path(path_type=Path), show_default=True)
@click.option("--several", is_flag=True, help="Workers on other machines serve this server, too.")
def main(laws: tuple[Path, ...], runs: Path, several: bool) -> None:
    """Watch until stopped; PREFECT_API_URL says whom to tell."""
    from watchfiles import watch

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("rlaif.flows").setLevel(logging.INFO)
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    paths = tuple(path.resolve() for path in laws or (Path("constitution"),))
    seen = Watch(Api(url()), paths, runs, several=several)
    seen.look()
    how = {"recursive": False, "rust_timeout": TICK_MS, "yield_on_timeout": True}
    for _ in watch(*map(_folder, paths), stop_event=over, **how):
        seen.look()


if __name__ == "__main__":
    try:
        main()
    except RlaifError as error:
        sys.exit(f"error: {error}")
