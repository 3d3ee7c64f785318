"""What all tests share: no network, no colours, and the markers of pyproject.toml."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

# Before any library reads them: a test that wanted a download would fail at once, and say so.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "TOKENIZERS_PARALLELISM": "false",
    "NO_COLOR": "1",
}
if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores share them
    os.environ.setdefault("OMP_NUM_THREADS", "1")

LONG = ("vllm", "browser")  # files with such tests come first
CHROMIUM = os.environ.get("RLAIF_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
BOX = {f"tests/flows/test_{name}.py" for name in ("chaos", "deployments", "ui")}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    missing = _missing(config)
    for item in items:
        for marker, reason in missing.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
    long = {item.path for item in items if any(map(item.get_closest_marker, LONG))}
    items.sort(key=lambda item: (item.path not in long, _after_the_gate(item)))


def _after_the_gate(item: pytest.Item) -> bool:
    """Whether a test needs the run past its gate; those that need it waiting come first."""
    return "trained" in getattr(item, "fixturenames", ())


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """The tests of a file share its servers, so they stay in one process; and those of tests/flows
    that need `make server` share one."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "the box" if file in BOX else file

    return ByFile(config, log)


def _missing(config: pytest.Config) -> dict[str, str]:
    """The markers whose tests cannot run here, or were not asked for, and why."""
    missing = {}
    if not config.getoption("--slow"):
        missing["slow"] = "slow; --slow runs it"
    if find_spec("vllm") is None:
        missing["vllm"] = "vLLM is not installed; make setup"
    if find_spec("playwright") is None:
        missing["browser"] = "playwright is not installed; make setup"
    elif not CHROMIUM:
        missing["browser"] = "no chromium here; RLAIF_CHROMIUM may name one"
    return missing


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A real browser, for tests marked `browser`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()
