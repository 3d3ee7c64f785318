"""What is brought to a Prefect server, and what is said where none is named; no Prefect server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows import apply

ROOT = Path(__file__).parents[2]


def test_where_nothing_is_to_be_held_no_limit_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLAIF_ACCELERATOR", "")
    nobody: Any = None
    apply._limit(nobody)  # asks the server for nothing


@pytest.mark.parametrize("module", ["flows.apply", "flows.watch"])
def test_no_server_is_an_error_with_a_remedy(module: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env=os.environ | {"PREFECT_HOME": str(tmp_path), "PREFECT_API_URL": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: PREFECT_API_URL is not set\n  remedy: export ")
