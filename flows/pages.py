"""The pages behind the links that Prefect shows: a run's report, and the way to its reviews.

`make server` serves them at the port after Prefect's, on loopback, and nothing else of `runs/`.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

from rlaif.audit import ADDRESS
from rlaif.runs import held

REPORT, REVIEW = "report/index.html", "review"
_HERE = {"127.0.0.1", "localhost", "::1"}  # no name that somebody may point at us
_NOBODY = """<!doctype html><meta charset="utf-8"><title>Review of {run}</title>
<style>:root{{color-scheme:light dark}}
body{{font:16px/1.5 system-ui;max-width:40em;margin:4em auto}}
code{{font:15px ui-monospace,monospace;user-select:all}}</style>
<h1>Nobody serves the reviews of {run}</h1>
<p>Start the review app in a terminal, where this run is:</p>
<p><code>rlaif audit serve {path}</code></p>
<p>It prints your link, which logs you in once; from then on this page leads there.</p>"""


@contextmanager
def pages(runs: Path, port: int) -> Iterator[None]:
    """Serve them while the context lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", port), _handler(runs))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def _handler(runs: Path) -> Callable[..., SimpleHTTPRequestHandler]:
    class Pages(SimpleHTTPRequestHandler):
        """Only RUN/report/index.html and RUN/review."""

        def send_head(self) -> Any:
            name, _, page = urlsplit(self.path).path.strip("/").partition("/")
            run = runs / unquote(name)
            asked = urlsplit(f"//{self.headers.get('Host', '')}").hostname
            known = run.parent == runs and not run.name.startswith(".") and run.is_dir()
            if not known or asked not in _HERE or page not in (REPORT, REVIEW):
                self.send_error(HTTPStatus.NOT_FOUND)
                return None
            return super().send_head() if page == REPORT else self._review(run)

        def _review(self, run: Path) -> None:
            """On to the review app that serves this run; where none does, how to start it."""
            if address := _served(run):
                self.send_response(HTTPStatus.FOUND)
                self.send_header("Location", address)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            said = _NOBODY.format(run=html.escape(run.name), path=html.escape(str(run))).encode()
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(said)

        def log_message(self, format: str, *args: Any) -> None: ...

    return lambda *args: Pages(*args, directory=str(runs))


def _served(run: Path) -> str:
    """Where a review app serves this run; "" where none does. One that lives locks the file."""
    try:
        return (run / ADDRESS).read_text("utf-8").strip() if held(run / ADDRESS) else ""
    except FileNotFoundError:
        return ""  # it ended this very moment
