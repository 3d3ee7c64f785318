"""`serving`: a real vLLM server for as long as a `with` block lasts, and nothing left after it."""

from __future__ import annotations

import http.client
import logging
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from rlaif.config.engine import EngineConfig
from rlaif.engine import launch
from rlaif.engine.child import Child
from rlaif.engine.client import Engine
from rlaif.engine.model import check_servable
from rlaif.errors import EngineError, ServerDied

log = logging.getLogger(__name__)

_PORT_TRIES = 3
_POLL_S = 0.1


@contextmanager
def serving(config: EngineConfig) -> Iterator[Engine]:
    """An `Engine` whose model is served: by `base_urls` if there are any, else by our own vLLM.

    Our own server listens on a free loopback port and is gone, with all its processes, when the
    block ends or this process does, however it ends. Raises ServerDied with the end of its log if
    it does not come up or dies later.
    """
    if config.base_urls:
        for url in config.base_urls:
            _check_health(url, config)
        yield Engine(config)
        return
    check_servable(config)
    launch.check_installed()
    with _log_file(config) as logfile, _started(config, logfile) as (child, port):
        yield Engine(
            config,
            (f"http://127.0.0.1:{port}",),
            check_alive=lambda: _check_alive(child, "the server died while it was in use"),
        )


@contextmanager
def _log_file(config: EngineConfig) -> Iterator[Path]:
    if config.logs is None:
        with tempfile.TemporaryDirectory(prefix="rlaif-engine-") as folder:
            yield Path(folder) / "vllm.log"
        return
    config.logs.mkdir(parents=True, exist_ok=True)
    yield config.logs / "vllm.log"


@contextmanager
def _started(config: EngineConfig, logfile: Path) -> Iterator[tuple[Child, int]]:
    for attempt in range(1, _PORT_TRIES + 1):
        with _reserved_port() as port:
            child = Child(launch.command(config, port), launch.environment(config), logfile)
            try:
                _wait_until_healthy(child, port, config)
                yield child, port
                return
            except ServerDied as error:
                taken = "Address already in use" in str(error)
                if attempt == _PORT_TRIES or not taken:
                    raise
                log.warning("port %d was taken; trying another", port)
            finally:
                child.stop()


@contextmanager
def _reserved_port() -> Iterator[int]:
    """A free port, held by a socket that does not listen: the server may bind it, others get it
    from no `bind(0)`."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def _wait_until_healthy(child: Child, port: int, config: EngineConfig) -> None:
    start = time.monotonic()
    with _Elapsed("vLLM is starting") as show:
        while _ailment(f"http://127.0.0.1:{port}"):
            _check_alive(child, "the server died while it was starting")
            if time.monotonic() - start > config.startup_timeout_s:
                raise ServerDied(
                    f"not healthy after {config.startup_timeout_s:g} s\n{child.log_end()}",
                    where=f"vLLM, model {config.model}",
                    remedy="raise engine.startup_timeout_s, or read the log above",
                )
            show(time.monotonic() - start)
            time.sleep(_POLL_S)
    log.info("vLLM serves %s on port %d after %.1f s", config.model, port, time.monotonic() - start)


def _check_alive(child: Child, what: str) -> None:
    code = child.returncode
    if code is None:
        return
    end = child.log_end()
    raise ServerDied(
        f"{what} (exit status {code}); the end of its log:\n{end}",
        where="vLLM",
        remedy=launch.remedy(end, code),
    )


def _check_health(url: str, config: EngineConfig) -> None:
    deadline = time.monotonic() + config.grace_s
    while why := _ailment(url):
        if time.monotonic() > deadline:
            raise EngineError(
                f"no healthy model server: {why}",
                where=url,
                remedy=f"start it, or correct engine.base_urls; {url}/health must answer 200",
            )
        time.sleep(_POLL_S)


def _ailment(url: str) -> str:
    """Why a server is not healthy; nothing if it is."""
    parts = urlsplit(url)
    https = parts.scheme == "https"
    connect = http.client.HTTPSConnection if https else http.client.HTTPConnection
    connection = connect(parts.netloc, timeout=5)
    try:
        connection.request("GET", f"{parts.path}/health")
        status = connection.getresponse().status
        return "" if status == 200 else f"HTTP {status}"
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__} {error}".strip()
    finally:
        connection.close()


class _Elapsed:
    """One line with the seconds so far, on a terminal only, wiped at the end."""

    def __init__(self, what: str) -> None:
        self._what, self._on = what, sys.stderr.isatty()

    def __enter__(self) -> _Elapsed:
        return self

    def __call__(self, seconds: float) -> None:
        if self._on:
            sys.stderr.write(f"\r{self._what} … {seconds:.0f} s ")
            sys.stderr.flush()

    def __exit__(self, *_: object) -> None:
        if self._on:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()
