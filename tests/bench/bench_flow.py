"""What Prefect costs: the same run with and without it, on many prompts and an engine that costs
nothing.

    python -m tests.bench.bench_flow [--prompts 100000] [--json]

Each prompt is drafted and revised (two calls), up to the end of the critique stage, in a process of
its own. Bounds: Prefect's database grows by less than 50 MB, the client's memory no more than the
run without Prefect plus what importing Prefect takes, and time by less than 5% beside the constant
start (`start_s`, the server included). A million prompts is the figure that the project promises.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rlaif.engine.counts import Counts
from rlaif.records import Answer, Call, Unanswered

GROWTH_MB, MEMORY_MB, SHARE = 50.0, 200.0, 0.05
CONFIG = """
name: bench
constitution: sandbox
model: sandbox
prompts: {sources: [{path: prompts.jsonl}], heldout: 0}
critique: {rounds: 1, direct: true}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--prompts", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--inside", choices=("flow", "plain"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        json.dump({"plain": plain, "flow": flow}[options.inside](), sys.stdout)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        kinds, n = ("plain", "flow"), options.prompts
        figures = {kind: measured(Path(folder) / kind, kind, n) for kind in kinds}
    figures["cost"] = cost = compared(figures["plain"], figures["flow"])
    print(json.dumps(figures, indent=1) if options.json else shown(figures, options.prompts))
    missed = [
        name
        for name, bound in (("database_mb", GROWTH_MB), ("memory_mb", MEMORY_MB), ("share", SHARE))
        if cost[name] > bound
    ]
    for name in missed:
        print(f"bound missed: {name} {cost[name]:.3g}", file=sys.stderr)
    return 1 if missed else 0


def measured(folder: Path, kind: str, prompts: int) -> dict[str, float]:
    """One run in a process of its own; seconds by the clock and by the processor, megabytes."""
    folder.mkdir()
    (folder / "bench.yaml").write_text(CONFIG, "utf-8")
    with (folder / "prompts.jsonl").open("w", encoding="utf-8") as file:
        for n in range(prompts):
            file.write(json.dumps({"prompt": f"Please explain thing number {n} to me."}) + "\n")
    own = {"RLAIF_STORE": str(folder / "store"), "PREFECT_HOME": str(folder / "prefect")}
    command = [sys.executable, "-m", "tests.bench.bench_flow", "--inside", kind]
    root = Path(__file__).parents[2]
    env = os.environ | own | {"PYTHONPATH": str(root)}
    env.pop("PREFECT_API_URL", None)
    done = subprocess.run(command, cwd=folder, env=env, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def plain() -> dict[str, float]:
    """The stages as they are."""
    from rlaif.config import load
    from rlaif.pipeline import Pipeline

    stand_in()
    began, used = time.perf_counter(), time.process_time()
    with Pipeline.open(load("bench.yaml"), root=Path("runs")) as run:
        run.critique(run.prompts())
    return figures(began, used)


def flow() -> dict[str, float]:
    """The same as `rlaif run` does it."""
    from rlaif.cli.run import pipeline, served

    stand_in()
    started = time.perf_counter()
    with served() as ready:
        asked = pipeline()
        ready()
        start = time.perf_counter() - started
        before = database()
        began, used = time.perf_counter(), time.process_time()
        asked(config_file="bench.yaml", until="critique")
        found = figures(began, used)
        return found | {"start_s": start, "database_mb": database() - before}


def stand_in() -> None:
    """Let every model be one that answers at once."""
    from rlaif.engine.models import Models

    Models.engine = lambda self, config: AtOnce()  # pyright: ignore


class AtOnce:
    """Answers with the length of what it is asked."""

    async def ask(self, call: Call, counts: Counts) -> Answer | Unanswered:
        said = Answer(f"Said to {len(call.messages[-1].content)} characters.", "stop", 50, 8)
        counts.add(said)
        return said

    async def aclose(self) -> None: ...


def figures(began: float, used: float) -> dict[str, float]:
    return {
        "s": time.perf_counter() - began,
        "cpu_s": time.process_time() - used,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def database() -> float:
    """The size of Prefect's database with its log, in MB."""
    home = Path(os.environ["PREFECT_HOME"])
    return sum(path.stat().st_size for path in home.glob("prefect.db*")) / 2**20


def compared(plain: dict[str, float], flow: dict[str, float]) -> dict[str, float]:
    return {
        "share": flow["cpu_s"] / plain["cpu_s"] - 1,  # of the processor, whatever else runs here
        "database_mb": flow["database_mb"],
        "memory_mb": flow["peak_mb"] - plain["peak_mb"],
        "start_s": flow["start_s"],
    }


def shown(found: dict[str, Any], prompts: int) -> str:
    cost = found["cost"]
    lines = [f"{prompts:,} prompts, two calls each"]
    for name, title in (("plain", "without Prefect"), ("flow", "as a flow")):
        run = found[name]
        times = f"{run['s']:8.1f} s  {run['cpu_s']:8.1f} cpu s"
        lines.append(f"{title:16} {times}  {run['peak_mb']:6.0f} MB at most")
    lines.append(
        f"Prefect: {100 * cost['share']:+.1f}% processor time, {cost['memory_mb']:+.0f} MB, "
        f"its database {cost['database_mb']:+.1f} MB; its start {cost['start_s']:.1f} s"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
