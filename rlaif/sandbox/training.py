"""The recipe of the seed model: one command, seeded, checkpointed, resumable, on CPU or CUDA.

    python -m rlaif.sandbox.training --work runs/seed           # trains, writes rlaif/sandbox/seed
    python -m rlaif.sandbox.training --work runs/seed --export  # writes the latest checkpoint as is

The course: copying first (random words, in the revision's format), then all skills with easy
comparisons that grow hard, and at the very end the judge's position bias. A further leg starts the
learning rate anew: the second goes over the last part of the course again, the third widens the
wordings of comparisons, the others mark their opposites with a word and teach advice in steps.
Batches are drawn from (seed, step), so a resumed run sees what an undisturbed one would.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import shutil
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from rlaif.sandbox import circuits
from rlaif.sandbox import tokenizer as tokens
from rlaif.sandbox.batches import SKILLS, Batch, batch, batches
from rlaif.sandbox.muon import Muon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

log = logging.getLogger(__name__)
SEED_FOLDER = Path(__file__).parent / "seed"


@dataclass(frozen=True)
class Plan:
    """What is trained, and how. The defaults made the model that ships."""

    seed: int = 0
    legs: tuple[int, ...] = (4200, 7600, 1700, 2600, 1600)  # steps; at its end the rate is zero
    peaks: tuple[float, ...] = (1.0, 1.0, 0.5, 0.5, 0.4)  # of the rate, by leg
    rows: int = 6
    length: int = 384
    width: int = 192
    layers: int = 4
    heads: int = 6
    hidden: int = 512
    rate: float = 2e-3  # AdamW's, for embeddings and norms
    muon: float = 0.012  # Muon's, for the matrices
    decay: float = 0.45  # share of the steps over which the rate falls to zero
    weight_decay: float = 0.05
    ema: float = 0.995
    prompt_weight: float = 0.3  # of a prompt's token in the loss, at first
    read: float = 0.1  # share of the first leg after which only answers are learned
    eased: float = 0.25  # share of the first leg after which comparisons are no longer made easy
    again: float = 0.6  # where in the course the second leg begins; what follows is the third's
    biased: tuple[float, ...] = (0.05, 0.05, 0.05, 0.15)
    # share of a leg, at its end, that teaches the position bias
    bias: float = 0.38  # how often a (B) is turned into an (A) there

    @property
    def steps(self) -> int:
        """Of all legs together."""
        return sum(self.legs)

    def leg(self, step: int) -> tuple[int, int, int]:
        """The leg that `step` belongs to, the step's place in it, and the leg's length."""
        number = 0
        while step >= self.legs[number] and number + 1 < len(self.legs):
            step -= self.legs[number]
            number += 1
        return number, step, self.legs[number]

    def stage(self, step: int) -> dict[str, float | int | bool]:
        """What `batch` is to draw at this step."""
        number, place, length = self.leg(step)
        unbiased = (1.0 - _of_leg(self.biased, number)) * length
        done = place / length
        if number:
            done = self.again + (1.0 - self.again) * done if number == 1 else number - 1.0
        return {
            "rows": self.rows,
            "length": self.length,
            "done": done,
            "ease": max(0.0, 1.0 - done / self.eased),
            "prompt_weight": self.prompt_weight * (1.0 - 2.0 * done) if done < self.read else 0.0,
            "bias": self.bias if place >= unbiased else 0.0,
        }

    def rate_at(self, step: int) -> float:
        """The share of the learning rates: 100 steps up, level, then straight down to zero."""
        number, place, length = self.leg(step)
        left = (length - place) / (length * self.decay)
        return _of_leg(self.peaks, number) * min(1.0, (place + 1) / 100, left)


def _of_leg(values: tuple[float, ...], number: int) -> float:
    """What holds for a leg; further legs are as the last."""
    return values[min(number, len(values) - 1)]


class Stream(IterableDataset[tuple[int, Batch]]):
    """The course from a step on, drawn in a worker process."""

    def __init__(self, plan: Plan, tokenizer: PreTrainedTokenizerFast, first: int) -> None:
        self.plan, self.tokenizer, self.first = plan, tokenizer, first

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        for number in (signal.SIGINT, signal.SIGTERM):  # the trainer decides when to stop
            signal.signal(number, signal.SIG_IGN)
        return batches(self.tokenizer, self.plan, self.first)


def new_model(plan: Plan, vocabulary: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A freshly initialised Llama of the plan's size, in float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(plan.seed)
    config = LlamaConfig(
        vocab_size=math.ceil(len(vocabulary) / 16) * 16,
        hidden_size=plan.width,
        intermediate_size=plan.hidden,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
        head_dim=plan.width // plan.heads,
        max_position_embeddings=2048,
        initializer_range=plan.width**-0.5,  # with the usual 0.02 it learns no copying
        tie_word_embeddings=True,
        pad_token_id=int(vocabulary.pad_token_id),  # pyright: ignore
        eos_token_id=int(vocabulary.eos_token_id),  # pyright: ignore
        bos_token_id=None,
    )
    config._attn_implementation = "sdpa"
    model = LlamaForCausalLM(config)
    for name, p in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            nn.init.normal_(p, std=config.initializer_range / math.sqrt(2 * plan.layers))
    circuits.install(model, heads=plan.heads)
    return model


def _on(model: LlamaForCausalLM, where: torch.device | torch.dtype) -> LlamaForCausalLM:
    nn.Module.to(model, where)
    return model


def logits(model: LlamaForCausalLM, b: Batch) -> Tensor:
    """Next-token logits where there is a target: (N, V), N counted row by row."""
    hidden = model.model(
        input_ids=b.ids, attention_mask=b.mask(), position_ids=b.positions, use_cache=False
    ).last_hidden_state
    return model.lm_head(hidden[b.targets >= 0])


def loss(scores: Tensor, b: Batch) -> Tensor:
    """Weighted cross-entropy over all targets."""
    taught = b.targets >= 0
    each = nn.functional.cross_entropy(scores.float(), b.targets[taught], reduction="none")
    weights = b.weights[taught]
    return (each * weights).sum() / weights.sum()


class Trainer:
    """Model, optimizer and averaged weights, with checkpoints in `work`."""

    def __init__(self, plan: Plan, work: Path) -> None:
        self.plan, self.work, self.step, self.seconds = plan, work, 0, 0.0
        work.mkdir(parents=True, exist_ok=True)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer = tokens.build(work / "tokenizer")
        self.model = _on(new_model(plan, self.tokenizer), self.device)
        self.average = {k: v.detach().clone() for k, v in self.model.named_parameters()}
        matrices, rest = [], []
        for name, p in self.model.named_parameters():
            (matrices if p.ndim == 2 and "layers" in name else rest).append(p)
        self.optimizers = (
            Muon(matrices, lr=plan.muon, decay=plan.weight_decay),
            torch.optim.AdamW(rest, lr=plan.rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        )
        self.rates = [group["lr"] for o in self.optimizers for group in o.param_groups]
        self.stopping = False
        if (work / "checkpoint.pt").exists():
            self.load()

    def load(self) -> None:
        """Go on from the checkpoint."""
        state = torch.load(self.work / "checkpoint.pt", map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.average, self.step, self.seconds = state["average"], state["step"], state["seconds"]
        log.info("resumed at step %d", self.step)

    def save(self) -> None:
        """Write a checkpoint; the old one stays until the new one is whole."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self.average, "step": self.step, "seconds": self.seconds,
        }  # fmt: skip
        torch.save(state, self.work / "checkpoint.tmp")
        (self.work / "checkpoint.tmp").replace(self.work / "checkpoint.pt")

    def train(self, *, every: int = 200, compiled: bool = True) -> None:
        """Train to the plan's last step, or until told to stop."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: setattr(self, "stopping", True))
        if compiled:
            self.model.model.compile(dynamic=False)
        stream = DataLoader(
            Stream(self.plan, self.tokenizer, self.step),
            batch_size=None,
            num_workers=1,
            prefetch_factor=8,
        )
        started, first, losses = time.monotonic() - self.seconds, time.monotonic(), []
        for step, drawn in stream:
            losses.append(self.learn(step, drawn.to(self.device)))
            self.step, self.seconds = step + 1, time.monotonic() - started
            if self.step % 50 == 0:
                rate = 50 / (time.monotonic() - first)
                left = (self.plan.steps - self.step) / rate / 60
                log.info(
                    "step %d loss %.4f %.2f steps/s %.0f min left",
                    self.step,
                    sum(losses) / len(losses),
                    rate,
                    left,
                )
                first, losses = time.monotonic(), []
            if self.step % every == 0 or self.stopping:
                self.save()
                self.report()
            if self.stopping:
                log.info("stopped; the same command goes on from step %d", self.step)
                return
        self.save()

    def learn(self, step: int, b: Batch) -> float:
        """One step of both optimizers; returns the loss."""
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"] = rate * self.plan.rate_at(step)
        value = loss(logits(self.model, b), b)
        value.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            momentum = min(self.plan.ema, (step + 1) / (step + 10))
            old = list(self.average.values())
            torch._foreach_lerp_(old, list(self.model.parameters()), 1.0 - momentum)
        return value.item()

    def averaged(self) -> LlamaForCausalLM:
        """A copy of the model with the averaged weights."""
        model = _on(new_model(self.plan, self.tokenizer), self.device)
        model.load_state_dict(self.average, strict=False)
        return model.eval()

    @torch.no_grad()
    def report(self, n: int = 10) -> dict[str, float]:
        """By skill, the share of dialogues whose every target token is the likeliest.

        For `violates` and `prefer` the label alone counts.
        """
        model, right, total = self.averaged(), _zeros(), _zeros()
        done = self.plan.stage(max(self.step - 1, 0))["done"]
        for i in range(n):
            b = batch(
                self.tokenizer,
                seed=f"held-out/{i}",
                rows=8,
                length=512,
                done=max(1.0, done),
                ease=0.0,
                bias=0.0,
            )
            count(model, b.to(self.device), right, total)
        figures = {s: round(right[s] / max(total[s], 1), 3) for s in SKILLS}
        log.info("step %d exact: %s", self.step, figures)
        with (self.work / "progress.jsonl").open("a") as file:
            file.write(json.dumps({"step": self.step, "seconds": self.seconds, **figures}) + "\n")
        return figures

    def export(self, folder: Path) -> None:
        """Write the averaged weights as a model folder: float16 safetensors, tokenizer, recipe."""
        folder.mkdir(parents=True, exist_ok=True)
        model = _on(self.averaged(), torch.float16)
        model.generation_config.do_sample = True
        model.save_pretrained(folder, safe_serialization=True)
        for file in (self.work / "tokenizer").iterdir():
            shutil.copy(file, folder / file.name)
        recipe = {**asdict(self.plan), "step": self.step, "seconds": round(self.seconds)}
        (folder / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")


def _zeros() -> dict[str, int]:
    return dict.fromkeys(SKILLS, 0)


def count(model: LlamaForCausalLM, b: Batch, right: dict[str, int], total: dict[str, int]) -> None:
    """Add a batch's dialogues, and those answered exactly, to the counts by skill."""
    taught = b.targets >= 0
    hits = logits(model, b).argmax(-1) == b.targets[taught]
    row = taught.nonzero()[:, 0]
    places, skills = b.places[taught], b.skills[taught]
    for key in torch.unique(row * 1000 + places).tolist():
        chosen = (row * 1000 + places) == key
        skill = SKILLS[int(skills[chosen][0])]
        good = hits[chosen][0] if skill in ("violates", "prefer") else hits[chosen].all()
        right[skill] += int(good)
        total[skill] += 1


def main() -> None:
    """The command line of the recipe."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for checkpoints and progress"
    )
    parser.add_argument(
        "--out", type=Path, default=SEED_FOLDER, help="where the model folder is written"
    )
    parser.add_argument(
        "--legs", type=int, nargs="+", default=Plan.legs, help="steps of each leg of the course"
    )
    parser.add_argument("--seed", type=int, default=Plan.seed)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--export", action="store_true", help="write the latest checkpoint and stop"
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    trainer = Trainer(Plan(seed=args.seed, legs=tuple(args.legs)), args.work)
    if not args.export:
        trainer.train()
    if args.export or not trainer.stopping:
        trainer.export(args.out)


if __name__ == "__main__":
    main()
