"""Run the benchmarks one after the other, each in a process of its own.

python -m tests.bench [NAME ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    names = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    args = parser.parse_args()
    if unknown := set(args.names) - set(names):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    figures: dict[str, object] = {}
    failed = [n for n in args.names or names if not run(n, figures if args.json else None)]
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"failed: {', '.join(failed)}" if failed else "all benchmarks ran, all bounds hold")
    return 1 if failed else 0


def run(name: str, figures: dict[str, object] | None) -> bool:
    """Run one, print how long it took, and keep its figures if they are wanted."""
    command = [sys.executable, "-m", f"tests.bench.bench_{name}"]
    print(f"== {name}", flush=True)
    started = time.monotonic()
    if figures is None:
        done = subprocess.run(command, cwd=HERE.parents[1], check=False)
    else:
        command.append("--json")
        done = subprocess.run(command, cwd=HERE.parents[1], check=False, stdout=subprocess.PIPE)
        figures[name] = _parsed(done.stdout)
    print(f"   {time.monotonic() - started:.1f} s, exit code {done.returncode}", flush=True)
    return done.returncode == 0


def _parsed(output: bytes) -> object:
    try:
        return json.loads(output)
    except ValueError:
        return {"unreadable": output.decode(errors="replace")}


if __name__ == "__main__":
    sys.exit(main())
