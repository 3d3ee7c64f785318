"""The completions store among processes: kill -9 at any moment, and eight of them at once.

Children are forked, put rows and write down which ones `flush` acknowledged; the pipe keeps that
when they are killed. Their keys overlap, so that they also race for the same rows.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from rlaif.completions import Store, key
from rlaif.records import Answer, Call, Message

KILLS = 200
SHARED = 2000  # keys that every child puts, too


def call(name: str) -> Call:
    return Call((Message("system", "You are a careful judge. " * 8), Message("user", name * 9)))


def put(store: Store, name: str, child: int) -> None:
    store.put(key("m", call(name)), call(name), Answer(f"{name} by {child}", "stop", 1, 1), "m")


def fork(work: Callable[[], None]) -> int:
    """Run `work` in a child; its exit status is 0 only if nothing was raised."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def put_until_killed(path: Path, child: int, pipe: int) -> None:
    """Each acknowledged batch is one line in the pipe: child, first and last row."""
    choice = random.Random(child)
    with Store(path, linger=0.001) as store:
        row = 0
        while True:
            first, row = row, row + choice.randrange(1, 40)
            for number in range(first, row):
                put(store, f"own {child} {number}", child)
                put(store, f"shared {choice.randrange(SHARED)}", child)
            store.flush()
            os.write(pipe, f"{child} {first} {row}\n".encode())


def test_no_acknowledged_row_is_lost_to_kill_9(tmp_path: Path) -> None:
    path, moment = tmp_path / "s", random.Random(0)
    acknowledged: list[tuple[int, int, int]] = []
    shared: dict[str, str] = {}  # the answers seen so far: none of them may change
    for child in range(0, KILLS, 2):  # two at a time, so that one works while the other dies
        out, pipe = os.pipe()
        pids = [fork(lambda c=c: put_until_killed(path, c, pipe)) for c in (child, child + 1)]  # noqa: B023
        os.close(pipe)
        for pid in pids:
            time.sleep(moment.uniform(0.0, 0.08))
            os.kill(pid, signal.SIGKILL)
            assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        with os.fdopen(out) as lines:
            acknowledged += [tuple(map(int, line.split())) for line in lines if line[-1] == "\n"]  # type: ignore[misc]
        shared |= unchanged(path, shared)
    names = [f"own {c} {n}" for c, first, last in acknowledged for n in range(first, last)]
    with Store(path) as store:
        found = {name: store.get_many([key("m", call(name))]) for name in names}
    lost = [name for name, answers in found.items() if not answers]
    assert not lost
    assert len(names) > 10 * KILLS
    assert len({c for c, _, _ in acknowledged}) > KILLS / 4
    assert_sound(path)


def unchanged(path: Path, known: dict[str, str]) -> dict[str, str]:
    """The shared answers in the store now; those that were `known` must still be the same."""
    names = [f"shared {number}" for number in range(0, SHARED, 50)]
    with Store(path) as store:
        found = store.get_many([key("m", call(name)) for name in names])
    now = {n: found[k].text for n in names if (k := key("m", call(n))) in found}
    assert {name: now.get(name) for name in known} == known
    return now


def assert_sound(path: Path) -> None:
    """No duplicate, no answer without its prompt, no damage."""
    database = sqlite3.connect(path)
    rows, keys = database.execute("SELECT count(*), count(DISTINCT key) FROM answers").fetchone()
    assert rows == keys
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()
    with Store(path) as store:
        for record in store.records():
            assert record.key == key(record.model, record.call)


def work(path: Path, child: int) -> None:
    with Store(path, linger=0.002) as store:
        for number in range(300):
            put(store, f"own {child} {number}", child)
            put(store, f"shared {number}", child)
            assert len(store.get_many([key("m", call(f"shared {number}"))])) == 1
        store.flush()
        keys = [key("m", call(f"own {child} {number}")) for number in range(300)]
        assert {answer.text for answer in store.get_many(keys).values()} == {
            f"own {child} {number} by {child}" for number in range(300)
        }


def open_at(path: Path, moment: float) -> None:
    while time.monotonic() < moment:
        pass
    Store(path).close()


def test_a_store_is_made_once_by_all_who_open_it_first(tmp_path: Path) -> None:
    for attempt in range(40):
        path, moment = tmp_path / f"s{attempt}", time.monotonic() + 0.02
        pids = [fork(lambda p=path, m=moment: open_at(p, m)) for _ in range(4)]
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * 4


def test_eight_processes_write_and_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "s"  # the first to come makes it
    pids = [fork(lambda child=child: work(path, child)) for child in range(8)]
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * 8
    with Store(path) as store:
        assert [summary.rows for summary in store.summaries()] == [9 * 300]
    assert_sound(path)
