"""How much memory PPO takes: the sandbox's model widened to 100M random weights.

    python -m tests.bench.bench_ppo_memory [--json]

The reference is the sum of what has to be there: policy, critic, reference, reward model and both
optimizers' states, in float32; with adapters the reference, and the states of all but adapters,
cost nothing. The promise is a peak within 1.2 of it, beside a process that has only imported.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rlaif.config.policy import PpoConfig
from rlaif.jsonl import writing
from rlaif.records import Message, Prompt
from rlaif.training.launching import JOB

BOUND = 1.2
IMPORTED = "import resource, accelerate, peft, datasets, rlaif.policy.ppo.running"
TRAINED = """
import sys
from pathlib import Path
from rlaif.policy.ppo import fit
fit(Path(sys.argv[1]))
"""
PEAK = "\nimport resource\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    with tempfile.TemporaryDirectory() as folder:
        figures = measured(Path(folder))
    over = [way for way in ("full", "lora") if figures[way]["ratio"] > BOUND]
    if as_json:
        print(json.dumps(figures | {"bound": BOUND, "over": over}))
    else:
        for way in ("full", "lora"):
            said = "{peak:8.2f} GB, of {needed:.2f} GB needed: {ratio:.2f}".format(**figures[way])
            print(f"{way:6}{said}{'  over the bound' if way in over else ''}")
    return 1 if over else 0


def measured(folder: Path) -> dict[str, Any]:
    """Peak, need and their ratio for full training and for adapters, in GB."""
    model, reward = _models(folder)
    size = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    prompts = _prompts(folder)
    base = _peak(IMPORTED)
    figures: dict[str, Any] = {"weights": size / 4, "imported": base / 1e9}
    for way, copies in (("full", 8), ("lora", 3)):  # 8: four models, two states for each of two
        into = folder / way
        job = _job(into, model, reward, prompts, lora={} if way == "lora" else None)
        peak, needed = (_peak(TRAINED, str(job)) - base) / 1e9, copies * size / 1e9
        figures[way] = {"peak": peak, "needed": needed, "ratio": peak / needed}
    return figures


def _peak(code: str, *args: str) -> int:
    """Bytes in memory at most, of a process of its own."""
    command = [sys.executable, "-c", code + PEAK, *args]
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=env, text=True)
    return int(done.stdout.splitlines()[-1])


def _job(into: Path, model: Path, reward: Path, prompts: Path, lora: Any) -> Path:
    into.mkdir()
    config = PpoConfig(
        batch_size=8, minibatches=1, micro_batch=1, ppo_epochs=1, max_tokens=32, max_length=128,
        lora=lora, rollouts="transformers", probe_prompts=4, save_every=1,
    )  # fmt: skip
    job = {
        "config": config.model_dump(mode="json"), "seed": 0, "model": str(model),
        "prompts": str(prompts), "reward_models": {"reward": str(reward)}, "judge": None,
        "critic": str(reward),
    }  # fmt: skip
    (into / JOB).write_text(json.dumps(job))
    return into


def _prompts(folder: Path) -> Path:
    for split, n in (("train", 16), ("heldout", 4)):
        with writing(folder / f"{split}.jsonl") as write:
            for i in range(n):
                write(Prompt(f"{split}{i}", (Message("user", f"How do I clean lamp {i}?"),)))
    return folder


def _models(folder: Path) -> tuple[Path, Path]:
    """The seed model's architecture, wider and deeper, and a reward model of the same size."""
    import shutil

    import torch
    from transformers import AutoConfig, LlamaForCausalLM, LlamaForSequenceClassification

    from rlaif.shipped import SEED_MODEL

    config = AutoConfig.from_pretrained(
        SEED_MODEL, hidden_size=1024, intermediate_size=2752, num_hidden_layers=8,
        num_attention_heads=16, num_key_value_heads=16, head_dim=64, dtype="float32",
    )  # fmt: skip
    torch.manual_seed(0)
    made = []
    for kind in (LlamaForCausalLM, LlamaForSequenceClassification):
        config.num_labels = 1
        into = folder / kind.__name__
        kind(config).save_pretrained(into)
        for path in SEED_MODEL.iterdir():
            if path.suffix != ".safetensors" and not (into / path.name).exists():
                shutil.copy(path, into)
        made.append(into)
    return made[0], made[1]


if __name__ == "__main__":
    sys.exit(main())
