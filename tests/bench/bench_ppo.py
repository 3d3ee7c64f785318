"""PPO against the last PPOTrainer that TRL had (1.12.0): samples/s, and reward at equal divergence.

    python -m tests.bench.bench_ppo --run runs/demo [--answers 2048] [--json]

Both train the run's finetuned model on its training prompts by its reward model, one after the
other on the same cores, with the same settings: answers of up to 64 tokens, batches of 64, four
passes in four steps each. With `--forced` no answer ends before its 64th token. TRL gets an
environment of its own under the cache folder, made by pip on the first call. The clock runs in
batches alone, not while models load or vLLM starts; besides the wall's, it is that of the process's
CPU, which other processes slow down less. The first batch, which warms up, does not count for
speed. Reward is compared at the largest divergence that both reach, from the curves of both,
smoothed over five batches.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

from tests.bench.figures import concluded

HERE = Path(__file__).parent
TRL = "1.12.0"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
FASTER = 3.0  # times TRL's samples/s
WINDOW = 5  # batches
SETTINGS: dict[str, Any] = {
    "learning_rate": 3e-5,
    "batch": 64,
    "minibatches": 4,
    "max_tokens": 64,
    "no_eos_penalty": 1.0,
    "beta": 0.05,
    "value_weight": 0.1,  # TRL's own default; ours has an optimizer for the critic alone
    "seed": 0,
}
TOLD = ("answers", "ppo_epochs", "threads", "rollouts", "forced")

Row = dict[str, float]


# --- both sides -----------------------------------------------------------------------------------


def trl(job: dict[str, Any]) -> list[Row]:
    """TRL's rows: seconds and cpu of a batch, its answers, their mean reward and divergence."""
    into = Path(job["into"])
    (into / "job.json").write_text(json.dumps(job))
    _run([str(environment()), str(HERE / "trl_ppo.py"), str(into / "job.json")], into)
    return json.loads((into / "curves.json").read_text())


def ours(job: dict[str, Any]) -> list[Row]:
    """Our rows, from `child` in a process of its own."""
    into = Path(job["into"])
    (into / "bench.json").write_text(json.dumps(job))
    _run([sys.executable, "-m", "tests.bench.bench_ppo", "--child", str(into / "bench.json")], into)
    return json.loads((into / "curves.json").read_text())


def child(job: dict[str, Any]) -> None:
    """Train as a policy stage does, with a clock around each batch."""
    import torch

    from rlaif.config.policy import PpoConfig, RewardsConfig, TripwireConfig
    from rlaif.policy.ppo import fit, running
    from rlaif.policy.ppo.trainer import Ppo
    from rlaif.training.launching import JOB

    torch.set_num_threads(job["threads"])
    into, rows = Path(job["into"]), list[Row]()
    if job["forced"]:
        running.answer_ends = lambda model, encode: frozenset({-1})  # a token that nobody says
    off = dict.fromkeys(("kl", "entropy", "length", "divergence"))
    config = PpoConfig(
        learning_rate=job["learning_rate"],
        epochs=job["answers"] / len(job["prompts"]),
        batch_size=job["batch"] // job["minibatches"],
        minibatches=job["minibatches"],
        ppo_epochs=job["ppo_epochs"],
        max_tokens=job["max_tokens"],
        max_length=512,
        no_eos_penalty=job["no_eos_penalty"],
        beta=job["beta"],
        max_grad_norm=1e9,  # TRL's loop has no limit
        rewards=RewardsConfig(normalise=False),
        wires=TripwireConfig.model_validate(off),
        probe_every=10**6,
        probe_prompts=1,
        save_every=10**6,
        rollouts="transformers" if job["forced"] else job["rollouts"],
    )
    given = {"prompts": job["stage"], "reward_models": {"reward": job["reward_model"]}}
    given |= {"judge": None, "critic": job["reward_model"], "model": job["model"]}
    told = {"config": config.model_dump(mode="json"), "seed": job["seed"], **given}
    (into / JOB).write_text(json.dumps(told))
    loop: Any = Ppo
    loop.step = clocked(Ppo.step, rows, job["batch"])
    fit(into)
    (into / "curves.json").write_text(json.dumps(rows))


def clocked(step: Callable[[Any], Row], rows: list[Row], answers: int) -> Callable[[Any], Row]:
    """The step of the loop, which also adds a row."""

    def timed(self: Any) -> Row:
        wall, cpu = time.perf_counter(), time.process_time()
        row = step(self)
        rows.append(
            {
                "seconds": time.perf_counter() - wall,
                "cpu": time.process_time() - cpu,
                "answers": answers,
                "reward": row["reward/reward"],
                "kl": row["kl"],
            }
        )
        return row

    return timed


# --- TRL's environment ----------------------------------------------------------------------------


def environment() -> Path:
    """The Python of an environment with TRL 1.12.0, our torch and our transformers."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "rlaif" / "bench" / f"trl-{TRL}"
    python, ready = folder / "bin" / "python", folder / "ready"
    if not ready.is_file():
        print(f"making {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        same = [f"{name}=={version(name)}" for name in ("torch", "transformers", "datasets")]
        install = [str(python), "-m", "pip", "install", "--quiet", f"trl=={TRL}", *same]
        if subprocess.run(install, check=False).returncode:
            subprocess.run([*install, "--extra-index-url", TORCH_INDEX], check=True)
        ready.touch()
    return python


def _run(command: Sequence[str], into: Path) -> None:
    log = into / "bench.log"
    with log.open("wb") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        end = log.read_text(errors="replace")[-3000:]
        raise SystemExit(f"{' '.join(command)}: exit status {done.returncode}\n{end}")


# --- figures --------------------------------------------------------------------------------------


def measured(name: str, rows: list[Row]) -> dict[str, float]:
    """Of one side: answers a second, and where its curve ends."""
    timed, tail = rows[1:], rows[-WINDOW:]
    answers = sum(row["answers"] for row in timed)
    return {
        f"{name} samples/s": answers / sum(row["seconds"] for row in timed),
        f"{name} samples/CPU s": answers / sum(row["cpu"] for row in timed),
        f"{name} reward": fmean(row["reward"] for row in tail),
        f"{name} kl": fmean(row["kl"] for row in tail),
    }


def smoothed(rows: list[Row]) -> list[tuple[float, float]]:
    """(kl, reward) as means over a window, in the order of the training."""
    windows = (rows[i : i + WINDOW] for i in range(len(rows) - WINDOW + 1))
    return [(fmean(r["kl"] for r in w), fmean(r["reward"] for r in w)) for w in windows]


def reward_at(kl: float, rows: list[Row]) -> float:
    """The reward when the divergence first is `kl`, between two points of the smoothed curve."""
    curve = smoothed(rows)
    before = curve[0]
    for point in curve:
        if point[0] >= kl:
            span = point[0] - before[0]
            share = (kl - before[0]) / span if span > 0 else 1.0
            return before[1] + share * (point[1] - before[1])
        before = point
    return before[1]


def compared(theirs: list[Row], mine: list[Row]) -> dict[str, float]:
    """Both sides, their ratio, and their rewards at equal divergence."""
    kl = min(max(point[0] for point in smoothed(rows)) for rows in (theirs, mine))
    figures = measured("TRL", theirs) | measured("ours", mine)
    return figures | {
        "times the samples/s": figures["ours samples/s"] / figures["TRL samples/s"],
        "times the samples/CPU s": figures["ours samples/CPU s"] / figures["TRL samples/CPU s"],
        "equal kl": kl,
        "TRL reward at equal kl": reward_at(kl, theirs),
        "ours reward at equal kl": reward_at(kl, mine),
    }


def missed(figures: dict[str, float]) -> Iterator[str]:
    """The goals that are not met."""
    if figures["times the samples/CPU s"] < FASTER:
        yield f"less than {FASTER:g} times the samples of TRL in a second of the CPU"
    if figures["ours reward at equal kl"] < figures["TRL reward at equal kl"] - 0.01:
        yield "a lower reward than TRL at equal divergence"


def job(run: Path, into: Path, **given: Any) -> dict[str, Any]:
    """What both sides are told; `given` is as the command line has it."""
    from rlaif.policy.examples import questions
    from rlaif.training.examples import Encoder, LeftOut

    model, stage = run / "finetune" / "model", run / "prompts"
    rows = questions(stage, Encoder(model, 512), answer=SETTINGS["max_tokens"], limit=None)
    prompts = [row["prompt_ids"] for row in rows if not isinstance(row, LeftOut)]
    told = {"model": str(model), "reward_model": str(run / "reward" / "model")}
    told |= {"stage": str(stage), "prompts": prompts, "into": str(into)}
    told |= {"no_eos_penalty": 0.0} if given.get("forced") else {}
    return SETTINGS | told | given


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="a finished run")
    parser.add_argument("--answers", type=int, default=2048)
    parser.add_argument("--ppo-epochs", type=int, default=4, help="passes over a batch")
    parser.add_argument("--forced", action="store_true", help="64 tokens each, whatever they say")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rollouts", choices=("auto", "vllm", "transformers"), default="auto")
    parser.add_argument("--keep", type=Path, help="a folder for what both sides leave")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(json.loads(args.child.read_text()))
        return 0
    if not (args.run / "reward" / "model").is_dir():
        print(f"left out: {args.run} has no reward model; `rlaif demo` makes one", file=sys.stderr)
        print("{}" if args.json else "")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        root, found = args.keep or Path(scratch), {}
        for side in (trl, ours):
            into = root / side.__name__
            into.mkdir(parents=True)
            told = {name: vars(args)[name] for name in TOLD}
            found[side.__name__] = side(job(args.run.resolve(), into, **told))
    figures = compared(found["trl"], found["ours"])
    return concluded(figures, missed(figures), as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
