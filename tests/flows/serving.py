"""`make server` as a test uses it: real server, worker and watch process in a folder of their own.

The engine is the stand-in of tests/faults/engine, which starts in a moment; all else is real.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError

import psutil

from flows.api import Api
from flows.server import free_port, healthy
from rlaif.shipped import SEED_MODEL

ROOT = Path(__file__).parents[2]
STAND_IN = ROOT / "tests" / "faults" / "engine"
WAIT_S = 600.0
CHANGES = ["policy.beta=0.07"]
"""What is trained in the box after a gate, undisturbed or not, is another config than was labelled.
"""
T = TypeVar("T")

CONFIG = """
name: small
constitution: %(law)s
model: sandbox
engine: {dtype: float32, max_model_len: 2048, at_once: 2, max_in_flight: 4}
prompts:
  sources: [{path: %(prompts)s}]
critique: {rounds: 2, limit: 12, draft: {max_tokens: 90}}
finetune: {learning_rate: 1e-4, max_length: 512}
preferences: {limit: 12, principles: 2, sampling: {max_tokens: 100}}
reward: {enabled: false}
policy: {learning_rate: 1e-4, max_length: 512}
evaluation: {limit: 6, kl: 0, principles: 1, sampling: {max_tokens: 80}}
"""


class Box:
    """A machine's worth of it: one folder, one port, processes that can be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self.runs = folder, folder / "prefect", folder / "runs"
        self.asked, self.law = folder / "asked", folder / "laws" / "law.yaml"
        self.law.parent.mkdir(parents=True)
        self.law.write_text((ROOT / "constitution" / "sandbox.yaml").read_text("utf-8"), "utf-8")
        self.config = folder / "small.yaml"
        prompts = SEED_MODEL.with_name("prompts.jsonl")
        self.config.write_text(CONFIG % {"law": self.law, "prompts": prompts}, "utf-8")
        self.port = free_port()
        self.api = Api(f"http://127.0.0.1:{self.port}/api")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        own = {
            "RLAIF_STORE": str(self.folder / "store.sqlite3"),
            "PYTHONPATH": str(STAND_IN),
            "STAND_IN_LOG": str(self.asked),
            "STAND_IN_DELAY": "0.02",
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": self.api.url,
            "OMP_NUM_THREADS": "1",
        }
        return dict(os.environ) | own

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        command = [sys.executable, "-m", "flows.serve", "--port", str(self.port)]
        command += ["--home", str(self.home), "--runs", str(self.runs)]
        command += ["--constitution", str(self.law)]
        with (self.folder / "serve.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=log, stderr=log
            )
        until(lambda: self._said().count("ready:") > self._said().count("stopped"), self._alive)
        until(lambda: healthy(self.api.url), self._alive)

    def _said(self) -> str:
        return (self.folder / "serve.log").read_text("utf-8")

    def _alive(self) -> None:
        assert self._process
        assert self._process.poll() is None, self._said()

    def stop(self, number: int = signal.SIGINT) -> int:
        """Ctrl-C, or what `number` says; returns when everything of it is gone."""
        assert self._process
        family = psutil.Process(self._process.pid).children(recursive=True)
        self._process.send_signal(number)
        code = self._process.wait(120)
        _, left = psutil.wait_procs(family, timeout=60)
        assert not left, left
        if number == signal.SIGKILL:
            (self.home / "url").unlink(missing_ok=True)
            with (self.folder / "serve.log").open("a") as log:
                log.write("stopped by kill -9\n")
        return code

    def family(self) -> list[psutil.Process]:
        """Every process of it."""
        assert self._process
        return psutil.Process(self._process.pid).children(recursive=True)

    def strays(self) -> list[str]:
        """Processes that have its environment and are not in its family."""
        family = {p.pid for p in self.family()} if self._running() else set()
        mine = {os.getpid(), self._process.pid if self._process else 0}
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid in family | mine or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if process.environ().get("PREFECT_HOME") == str(self.home):
                    found.append(" ".join(process.cmdline()))
            except psutil.Error:
                continue
        return found

    def _running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    # --- asking it --------------------------------------------------------------------------------

    def deployment(self, name: str) -> dict[str, Any]:
        return self.api("GET", f"/deployments/name/{name}")

    def trigger(
        self, deployment: str, /, *, env: dict[str, str] | None = None, **parameters: Any
    ) -> str:
        """Start a deployment as the UI does; the id of the flow run."""
        if "run" not in parameters:
            parameters = {"config_file": str(self.config)} | parameters
        body: dict[str, Any] = {"parameters": parameters}
        if env:
            body["job_variables"] = {"env": env}
        id = self.deployment(deployment)["id"]
        return self.api("POST", f"/deployments/{id}/create_flow_run", body)["id"]

    def refused(self, deployment: str, /, **parameters: Any) -> str:
        """What the API says when a flow run is not even made."""
        try:
            self.trigger(deployment, **parameters)
        except HTTPError as error:
            return json.loads(error.read())["detail"]
        raise AssertionError("it was accepted")

    def flow_run(self, id: str) -> dict[str, Any]:
        return self.api("GET", f"/flow_runs/{id}")

    def ended(self, id: str, *names: str) -> dict[str, Any]:
        """Wait until a flow run is in one of these states (COMPLETED, FAILED and so on)."""
        names = names or ("COMPLETED", "FAILED")
        found: list[dict[str, Any]] = []

        def over() -> bool:
            try:
                found.append(self.flow_run(id))
            except OSError:
                return False  # the server is just being killed
            return found[-1]["state_type"] in names

        until(over)
        return found[-1]

    def artifacts(self, kind: str) -> list[dict[str, Any]]:
        """Artifacts whose key begins so."""
        every = self.api("POST", "/artifacts/filter", {"sort": "CREATED_DESC"})
        return [a for a in every if (a["key"] or "").startswith(kind)]

    def logs(self, id: str) -> str:
        found = self.api("POST", "/logs/filter", {"logs": {"flow_run_id": {"any_": [id]}}})
        return "\n".join(line["message"] for line in found)


@contextmanager
def box(folder: Path) -> Iterator[Box]:
    """A box that is up, and gone at the end."""
    made = Box(folder)
    try:
        made.start()
        yield made
    finally:
        if made._running():
            made.stop()
    assert not made.strays()


def until(done: Callable[[], T | None], meanwhile: Callable[[], object] = lambda: None) -> T:
    """Wait for something."""
    end = time.monotonic() + WAIT_S
    while not (found := done()):
        meanwhile()
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.5)
    return found
