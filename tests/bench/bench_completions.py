"""What the completions store can do: puts and hits per second, and memory at a million rows.

    python tests/bench/bench_completions.py [--rows 100000] [--million] [--json]

Rows are as the pipeline's: prompts of 800 characters (a shared system message of 200) and answers
of 200 characters (40 tokens). Each figure stands beside a bare `sqlite3.executemany` of the same
rows (one table, WAL, synchronous=FULL, the prompt as it is) in the same run. `cpu` is processor
time; wall time also counts whatever else runs on the machine.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rlaif.completions import Store, key
from rlaif.completions.calls import encode
from rlaif.records import Answer, Call, Message, Sampling

BATCH = 500  # keys in one get_many
MILLION = 1_000_000
Figure = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--million", action="store_true", help="fill a store with a million rows")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures: dict[str, Figure] = throughput(Path(folder), options.rows)
        if options.million:
            figures |= memory(Path(folder))
    if options.json:
        json.dump(figures, sys.stdout, indent=1)
    else:
        show(figures)


def throughput(folder: Path, rows: int) -> dict[str, Figure]:
    """Rates of each operation alone, of those that go together, and of the reference."""
    calls = list(many_calls(rows))
    keys: list[bytes] = []
    figures = {"key": rate(rows, lambda: keys.extend([key("m", call) for call in calls]))}
    with Store(folder / "alone") as store:
        figures["put"] = rate(rows, lambda: put_all(store, zip(keys, calls, strict=True)))
        figures["hit, 500 at a time"] = rate(rows, lambda: hit_all(store, keys, BATCH))
        figures["hit, one at a time"] = rate(rows, lambda: hit_all(store, keys, 1))
        figures["key and hit"] = rate(rows, lambda: hit_all(store, keys_of(calls), BATCH))
    with Store(folder / "alone") as store:  # closed once, so without its log
        figures["bytes per row"] = {"bytes": store.size() / rows}
    with Store(folder / "together") as store:
        pairs = ((key("m", call), call) for call in calls)
        figures["key and put"] = rate(rows, lambda: put_all(store, pairs))
    figures["bare executemany"] = rate(rows, lambda: bare(folder / "bare", keys, calls))
    for name, reference in {
        "put": "bare executemany",
        "key and put": "bare executemany",
    }.items():
        figures[name]["ratio"] = figures[name]["per_s"] / figures[reference]["per_s"]
    return figures


def memory(folder: Path) -> dict[str, Figure]:
    """Resident memory and puts while a store grows to a million rows, and its hits once there."""
    figures: dict[str, Figure] = {}
    keys: list[bytes] = []
    some, tenth = MILLION // 50, MILLION // 10
    with Store(folder / "million") as store:
        for start in range(0, MILLION, some):
            pairs = [(key("m", call), call) for call in many_calls(some, seed=start)]
            keys += [found for found, _ in pairs[::50]]
            figure = rate(some, lambda: put_all(store, iter(pairs)))  # noqa: B023
            if not (start + some) % tenth:
                figures[f"put up to row {start + some:,}"] = {**figure, "rss_mb": resident()}
        random.Random(0).shuffle(keys)
        figures["hit among a million"] = rate(len(keys), lambda: hit_all(store, keys, BATCH))
        figures["bytes per row of a million"] = {"bytes": store.size() / MILLION}
    return figures


def many_calls(rows: int, seed: int = 0) -> Iterator[Call]:
    """Calls of 800 characters whose words are drawn from a vocabulary of 3,000."""
    choice = random.Random(0)
    letters = "etaoinshrdlucmfwyp"
    words = ["".join(choice.choices(letters, k=choice.randint(2, 9))) for _ in range(3000)]
    system = Message("system", " ".join(choice.choices(words, k=60))[:200])
    choice.seed(seed)
    for number in range(rows):
        text = f"{seed} {number} " + " ".join(choice.choices(words, k=120))
        yield Call((system, Message("user", text[:600])), Sampling(0.7), number % 4)


def put_all(store: Store, pairs: Iterator[tuple[bytes, Call]]) -> None:
    for found, call in pairs:
        store.put(found, call, answer_to(call), "m")
    store.flush()


def hit_all(store: Store, keys: list[bytes], batch: int) -> None:
    for start in range(0, len(keys), batch):
        assert len(store.get_many(keys[start : start + batch])) == len(keys[start : start + batch])


def keys_of(calls: list[Call]) -> list[bytes]:
    return [key("m", call) for call in calls]


def answer_to(call: Call) -> Answer:
    return Answer(call.messages[-1].content[:200], "stop", 200, 40)


def bare(path: Path, keys: list[bytes], calls: list[Call]) -> None:
    """The reference: the same rows, as plain as can be, 10,000 in a transaction."""
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("CREATE TABLE answers (key BLOB UNIQUE, call BLOB, text TEXT, p INT, c INT)")
    for start in range(0, len(keys), 10_000):
        some = zip(keys[start : start + 10_000], calls[start : start + 10_000], strict=True)
        rows = [(k, encode("m", c), answer_to(c).text, 200, 40) for k, c in some]
        database.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?)", rows)
        database.commit()
    database.close()


def rate(rows: int, work: Callable[[], object]) -> Figure:
    """How often per second, by the clock on the wall and by the processor's."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"per_s": rows / wall, "per_cpu_s": rows / cpu}


def resident() -> float:
    """This process's resident memory, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def show(figures: dict[str, Figure]) -> None:
    print(f"{'':28}{'per s':>12}{'per cpu s':>12}")
    for name, figure in figures.items():
        rates = "".join(f"{figure[k]:12,.0f}" for k in ("per_s", "per_cpu_s") if k in figure)
        rest = [f"{k} {v:,.2f}" for k, v in figure.items() if not k.startswith("per_")]
        print(f"{name:28}{rates}  {', '.join(rest)}")


if __name__ == "__main__":
    main()
