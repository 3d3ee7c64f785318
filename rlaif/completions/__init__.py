"""The completions store: every model call is content-addressed and never paid twice.

    with Store(default_path()) as store:
        keys = [key(model, call) for call in calls]
        known = store.get_many(keys)                    # one batched SELECT
        store.put(keys[0], calls[0], answer, model)     # queued; one thread writes
        store.flush()                                   # returns: acknowledged, on the disk

A call's key is a hash of everything that can change its answer (`calls.py`), so an interrupted run
resumes where it was, and editing one principle costs only the calls that really changed. The store
is one SQLite file, or a Postgres database for teams; `rlaif cache` looks after it.
"""

from __future__ import annotations

import os
from pathlib import Path

from rlaif.completions.calls import key
from rlaif.completions.store import Store
from rlaif.completions.table import Record, Summary

__all__ = ["Record", "Store", "Summary", "default_path", "key"]


def default_path() -> str:
    """The store used when none is named: $RLAIF_STORE (a path or a URL), else one in the home."""
    home = Path.home() / ".cache" / "rlaif" / "completions.sqlite3"
    return os.environ.get("RLAIF_STORE") or str(home)
