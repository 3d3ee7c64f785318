"""What all tests share: no network, no colours, and the markers of pyproject.toml."""

from __future__ import annotations

import os
from importlib.util import find_spec

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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too")


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in its own
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    missing = _missing(config)
    for item in items:
        for marker, reason in missing.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
    if config.pluginmanager.hasplugin("xdist"):
        _grouped(items)


def _grouped(items: list[pytest.Item]) -> None:
    """The tests of a file share their servers, so they stay in one process; the files that take
    longest come first."""
    long = set()
    for item in items:
        group = "box" if "up" in getattr(item, "fixturenames", ()) else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
        if group == "box" or any(item.get_closest_marker(m) for m in ("vllm", "browser")):
            long.add(item.path)
    items.sort(key=lambda item: item.path not in long)


def _missing(config: pytest.Config) -> dict[str, str]:
    """The markers whose tests cannot run here, or were not asked for, and why."""
    missing = {}
    if not config.getoption("--slow"):
        missing["slow"] = "slow; --slow runs it"
    if find_spec("vllm") is None:
        missing["vllm"] = "vLLM is not installed; make setup"
    return missing
