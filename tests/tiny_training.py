"""A tiny model and tiny data, and a training of them in this process or in a child."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from rlaif.config.section import TrainerConfig
from rlaif.jsonl import writing
from rlaif.records import Chain, Message, Pair, Prompt, Step
from rlaif.training.launching import JOB, RESULT
from tests.faults.tiny_model import save_tiny_model

QUICK: dict[str, Any] = {"batch_size": 4, "max_length": 64, "learning_rate": 1e-2}


def model(folder: Path, *, dtype: str = "float16") -> Path:
    """A random Llama of one layer, stored as the sandbox's seed model is."""
    import torch
    from transformers import AutoModelForCausalLM

    save_tiny_model(folder, width=32, layers=1, vocab=300)
    half = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    half.save_pretrained(folder)
    return folder


def reward_model(language_model: Path, folder: Path) -> Path:
    """A reward model made from it, with a random head."""
    import torch

    from rlaif.training import models

    made, tokenizer = (
        models.load_model(language_model, reward=True),
        models.load_tokenizer(language_model),
    )
    noise = torch.Generator().manual_seed(0)
    head = made.get_parameter(models.HEAD)
    head.data = torch.randn(head.shape, generator=noise)
    made.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def text(key: object) -> str:
    """Some words, the same for the same key."""
    rng = random.Random(str(key))
    return " ".join(rng.choices(("apple", "boat", "cloud", "dune", "elm"), k=rng.randint(2, 5)))


def prompt(i: int) -> Prompt:
    return Prompt(f"p{i}", (Message("user", f"say {text(f'q{i}')}"),))


def chains(folder: Path, n: int = 12) -> Path:
    """The folder of a critique stage: a draft and two revisions for each prompt."""
    folder.mkdir()
    with writing(folder / "chains.jsonl") as write:
        for i in range(n):
            steps = tuple(Step(r, "kind", f"{text((i, r))} {r}") for r in (1, 2))
            write(Chain(prompt(i), text((i, 0)), steps))
    return folder


def pairs(folder: Path, n: int = 24, target: Callable[[int], float | None] | None = None) -> Path:
    """The folder of a preferences stage: the answer with more boats is better."""
    folder.mkdir()
    with writing(folder / "pairs.jsonl") as write:
        for i in range(n):
            a, b = f"{text((i, 'a'))} a", f"{text((i, 'b'))} b"
            more = a.count("boat") - b.count("boat")
            p = 0.9 if more > 0 else 0.1 if more < 0 else 0.5
            write(Pair(f"pair{i}", prompt(i), a, b, target(i) if target else p))
    return folder


def begin(into: Path, config: TrainerConfig, **given: Any) -> Path:
    """The job, as the stage writes it."""
    into.mkdir(exist_ok=True)
    job = {"config": config.model_dump(mode="json"), "seed": 0, **given}
    (into / JOB).write_text(json.dumps(job, default=str))
    return into


def fit(work: Callable[[Path], None], into: Path, config: TrainerConfig, **given: Any) -> Any:
    """Train in this process; the metrics."""
    work(begin(into, config, **given))
    return json.loads((into / RESULT).read_text())


def child(entry: str, into: Path) -> subprocess.Popen[bytes]:
    """The same in a process of its own, which computes as this one does."""
    import torch

    env = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    with (into / "train.log").open("ab") as log:
        command = [sys.executable, "-m", "rlaif.training", entry, str(into)]
        return subprocess.Popen(command, env=env, stdout=log, stderr=log)


def weights(folder: Path) -> dict[str, Any]:
    """The tensors of a model's folder."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def same_files(one: Path, other: Path, names: Sequence[str]) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM, once so many steps are logged."""
    from rlaif.training import fitting

    def said(path: Path, value: Any) -> None:
        if value["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(fitting, "write_whole", said)
