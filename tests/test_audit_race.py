"""Many reviewers at once, and writers that are killed: nothing twice, nothing acknowledged lost."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import threading
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from audits import plan, units

from rlaif.audit.ledger import Ledger

SERVED = multiprocessing.get_context("forkserver")
SERVED.set_forkserver_preload(["rlaif.audit.ledger"])
PEOPLE = 8


def drawn(path: Path, n: int, people: int, *, reviews: int = 1) -> int:
    """A ledger with n items and some reviewers; its audit."""
    with Ledger.open(path) as at:
        audit = at.create(plan(reviewers=people), units(n, "coverage", reviews=reviews))
        for k in range(people):
            at.add_reviewer(f"person {k + 1}")
    return audit


def review(path: str, audit: int, reviewer: int, acknowledged: Connection | None = None) -> None:
    """Judge item after item; write the nonce of each that is acknowledged to a pipe."""
    rng = random.Random()
    with Ledger.open(path) as at:
        while view := at.claim(audit, reviewer):
            at.decide(audit, view.number, reviewer, "prefer", rng.choice(["left", "right"]),
                      nonce=view.nonce)  # fmt: skip
            if rng.random() < 0.2:  # a double click
                at.decide(audit, view.number, reviewer, "prefer", "tie", nonce=view.nonce)
            if acknowledged is not None:
                acknowledged.send(view.nonce)


@pytest.mark.parametrize("n", [240, pytest.param(2000, marks=pytest.mark.slow)])
def test_eight_processes_share_the_items(tmp_path: Path, n: int) -> None:
    path = tmp_path / "audit.db"
    audit = drawn(path, n, PEOPLE)
    people = [SERVED.Process(target=review, args=(str(path), audit, k + 1)) for k in range(PEOPLE)]
    for process in people:
        process.start()
    for process in people:
        process.join()
    assert [process.exitcode for process in people] == [0] * PEOPLE
    with Ledger.open(path) as at:
        rows = at.decisions(audit)
        assert len(rows) == n
        assert {row.number for row in rows} == set(range(1, n + 1))
        assert len(Counter(row.reviewer for row in rows)) > 1
        assert not any(row.extra for row in rows)
        assert at.verify().problems == ()


def test_threads_of_one_server_share_the_items(tmp_path: Path) -> None:
    path, n = tmp_path / "audit.db", 60
    audit = drawn(path, n, 4, reviews=2)
    with Ledger.open(path) as at:

        def work(reviewer: int) -> None:
            while view := at.claim(audit, reviewer):
                at.decide(audit, view.number, reviewer, "prefer", "left", nonce=view.nonce)
                at.progress(audit, reviewer)

        threads = [threading.Thread(target=work, args=(k + 1,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rows = at.decisions(audit)
        assert len(rows) == 2 * n
        assert len({(row.number, row.reviewer) for row in rows}) == 2 * n
        with at.folded(audit) as fold:
            assert all(len(unit.counted) == 2 for unit in fold.units.values())


def rest(out: Connection) -> list[str]:
    """What a pipe still holds; the last message may be cut off."""
    found = []
    with contextlib.suppress(EOFError, OSError):
        while True:
            found.append(out.recv())
    out.close()
    return found


@pytest.mark.parametrize("kills", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_a_killed_writer_loses_nothing_acknowledged(tmp_path: Path, kills: int) -> None:
    path, rng = tmp_path / "audit.db", random.Random(0)
    audit = drawn(path, 100 * kills, 1)
    acknowledged: list[str] = []
    for _ in range(kills):
        out, into = SERVED.Pipe(duplex=False)
        process = SERVED.Process(target=review, args=(str(path), audit, 1, into))
        process.start()
        into.close()
        acknowledged.append(out.recv())  # it is at work
        time.sleep(rng.random() * 0.05)
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        acknowledged += rest(out)
    with Ledger.open(path) as at:
        kept = [row.nonce for row in at.decisions(audit)]
        assert set(acknowledged) <= set(kept)
        assert len(kept) == len(set(kept))
        assert len(acknowledged) >= kills
        assert len(kept) <= len(acknowledged) + kills  # at most one each was not told
        assert at.verify().problems == ()
