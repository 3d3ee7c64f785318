"""The server is killed in the middle of its work: no verdict that it acknowledged is lost."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rlaif.audit.ledger import Ledger
from tests.auditing import Client, asked, fill

FORKING = """
import os, signal, sys
from pathlib import Path
from rlaif.audit.app.serving import serve
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for port in sys.stdin:
    child = os.fork()
    if child == 0:
        serve(Path(sys.argv[1]), port=int(port))
    print("server", child, flush=True)
"""
"""Has imported everything, and starts a server, a process of its own, for each line it reads."""


class Servers:
    """Servers of one run, each killed before the next one starts."""

    def __init__(self, run: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", FORKING, str(run)], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.pid = 0

    def start(self, port: int) -> str:
        """A server; the link that it prints."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{port}\n")
        self.process.stdin.flush()
        self.pid, link = 0, ""
        while not (self.pid and link):
            line = self.process.stdout.readline()
            assert line, "the server did not start"
            if line.startswith("server "):
                self.pid = int(line.split()[1])
            elif found := re.search(r"http://\S+", line):
                link = found[0]
        return link

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
            while True:
                os.kill(self.pid, 0)
                time.sleep(0.005)

    def close(self) -> None:
        if self.pid:
            self.kill()
        self.process.communicate(timeout=30)


def review(client: Client, audit: int, acknowledged: dict[int, str], stop: threading.Event) -> None:
    """Judge item after item; what has no answer is sent again with its nonce, as the page does."""

    def sure(do: Callable[[], str]) -> str:
        while not stop.is_set():
            try:
                return do()
            except (OSError, http.client.HTTPException, UnicodeDecodeError, ValueError):
                time.sleep(0.05)
        return ""

    while page := sure(lambda: client.post(f"/audits/{audit}/next")):
        number, _, nonce = asked(page)
        said = ("left", "right", "tie")[number % 3]
        if sure(lambda page=page, said=said: client.judge(audit, page, said)):
            acknowledged[number] = nonce


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_kill_9_loses_no_acknowledged_verdict(tmp_path: Path, kills: int) -> None:
    rng, stop, acknowledged = random.Random(kills), threading.Event(), dict[int, str]()
    with Ledger.open(tmp_path / "audit.db") as ledger:
        audit = fill(ledger, 100 * kills, arm="calibration", frame=10**6)
    servers = Servers(tmp_path)
    try:
        link = servers.start(0)
        port = int(link.split(":")[2].split("/")[0])
        client = Client(f"http://127.0.0.1:{port}", link)
        worker = threading.Thread(target=review, args=(client, audit, acknowledged, stop))
        worker.start()
        for _ in range(kills):
            known, until = len(acknowledged), time.monotonic() + 30
            while len(acknowledged) == known and time.monotonic() < until:
                time.sleep(0.002)  # it has begun to answer
            time.sleep(rng.uniform(0, 0.1))
            servers.kill()
            servers.start(port)
        stop.set()
        worker.join(60)
    finally:
        stop.set()
        servers.close()
    with Ledger.open(tmp_path / "audit.db") as ledger:
        rows = [d for d in ledger.decisions(audit) if d.act == "verdict"]
        assert ledger.verify().problems == ()
    kept = {row.number: row.nonce for row in rows}
    assert len(kept) == len(rows)
    assert acknowledged.items() <= kept.items()
    assert len(acknowledged) >= kills
