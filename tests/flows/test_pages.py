"""The pages behind Prefect's links: a report, the way to the reviews, and nothing else of runs/."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from flows.pages import pages
from flows.server import free_port
from rlaif.audit.ledger import Ledger


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    report = tmp_path / "my run" / "report"
    report.mkdir(parents=True)
    (report / "index.html").write_text("the report")
    (report.parent / "run.json").write_text("{}")
    (tmp_path / ".prefect" / "report").mkdir(parents=True)
    (tmp_path / ".prefect" / "report" / "index.html").write_text("not a run's")
    return tmp_path


@pytest.fixture
def port(runs: Path) -> Iterator[int]:
    port = free_port()
    with pages(runs, port):
        yield port


def got(port: int, path: str, host: str = "") -> tuple[int, str, str]:
    """Status, page and where it leads on to."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers={"Host": host or f"127.0.0.1:{port}"})
    answer = connection.getresponse()
    found = answer.status, answer.read().decode(), answer.headers.get("Location", "")
    connection.close()
    return found


def test_a_report_is_shown(port: int) -> None:
    assert got(port, "/my%20run/report/index.html") == (200, "the report", "")
    assert got(port, "/my%20run/report/index.html?theme=dark", "localhost:9")[1] == "the report"


@pytest.mark.parametrize(
    "path",
    ["/", "/my%20run", "/my%20run/run.json", "/my%20run/report", "/none/review", "//review",
     "/none/report/index.html", "/.prefect/report/index.html", "/.prefect/review",
     "/my%20run%2f../review", "/%2e%2e/review", "/my%20run/report/../run.json"],
)  # fmt: skip
def test_nothing_else_is(port: int, path: str) -> None:
    assert got(port, path)[0] == 404


def test_a_name_that_somebody_points_at_us_is_not_answered(port: int) -> None:
    assert got(port, "/my%20run/report/index.html", f"evil.example:{port}")[0] == 404


def test_the_way_to_the_reviews(runs: Path, port: int) -> None:
    """To the app while one serves the run; else, also when one was killed, how to start it."""
    run = runs / "my run"
    status, page, _ = got(port, "/my%20run/review")
    assert (status, f"rlaif audit serve {run}" in page) == (200, True)
    with Ledger.open(run / "audit.db"):
        pass
    for end in (signal.SIGKILL, signal.SIGINT):
        command = [sys.executable, "-m", "rlaif", "audit", "serve", str(run)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as app:
            assert app.stdout
            link = app.stdout.readline().removeprefix("Review at ")
            assert got(port, "/my%20run/review") == (302, "", link.split("/login")[0])
            app.send_signal(end)
        assert "Nobody serves the reviews" in got(port, "/my%20run/review")[1]
    assert not (run / "audit.url").exists()
