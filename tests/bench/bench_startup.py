"""How soon the command answers: the best of several starts, each in a fresh process.

    python -m tests.bench.bench_startup [--json]

The reference is Python itself doing nothing. The promise is 0.5 s for the whole. The best one
counts, because what else runs on the machine can only add to it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

BOUND = 0.5  # s
RUNS = 9
LAW = "constitution/general.yaml"
STARTS = {
    "python": ["-c", "pass"],
    "import rlaif": ["-c", "import rlaif"],
    "rlaif --help": ["-m", "rlaif", "--help"],
    "rlaif constitution --help": ["-m", "rlaif", "constitution", "--help"],
    "rlaif constitution check": ["-m", "rlaif", "constitution", "check", LAW],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    figures = {name: best(args) for name, args in STARTS.items()}
    late = [name for name, seconds in figures.items() if seconds > BOUND]
    if as_json:
        print(json.dumps({"seconds": figures, "bound": BOUND, "late": late}))
    else:
        for name, seconds in figures.items():
            print(f"{name:28}{seconds:6.2f} s{'  over the bound' if name in late else ''}")
    return 1 if late else 0


def best(args: list[str]) -> float:
    """Seconds of the quickest start of RUNS."""
    return min(_once(args) for _ in range(RUNS))


def _once(args: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *args], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
