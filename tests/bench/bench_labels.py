"""What does the labelling stage cost beside the model it asks, and does its memory stay flat?

    python -m tests.bench.bench_labels [--json] [--only throughput|vllm|memory|editing] [--million]

vllm:   the stage's labelling, from answers.jsonl to pairs.jsonl, and `Engine.answers` on prebuilt
        calls, in turns, each on prompts of its own, against the real server with the sandbox's seed
        model. Goal: at least 85% of the engine's requests/s.
throughput: the same on the same calls against the stub server, which takes no time to think, with
        an empty completions store and without: what the labelling costs the client. No goal: of a
        server that is quicker than the client, every microsecond of ours takes its share.
memory: peak RSS of the client over 10,000 and 100,000 prompts (1,000,000 with --million) with an
        engine that answers at once. Goal: at most 10% more.
editing: calls sent anew when one of 16 principles is edited, for each of the 16. Goal: at most
        1.5/16 of the label calls.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from rlaif.completions import Store
from rlaif.config.run import PreferencesConfig
from rlaif.constitution import Constitution, Principle, load
from rlaif.engine import Engine, EngineConfig, Model, ScriptedEngine, serving
from rlaif.jsonl import writing
from rlaif.preferences import label, method_of, preferences, sample
from rlaif.preferences.counting import Tally
from rlaif.records import Answer, Call, Message, Prompt
from rlaif.sandbox.seed_model import engine_config
from rlaif.shipped import folder
from rlaif.templates import Templates
from tests.bench.figures import concluded
from tests.faults import fault_server

ROUNDS = 5
TEMPLATES = Templates(folder("prompts"))
CONFIG = PreferencesConfig()
WORDS = ["the", "a", "lamp", "answer", "gives", "some", "words", "about", "how", "one", "may", "do"]


def write_prompts(into: Path, n: int, first: int = 0) -> Path:
    """n prompts in the form of the prompts stage."""
    into.mkdir(parents=True, exist_ok=True)
    with writing(into / "train.jsonl") as write:
        for i in range(first, first + n):
            text = f"How do I mend lamp number {i}, which {prose(i, 20)}?"
            write(Prompt(f"p{i}", (Message("user", text),)))
    return into


def prose(seed: object, words: int) -> str:
    """So many words, the same for the same seed."""
    return " ".join(random.Random(str(seed)).choices(WORDS, k=words))


def answer(call: Call) -> str | tuple[float, ...]:
    """An answer of some 80 words, or a probability for each label."""
    if call.labels:
        return (0.6, 0.4)
    return f"{prose((call.messages[-1].content, call.sample), 80)}."


class Silent(ScriptedEngine):
    """A scripted engine that does not remember what it was asked."""

    def __init__(self) -> None:
        super().__init__(answer)
        self.asked = deque(maxlen=0)  # type: ignore[assignment]


def write_answers(into: Path, prompts: Path) -> Path:
    """answers.jsonl as the stage writes it."""
    into.mkdir(parents=True, exist_ok=True)
    with writing(into / "answers.jsonl") as write:
        for row in sample(prompts, Model.of(Silent()), CONFIG, TEMPLATES, 0):
            write(row)
    return into


def labelled_with(
    into: Path, engine: Engine | ScriptedEngine, law: Constitution, store: Store | None = None
) -> None:
    """The labelling of the stage, with this engine as judge."""
    method = method_of(CONFIG, law, TEMPLATES, 0)
    label(into, method, CONFIG, Model.of(engine, store), Tally(pairwise=True), 0)


def calls_of(into: Path, law: Constitution) -> list[Call]:
    """What the labelling asks."""
    recorder = ScriptedEngine(answer)
    labelled_with(into, recorder, law)
    return recorder.asked


Times = tuple[float, float]
"""Seconds by the clock, and of this process's CPU."""


def timed(
    work: Path | list[Call], engine: Engine, law: Constitution, stored: bool = False
) -> Times:
    """How long a folder takes to be labelled, or a list of calls to be answered."""
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        store = stack.enter_context(Store(Path(scratch) / "store.sqlite3")) if stored else None
        clock, cpu = time.perf_counter(), time.process_time()
        if isinstance(work, Path):
            labelled_with(work, engine, law, store)
        else:
            assert all(isinstance(o, Answer) for o in engine.answers(work, store=store))
        return time.perf_counter() - clock, time.process_time() - cpu


def bench_throughput(n: int) -> dict[str, float]:
    """Medians of several rounds, each of which does both in turn."""
    law = load(folder("constitution") / "general.yaml")
    with tempfile.TemporaryDirectory() as scratch, fault_server() as url:
        into = write_answers(Path(scratch) / "run", write_prompts(Path(scratch) / "prompts", n))
        calls = calls_of(into, law)
        engine = Engine(EngineConfig(model="stub", base_urls=(url,)))
        timed(calls[:200], engine, law)
        rounds = {
            stored: [
                (timed(calls, engine, law, stored), timed(into, engine, law, stored))
                for _ in range(ROUNDS)
            ]
            for stored in (True, False)
        }
    return {
        "label calls": len(calls),
        **compared(rounds[True], len(calls), ""),
        **compared(rounds[False], len(calls), ", no store"),
    }


def compared(rounds: list[tuple[Times, Times]], n: int, how: str) -> dict[str, float]:
    """The engine and the labelling, over all rounds."""
    return {
        f"engine requests/s{how}": statistics.median(n / bare[0] for bare, _ in rounds),
        f"labelling requests/s{how}": statistics.median(n / stage[0] for _, stage in rounds),
        f"share of the engine{how}": statistics.median(b[0] / s[0] for b, s in rounds),
        f"engine CPU us/call{how}": statistics.median(1e6 * b[1] / n for b, _ in rounds),
        f"labelling CPU us/call{how}": statistics.median(1e6 * s[1] / n for _, s in rounds),
    }


def bench_vllm(n: int) -> dict[str, float]:
    """Rounds of both in turn, each on prompts that the server has not seen."""
    law = load(folder("constitution") / "sandbox.yaml")
    rates: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as scratch, serving(engine_config()) as engine:
        root = Path(scratch)
        for r in range(ROUNDS + 1):
            made = [
                write_answers(
                    root / f"{r}-{side}", write_prompts(root / "p", n, (2 * r + side) * n)
                )
                for side in (0, 1)
            ]
            calls = calls_of(made[0], law)
            bare, stage = timed(calls, engine, law)[0], timed(made[1], engine, law)[0]
            rates.append((len(calls) / bare, 2 * n / stage))
    rates = rates[1:]  # the first round warms up
    return {
        "vLLM requests/s": statistics.median(bare for bare, _ in rates),
        "labelling requests/s on vLLM": statistics.median(stage for _, stage in rates),
        "share of vLLM": statistics.median(stage / bare for bare, stage in rates),
    }


def peak(n: int) -> float:
    """Peak RSS of this process, in MiB, after the whole stage over n prompts."""
    law = load(folder("constitution") / "general.yaml")
    with tempfile.TemporaryDirectory() as scratch:
        prompts, into = write_prompts(Path(scratch) / "prompts", n), Path(scratch) / "run"
        into.mkdir()
        preferences(
            into, CONFIG, prompts=prompts, policy=Model.of(Silent()), judge=Model.of(Silent()),
            constitution=law, templates=TEMPLATES, seed=0,
        )  # fmt: skip
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def bench_memory(sizes: list[int]) -> dict[str, float]:
    """Each size in a process of its own."""
    found = {}
    for n in sizes:
        code = f"from tests.bench.bench_labels import peak; print(peak({n}))"
        done = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        )
        found[f"peak MiB, {n} prompts"] = float(done.stdout)
    values = list(found.values())
    return found | {"growth of the peak": max(values) / values[0]}


def sixteen(edited: int | None = None) -> Constitution:
    """16 principles, one of them with another wording."""
    texts = [f"Which response follows rule {i}?" for i in range(16)]
    if edited is not None:
        texts[edited] += " Think of its spirit, too."
    principles = tuple(
        Principle(id=f"p{i}", critique=(text,), revise=(text,), prefer=(text,))
        for i, text in enumerate(texts)
    )
    return Constitution(id="sixteen", version="1", principles=principles)


def keys(prompts: Path, law: Constitution, k: int) -> set[Call]:
    """Every label call under a constitution."""
    with tempfile.TemporaryDirectory() as scratch:
        judge = ScriptedEngine(answer)
        preferences(
            Path(scratch), PreferencesConfig(principles=k), prompts=prompts,
            policy=Model.of(Silent()), judge=Model.of(judge),
            constitution=law, templates=TEMPLATES, seed=0,
        )  # fmt: skip
    return set(judge.asked)


def bench_editing(n: int) -> dict[str, float]:
    """For each principle edited, the calls that were not asked before."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        prompts = write_prompts(Path(scratch), n)
        for k in (1, 4):
            base = keys(prompts, sixteen(), k)
            anew = [len(keys(prompts, sixteen(i), k) - base) / len(base) for i in range(16)]
            found |= {
                f"sixteenths sent anew, K={k}, mean": 16 * statistics.mean(anew),
                f"sixteenths sent anew, K={k}, most": 16 * max(anew),
            }
    return found


def missed(figures: dict[str, float]) -> Iterator[str]:
    """The goals that are not met."""
    if figures.get("share of vLLM", 1.0) < 0.85:
        yield "labelling has less than 85% of vLLM's requests/s"
    if figures.get("growth of the peak", 1.0) > 1.1:
        yield "the peak grows with the prompts"
    for k in (1, 4):
        if figures.get(f"sixteenths sent anew, K={k}, most", 0.0) > 1.5:
            yield f"editing one of 16 principles with K={k} costs more than 1.5/16"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=("throughput", "vllm", "memory", "editing"))
    parser.add_argument("--million", action="store_true", help="a million prompts, too")
    args = parser.parse_args()
    sizes = [10_000, 100_000, 1_000_000] if args.million else [10_000, 100_000]
    parts = {
        "throughput": lambda: bench_throughput(2000),
        "vllm": lambda: bench_vllm(250),
        "memory": lambda: bench_memory(sizes),
        "editing": lambda: bench_editing(2000),
    }
    figures: dict[str, float] = {"cores": len(os.sched_getaffinity(0))}
    for name in [args.only] if args.only else parts:
        figures |= parts[name]()
    return concluded(figures, missed(figures), as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
