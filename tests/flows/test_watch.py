"""The watch process: what it tells Prefect, and what does not stop it; no Prefect server."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from flows import gate
from flows.api import Api
from flows.gate import Awaiting
from flows.server import loopback_is_direct
from flows.watch import TIMES, Watch
from rlaif import audit
from rlaif.audit.records import GateState
from rlaif.config.audit import AuditConfig
from rlaif.errors import RunError

ROOT = Path(__file__).parents[2]


class Told:
    """Prefect's API, which only remembers what it is told."""

    def __init__(self, *, up: bool = True) -> None:
        self.up, self.events = up, []

    def emit(self, event: str, resource: str, **payload: Any) -> None:
        if not self.up:
            raise ConnectionRefusedError("refused")
        self.events.append((event, resource, payload.get("path", payload.get("until"))))

    def runs(self, *states: str) -> list[dict[str, Any]]:
        return []


def test_a_change_is_told_once_and_never_lost(tmp_path: Path) -> None:
    law = tmp_path / "law.yaml"
    text = (ROOT / "constitution" / "sandbox.yaml").read_text("utf-8")
    law.write_text(text, "utf-8")
    api: Any = Told()
    watch = Watch(api, (law,), tmp_path / "runs", tmp_path)
    watch.constitutions()
    law.write_text("# a comment\n" + text, "utf-8")
    watch.constitutions()
    assert not api.events  # new, then the same meaning
    law.write_text(text.replace("Pick the response", "Choose the response", 1), "utf-8")
    api.up = False
    with pytest.raises(OSError, match="refused"):
        watch.constitutions()
    api.up = True
    Watch(api, (law,), tmp_path / "runs", tmp_path).constitutions()  # started again meanwhile
    watch.constitutions()
    assert api.events == [("rlaif.constitution.changed", "rlaif.constitution.sandbox", str(law))]


def test_a_file_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    command = ("-m", "flows.watch", "--constitution", str(tmp_path / "laws" / "mine.yaml"))
    env = os.environ | {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    how: Any = {"stderr": subprocess.PIPE, "text": True, "env": env, "cwd": tmp_path}
    with subprocess.Popen([sys.executable, *command], **how) as watch:
        try:
            assert watch.stderr is not None
            assert "there is no such file" in watch.stderr.readline()
            with pytest.raises(subprocess.TimeoutExpired):
                watch.wait(3)
        finally:
            watch.terminate()
        assert watch.wait(10) == 0


def test_a_file_that_is_being_written_is_no_change(tmp_path: Path) -> None:
    law = tmp_path / "law.yaml"
    law.write_text((ROOT / "constitution" / "sandbox.yaml").read_text("utf-8"), "utf-8")
    api: Any = Told()
    watch = Watch(api, (law,), tmp_path / "runs", tmp_path)
    watch.constitutions()
    law.write_text("id: half", "utf-8")
    watch.constitutions()
    assert not api.events


@pytest.fixture
def gates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five runs that wait; of three, the gate or the note cannot be read."""
    for name in ("empty", "newer", "one", "three", "two"):
        (tmp_path / name).mkdir()
        asked = {"labels": "d", "sample": "s", "until": "reward", "shards": 2}
        (tmp_path / name / "awaiting.json").write_text(json.dumps(asked))
    (tmp_path / "empty" / "awaiting.json").write_text("")

    def gate_state(run: Path) -> GateState:
        if run.name == "one":
            raise RunError("not a finished stage", where=str(run))
        if run.name == "newer":
            AuditConfig.model_validate({"from_a_later_version": 1})
        state: Any = "inconclusive" if run.name == "three" else "pass"
        return GateState(state, 50, 0.75, 0.05, 400, audit=1, labels="d")

    monkeypatch.setattr(audit, "gate_state", gate_state)
    return tmp_path


@pytest.mark.parametrize(
    ("state", "error", "remedy"),
    [("open", Awaiting, "rlaif run "), ("inconclusive", RunError, "--override NAME")],
)
def test_who_waits_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: Any, error: Any, remedy: str
) -> None:
    told: list[str] = []
    monkeypatch.setattr(gate.shown, "event", lambda name, *args, **payload: told.append(name))
    monkeypatch.setattr(gate.shown, "review", lambda *args: None)
    found = GateState(state, 400, 0.75, 0.05, 400, audit=1, labels="d")
    (tmp_path / "awaiting.json").write_text("")  # as a power cut may have left it
    for _ in range(2):
        with pytest.raises(error, match=remedy):
            gate._wait(tmp_path, found, {"labels": "d", "until": "report", "shards": 3})
    assert told == ["rlaif.audit.requested"]  # once
    assert json.loads((tmp_path / "awaiting.json").read_text())["shards"] == 3


def test_one_bad_run_keeps_no_other_gate_shut(
    gates: Path, caplog: pytest.LogCaptureFixture
) -> None:
    api: Any = Told()
    watch = Watch(api, (), gates, gates / "home")
    for _ in range(2):
        watch.look()
    for run, said in {"one": "not a", "newer": "1 validation", "empty": "JSONDecodeError"}.items():
        assert caplog.text.count(f"{gates / run}: {said}") == 1
    assert api.events == [
        ("rlaif.audit.inconclusive", "rlaif.run.three", "reward"),
        ("rlaif.audit.passed", "rlaif.run.two", "reward"),
    ]


def test_an_answer_that_makes_no_sense_ends_no_other_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    api: Any = Told()
    monkeypatch.setattr(api, "runs", lambda *states: json.loads("<html>"))
    Watch(api, (), tmp_path, tmp_path).look()
    for part in ("dead", "crashed"):
        assert f"{part}: JSONDecodeError" in caplog.text


def test_what_cannot_be_kept_is_told_once_all_the_same(gates: Path) -> None:
    api: Any = Told()
    (gates / "home").write_text("a file, where a folder is to be")
    watch = Watch(api, (), gates, gates / "home")
    for _ in range(3):
        watch.gates()
    assert len(api.events) == 2


def test_a_passed_gate_is_told_again_some_times_and_then_left(
    gates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.watch.AGAIN_S", 0.0)
    api: Any = Told()
    watch = Watch(api, (), gates, gates / "home")
    for _ in range(20):
        watch.gates()
    assert [event for event, *_ in api.events].count("rlaif.audit.passed") == TIMES


def test_only_a_flow_run_that_left_its_lock_behind_has_died(tmp_path: Path) -> None:
    ended: list[str] = []
    api: Any = SimpleNamespace(set_state=lambda id, *told: ended.append(id))
    watch = Watch(api, (), tmp_path, tmp_path)
    (tmp_path / "alive").mkdir()
    for id in ("died", "works"):
        (tmp_path / "alive" / id).touch()
    with (tmp_path / "alive" / "works").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for id in ("died", "ended", "works"):
            watch._dead({"id": id, "name": id, "state_type": "RUNNING"})
    assert ended == ["died"]


def test_a_password_is_sent_and_a_refusal_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "lea:secret")
    with answering(401) as (url, asked):
        watch = Watch(Api(url), (), tmp_path, tmp_path)
        for _ in range(2):
            watch.look()
    assert {headers["Authorization"] for headers in asked} == {"Basic bGVhOnNlY3JldA=="}
    assert caplog.text.count("dead: Prefect's server says 401") == 1


@contextmanager
def answering(code: int) -> Iterator[tuple[str, list[Any]]]:
    """A server that says this to everything, and the headers that it was sent."""
    asked = []

    class Says(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.headers)
            self.send_response(code)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Says) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def test_nothing_on_this_machine_is_asked_of_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody is there
    monkeypatch.setattr(urllib.request, "_opener", None)  # of an earlier test, without a proxy
    monkeypatch.setenv("no_proxy", "example.org")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with answering(200) as (url, _):
        with pytest.raises(OSError, match="refused"):
            Api(url)("POST", "/health")
        loopback_is_direct()
        loopback_is_direct()
        assert Api(url)("POST", "/health") is None
    assert os.environ["no_proxy"] == "example.org,127.0.0.1,localhost"
    monkeypatch.delenv("NO_PROXY")
