"""A Prefect server of our own, on loopback: a child that cannot outlive us, its log in a file.

`rlaif run` starts the quick kind (no pages, no background services) while it reads the config;
`make server` (flows/serve.py) the whole one. This module imports no Prefect: importing it takes as
long as the server takes to start.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

from rlaif.engine.child import Child
from rlaif.errors import EngineError, RlaifError

OURS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "rlaif",  # the library's log is the flow run's log
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}
"""For every process that runs Prefect; what the user has set there wins."""

QUICK = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}
_COMMAND = ("-m", "flows.prefect_server", "--factory", "prefect.server.api.server:create_app")
_STARTUP_S, _POLL_S, _PATIENCE_S = 900.0, 0.05, 8.0  # a machine may be very busy
_SAY_S = 5.0
NOTE = Path("runs/.prefect/url")
"""Where `make server` says that it is up."""


def loopback_is_direct() -> None:
    """Ask a proxy for nothing on this machine: neither we, nor Prefect, nor our children."""
    for name in ("no_proxy", "NO_PROXY"):
        known = os.environ.get(name, "")
        ours = [host for host in ("127.0.0.1", "localhost") if host not in known.split(",")]
        os.environ[name] = ",".join([*filter(None, [known]), *ours])


def prefect_home() -> Path:
    """Where Prefect keeps its data."""
    return Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()


def found() -> str | None:
    """The API that somebody runs: named in the environment, in the Prefect profile in use, or that
    of `make server`."""
    if url := os.environ.get("PREFECT_API_URL"):
        return url
    return _in_profile(prefect_home() / "profiles.toml") or _noted()


def _in_profile(path: Path) -> str | None:
    try:
        told = tomllib.loads(path.read_text("utf-8"))
        active = os.environ.get("PREFECT_PROFILE", told.get("active", ""))
        return told["profiles"][active].get("PREFECT_API_URL")
    except (OSError, ValueError, KeyError):
        return None


def _noted() -> str | None:
    try:
        url = NOTE.read_text("utf-8").strip()
    except OSError:
        return None
    return url if url and healthy(url) else None


def healthy(url: str) -> bool:
    """Whether the API at this URL answers."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return answer.status == 200
    except (URLError, OSError, ValueError):
        return False


def free_port() -> int:
    """A loopback port that nobody uses now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def taken(port: int) -> bool:
    """Whether something listens there."""
    with socket.socket() as knock:
        knock.settimeout(2)
        return knock.connect_ex(("127.0.0.1", port)) == 0


class Server:
    """A Prefect server, which starts at once and is waited for with `ready`."""

    def __init__(self, port: int | None = None, *, quick: bool = False) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        home = prefect_home()
        home.mkdir(parents=True, exist_ok=True)
        command = (sys.executable, *_COMMAND, "--host", "127.0.0.1", "--port", str(self.port))
        env = OURS | os.environ | {"PREFECT_API_URL": self.url} | (QUICK if quick else {})
        env.setdefault("PREFECT_LOCAL_STORAGE_PATH", str(home / "storage"))
        self._child = Child(
            (*command, "--log-level", "error", "--lifespan", "on"),
            env,
            home / "server.log",
            patience_s=_PATIENCE_S,
        )

    @property
    def up(self) -> bool:
        """Whether its process lives."""
        return self._child.returncode is None

    def ready(self, waiting: Callable[[], object] = lambda: None) -> str:
        """Wait for it; the URL of its API. `waiting` is called after some seconds, once.

        Raises:
            EngineError: it died or did not come up.
        """
        began, told = time.monotonic(), False
        while not healthy(self.url):
            if not told and time.monotonic() > began + _SAY_S:
                waiting()
                told = True
            if not self.up or time.monotonic() > began + _STARTUP_S:
                raise self._failed()
            time.sleep(_POLL_S)
        return self.url

    def _failed(self) -> RlaifError:
        said, home = self._child.log_end(), prefect_home()
        self.stop()
        remedy = f"read {home / 'server.log'}; PREFECT_HOME names another folder for its data"
        return EngineError(
            f"Prefect's server did not start; the end of its log:\n{said}",
            where=self.url,
            remedy=remedy,
        )

    def stop(self) -> None:
        """End it and all that it started."""
        self._child.stop()


@contextmanager
def without_pandas() -> Iterator[None]:
    """Import Prefect in two thirds of the time: it imports pandas, if there is one, only to make
    cache keys of data frames, and here nothing is cached."""
    if "pandas" in sys.modules:
        yield
        return
    sys.modules["pandas"] = None  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        del sys.modules["pandas"]


def deliver() -> None:
    """Hand what Prefect still holds back to the server, before that is stopped."""
    if "prefect.logging.handlers" not in sys.modules:
        return  # it came to nothing before Prefect was needed
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogHandler

    EventsWorker.drain_all(timeout=10)
    APILogHandler().flush()
