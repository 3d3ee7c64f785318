"""The fault server and how a test runs it."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def fault_server(**rates: float) -> Iterator[str]:
    """The URL of a server in a process of its own, with these rates of faults (reset=0.02)."""
    script = Path(__file__).with_name("server.py")
    with subprocess.Popen(
        [sys.executable, str(script), json.dumps(rates)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def stats(url: str) -> dict[str, int]:
    """How many responses of each kind the server has given."""
    with urllib.request.urlopen(f"{url}/stats", timeout=10) as response:
        return json.load(response)
