"""`make server`: Prefect's server, a worker and the watch process, with all deployments applied.

    python -m flows.serve --port 4200

Everything listens on loopback and keeps its data in runs/.prefect. What dies is started again;
Ctrl-C ends all of it, and what was under way goes on at the next start. Each process is a child
that cannot outlive this one, so that `kill -9` leaves nothing behind either.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import click

from flows.api import POOL
from flows.pages import REVIEW, pages
from flows.server import NOTE, OURS, Server, loopback_is_direct, taken
from rlaif.engine.child import Child
from rlaif.errors import ConfigError, EngineError, RlaifError

_TICK_S, _PAUSE_S, _PATIENCE_S = 0.5, 1.0, 15.0
_SETTINGS = {
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PREFECT_WORKER_QUERY_SECONDS": "3",
    # In memory, the default, a killed server forgets who holds a limit: it is never free again.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
        "prefect.server.concurrency.lease_storage.filesystem"
    ),
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": "2592000",  # seconds: 30 days
    "PREFECT_CLIENT_MAX_RETRIES": "8",  # a server that is started again is back by then
    "PYTHONUNBUFFERED": "1",
}


class Kept:
    """A child that is started again when it ends; `log` holds what it says."""

    def __init__(self, name: str, *command: str, home: Path) -> None:
        self.name, self._log = name, home / f"{name}.log"
        self._command = (sys.executable, "-m", *command)
        self._child = self._start()

    def _start(self) -> Child:
        return Child(self._command, os.environ, self._log, patience_s=_PATIENCE_S)

    def look(self) -> None:
        """Start it again if it has ended."""
        if (code := self._child.returncode) is not None:
            click.echo(f"{self.name} ended with {code} (see {self._log}); it is started again")
            time.sleep(_PAUSE_S)
            self._child = self._start()

    def stop(self) -> None:
        """End it and all that it started."""
        self._child.stop()


@click.command()
@click.option("--port", default=4200, show_default=True, help="Of the server; pages get the next.")
@click.option("--home", default="runs/.prefect", type=click.Path(path_type=Path), show_default=True)
@click.option("--runs", default="runs", type=click.Path(path_type=Path), show_default=True)
@click.option("--constitution", "laws", multiple=True, type=click.Path(), help="Watch this file.")
def main(port: int, home: Path, runs: Path, laws: tuple[str, ...]) -> None:
    """Serve until Ctrl-C."""
    home = home.absolute()
    home.mkdir(parents=True, exist_ok=True)
    with _alone(home):
        for busy in filter(taken, (port, port + 1)):
            raise ConfigError(
                f"port {busy} is taken",
                where="127.0.0.1",
                remedy=f"stop what listens there, or: make server ARGS='--port {port + 100}'",
            )
        loopback_is_direct()
        os.environ.update(OURS | _SETTINGS | dict(os.environ) | _own(home, port, runs))
        with _stopped() as stop, pages(runs, port + 1):
            _serve(port, home, runs, laws, stop)


def _own(home: Path, port: int, runs: Path) -> dict[str, str]:
    return {
        "PREFECT_HOME": str(home),
        "PREFECT_LOCAL_STORAGE_PATH": str(home / "storage"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "RLAIF_PAGES": f"http://127.0.0.1:{port + 1}",
        "RLAIF_REVIEW": f"http://127.0.0.1:{port + 1}/{{run}}/{REVIEW}",
        "RLAIF_RUNS": str(runs),
    }


def _serve(port: int, home: Path, runs: Path, laws: tuple[str, ...], stop: Event) -> None:
    click.echo("starting Prefect's server …")
    server = Server(port)
    kept: list[Kept] = []
    note = home / NOTE.name
    try:
        server.ready()
        click.echo("applying the deployments of prefect.yaml …")
        _apply(home)
        kept += _workers(home, runs, laws)
        note.write_text(server.url, "utf-8")
        click.echo(f"ready: http://127.0.0.1:{port}/deployments   (Ctrl-C ends everything)")
        while not stop.wait(_TICK_S):
            if not server.up:
                click.echo("the server ended; it is started again")
                server.stop()
                server = Server(port)
            for child in kept:
                child.look()
    finally:
        note.unlink(missing_ok=True)
        for child in kept:
            child.stop()
        server.stop()
        click.echo("stopped; what was under way goes on at the next start")


def _apply(home: Path) -> None:
    """In a process of its own, so that this one stays small."""
    log = home / "apply.log"
    child = Child((sys.executable, "-m", "flows.apply"), os.environ, log)
    try:
        while child.returncode is None:
            time.sleep(_TICK_S)
        if child.returncode:
            said = child.log_end()
            raise EngineError(f"the deployments were not applied:\n{said}", where=str(log))
    finally:
        child.stop()


def _workers(home: Path, runs: Path, laws: tuple[str, ...]) -> list[Kept]:
    worker = ("prefect", "worker", "start", "--pool", POOL, "--type", "process")
    watched = [part for law in laws for part in ("--constitution", law)]
    return [
        Kept("worker", *worker, "--name", platform.node(), home=home),
        Kept("watch", "flows.watch", "--runs", str(runs), *watched, home=home),
    ]


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One server for a folder of data."""
    with (home / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            url = (home / NOTE.name).read_text("utf-8") if (home / NOTE.name).is_file() else "?"
            raise ConfigError(
                f"a server is up already, at {url.removesuffix('/api')}",
                where=str(home),
                remedy="use that one, or stop it with Ctrl-C",
            ) from None
        yield


@contextlib.contextmanager
def _stopped() -> Iterator[Event]:
    """Set by Ctrl-C and SIGTERM; a second one is not waited for."""
    stop = Event()

    def told(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        raise click.exceptions.Exit(0)

    before = {number: signal.signal(number, told) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except RlaifError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
