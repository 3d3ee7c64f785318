"""The report of a run: one self-contained page, and the same figures as JSON.

    rlaif report runs/demo

Written from the run's folder alone, finished or not: what is missing says so. Every text from the
data is escaped; the page needs no script and no network.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlaif.report.data import Finished, figures
from rlaif.report.distrust import doubts
from rlaif.runs import writable

__all__ = ["figures_of", "report"]


def report(run_folder: Path) -> Path:
    """Write `report/index.html` and `report/report.json` into a run's folder; returns the page.

    Raises:
        RunError: the folder is no run's or cannot be written, or a finished stage in it is damaged.
        DataError: a row of a stage cannot be read.
    """
    from rlaif.report.page import page

    run = Finished(run_folder)
    found = _complete(run)
    folder = run_folder / "report"
    shown = page(run, found)
    with writable(run_folder):
        folder.mkdir(exist_ok=True)
        _write(folder / "report.json", json.dumps(found, indent=1) + "\n")
        return _write(folder / "index.html", shown)


def figures_of(run_folder: Path) -> dict[str, Any]:
    """What report.json says, read from the run's folder now.

    Raises:
        RunError: the folder is no run's, or a finished stage in it is damaged.
    """
    return _complete(Finished(run_folder))


def _complete(run: Finished) -> dict[str, Any]:
    found = figures(run)
    return found | {"distrust": [asdict(doubt) for doubt in doubts(found, run.record)]}


def _write(path: Path, text: str) -> Path:
    draft = path.with_name(f".{path.name}.tmp")
    draft.write_text(text, "utf-8", errors="replace")
    return draft.replace(path)
