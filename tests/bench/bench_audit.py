"""How soon a page of the review app answers, with 100,000 items in the frame or endless texts.

    python -m tests.bench.bench_audit [--json]

Milliseconds of the server alone (ASGI, no socket): the time from request to answer, and the
processor's part of it. The reference is the same page with 100 items. The promise is 30 ms for each
page that reviewers see; the processor's time counts, because what else runs only adds to the other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from rlaif.audit.app.security import csrf
from rlaif.audit.app.serving import application
from rlaif.audit.ledger import Ledger
from tests.auditing import asked, critique, fill, pair

BOUND = 30.0  # ms
RUNS = 30
LOOP = "I am sorry, but I cannot help with that. " * 2500  # 20,000 words and more


class Asking:
    """Requests to the app without a socket, with a session."""

    def __init__(self, ledger: Ledger) -> None:
        self.app, self.loop = application(ledger, port=8000), asyncio.new_event_loop()
        session = ledger.redeem(ledger.add_reviewer("Anna", "lead")[1]) or ""
        self.headers = {
            "host": "127.0.0.1:8000", "origin": "http://127.0.0.1:8000", "hx-request": "true",
            "cookie": f"{self.app.state.cookie}={session}", "x-csrf-token": csrf(session),
        }  # fmt: skip

    def __call__(self, method: str, path: str, **fields: str) -> str:
        body, sent = urlencode(fields).encode(), []
        headers = [(k.encode(), v.encode()) for k, v in self.headers.items()]
        headers.append((b"content-length", str(len(body)).encode()))
        scope: dict[str, Any] = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(),
            "query_string": b"", "headers": headers, "scheme": "http", "http_version": "1.1",
            "root_path": "", "server": ("127.0.0.1", 8000), "client": ("127.0.0.1", 1),
        }  # fmt: skip

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        self.loop.run_until_complete(self.app(scope, receive, send))
        assert sent[0]["status"] == 200, (sent[0], path)
        return b"".join(m.get("body", b"") for m in sent).decode()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    figures = {}
    for n in (100, 100_000):
        with tempfile.TemporaryDirectory() as folder, Ledger.open(Path(folder) / "audit.db") as led:
            figures |= {f"{name}, {n:,} items": ms for name, ms in pages(led, n).items()}
    late = [name for name, ms in figures.items() if ms["processor"] > BOUND]
    if as_json:
        print(json.dumps({"milliseconds": figures, "bound": BOUND, "late": late}))
    else:
        for name, ms in figures.items():
            over = "  over the bound" if name in late else ""
            print(f"{name:44}{ms['processor']:8.1f} ms cpu{ms['wall']:8.1f} ms{over}")
    return 1 if late else 0


def pages(ledger: Ledger, n: int) -> dict[str, dict[str, float]]:
    """Medians for the pages that reviewers see; every item of the frame is in the audit."""
    audit = fill(ledger, n, arm="calibration", frame=n, repeats=n // 20)
    ask = Asking(ledger)
    page = ask("POST", f"/audits/{audit}/next")

    def verdict() -> None:
        nonlocal page
        if "data-item" not in page:  # a batch is full
            page = ask("POST", f"/audits/{audit}/next")
        number, stage, nonce = asked(page)
        url = f"/audits/{audit}/items/{number}/verdict"
        page = ask("POST", url, stage=stage, nonce=nonce, verdict="left", active_ms="9000")

    found = {
        "a verdict, and the next item": timed(verdict),
        "an item": timed(lambda: ask("GET", f"/audits/{audit}/items/3")),
        "home": timed(lambda: ask("GET", "/")),
    }
    if n < 1000:
        found |= endless(ledger, ask)
    ask.loop.close()
    return found


def endless(ledger: Ledger, ask: Asking) -> dict[str, dict[str, float]]:
    """Pages with a degenerate response of 20,000 words; each diff is computed anew."""
    from rlaif.audit.app import shown

    long = pair(0, a=LOOP, b=LOOP.replace("sorry", "so sorry"))
    audit = fill(ledger, items=[long, pair(1)])
    ask("POST", f"/audits/{audit}/next")
    rounds = fill(ledger, kind="critique", items=[critique(0, a=LOOP), critique(1)])
    number, stage, nonce = asked(ask("POST", f"/audits/{rounds}/next"))
    url = f"/audits/{rounds}/items/{number}"
    ask("POST", f"{url}/verdict", stage=stage, nonce=nonce, verdict="yes")

    def diffed() -> None:
        shown.changes.cache_clear()
        assert re.search("<mark>", ask("GET", url))

    return {
        "an endless pair": timed(lambda: ask("GET", f"/audits/{audit}/items/1")),
        "an endless revision, with its diff": timed(diffed),
    }


def timed(do: Callable[[], Any]) -> dict[str, float]:
    """Medians over RUNS, in milliseconds."""
    wall, processor = [], []
    for _ in range(RUNS + 2):
        before = time.perf_counter(), time.process_time()
        do()
        wall.append(1000 * (time.perf_counter() - before[0]))
        processor.append(1000 * (time.process_time() - before[1]))
    return {"wall": statistics.median(wall[2:]), "processor": statistics.median(processor[2:])}


if __name__ == "__main__":
    sys.exit(main())
