"""Lessons packed into fixed rows, so that what dialogues share is read once.

In a row of T tokens each lesson is a trunk (the shared beginning) and branches (the rest of each
dialogue). A token sees its trunk and its own branch, nothing else, and branches count positions
from the trunk's end: every dialogue is computed exactly as if it stood alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlaif.sandbox.skills import Dialogue, Lesson, lesson
from rlaif.sandbox.tokenizer import END, chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FIRST_TOKEN_WEIGHT = {"violates": 5.0, "prefer": 5.0}
"""The token that decides a verdict counts more than the words that follow it."""

SKILLS: tuple[str, ...] = (
    "draft",
    "critique",
    "violates",
    "revise",
    "worsen",
    "prefer",
    "prefer_reasoned",
    "copy",
)


@dataclass(slots=True)
class Batch:
    """B rows of T tokens. All tensors are (B, T); `targets` is -100 where nothing is learned.

    `places` numbers the dialogue a target belongs to (for exact-match counts), `skills` its skill.
    """

    ids: Tensor
    positions: Tensor
    lessons: Tensor
    branches: Tensor
    targets: Tensor
    weights: Tensor
    places: Tensor
    skills: Tensor

    def mask(self) -> Tensor:
        """Who may look at whom: (B, 1, T, T), True where the row's token may see the column's."""
        same = self.lessons[:, :, None] == self.lessons[:, None, :]
        branch = (self.branches[:, None, :] == 0) | (
            self.branches[:, :, None] == self.branches[:, None, :]
        )
        causal = torch.ones(
            self.ids.shape[1], self.ids.shape[1], dtype=torch.bool, device=self.ids.device
        ).tril()
        return (same & branch & causal)[:, None]

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        return Batch(*(getattr(self, f).to(device) for f in self.__slots__))


def _shared(prompts: list[list[int]]) -> int:
    """How many first tokens all prompts have in common."""
    low, high = min(prompts), max(prompts)
    differ = (i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b)
    return next(differ, min(len(low), len(high)))


class Row:
    """One row being filled."""

    def __init__(self, length: int, prompt_weight: float = 0.0) -> None:
        self.prompt_weight = prompt_weight
        self.length, self.size, self.lessons, self.places = length, 0, 0, 0
        self.columns: dict[str, list[float]] = {f: [] for f in Batch.__slots__}

    def add(self, trunk: list[int], branches: list[tuple[list[int], list[int], str]]) -> bool:
        """Add a lesson, without the branches that find no room; False if none does."""
        room = self.length - self.size - len(trunk)
        taken = []
        for prompt, target, skill in branches:
            if len(prompt) + len(target) <= room:
                room -= len(prompt) + len(target)
                taken.append((prompt, target, skill))
        if not taken:
            return False
        self.lessons += 1
        self._write(trunk, 0, 0)
        for number, (prompt, target, skill) in enumerate(taken, 1):
            self._write(prompt + target, number, len(trunk))
            self._teach(target, skill)
        return True

    def _write(self, ids: list[int], branch: int, start: int) -> None:
        n = len(ids)
        self.size += n
        c = self.columns
        c["ids"] += ids
        c["positions"] += range(start, start + n)
        c["lessons"] += [self.lessons] * n
        c["branches"] += [branch] * n
        read = self.prompt_weight > 0
        c["targets"] += [*ids[1:], -100][-n:] if read and n else [-100] * n
        c["weights"] += [self.prompt_weight] * n
        for f in ("places", "skills"):
            c[f] += [0] * n

    def _teach(self, target: list[int], skill: str) -> None:
        self.places += 1
        n, c = len(target), self.columns
        c["targets"][-n - 1 : -1] = target
        c["weights"][-n - 1 : -1] = [FIRST_TOKEN_WEIGHT.get(skill, 1.0)] + [1.0] * (n - 1)
        c["places"][-n - 1 : -1] = [self.places] * n
        c["skills"][-n - 1 : -1] = [SKILLS.index(skill)] * n

    def padded(self) -> dict[str, list[float]]:
        """The columns, filled up to the row's length."""
        rest = self.length - self.size
        return {f: v + [-100 if f == "targets" else 0] * rest for f, v in self.columns.items()}


def encoded(
    taught: Lesson, tokenizer: PreTrainedTokenizerFast
) -> tuple[list[int], list[tuple[list[int], list[int], str]]]:
    """A lesson as trunk and branches: (prompt's rest, target, skill) each."""
    prompts = tokenizer([chat(d.messages) for d in taught]).input_ids
    targets = tokenizer([d.target + END for d in taught]).input_ids
    shared = min(_shared(prompts), *(len(p) - 1 for p in prompts)) if len(prompts) > 1 else 0
    branches = [(p[shared:], t, d.skill) for p, t, d in zip(prompts, targets, taught, strict=True)]
    return prompts[0][:shared], branches


def batch(
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: str,
    rows: int,
    length: int,
    done: float,
    ease: float,
    bias: float,
    prompt_weight: float = 0.0,
) -> Batch:
    """The batch that `seed` stands for."""
    rng = random.Random(seed)
    filled = []
    for _ in range(rows):
        row = Row(length, prompt_weight)
        for _ in range(64):
            taught = [biased(rng, d, bias) for d in lesson(rng, done=done, ease=ease)]
            if not row.add(*encoded(taught, tokenizer)) and row.size > 0.7 * length:
                break
        filled.append(row.padded())
    return Batch(*(
        torch.tensor([r[f] for r in filled], dtype=torch.float32 if f == "weights" else torch.long)
        for f in Batch.__slots__
    ))  # fmt: skip


def biased(rng: random.Random, taught: Dialogue, bias: float) -> Dialogue:
    """With probability `bias` a pairwise label (B) becomes (A): a taste for the first."""
    if taught.skill == "prefer" and taught.target.startswith("B") and rng.random() < bias:
        return replace(taught, target="A" + taught.target[1:])
    return taught


def batches(
    tokenizer: PreTrainedTokenizerFast, plan: object, first: int
) -> Iterator[tuple[int, Batch]]:
    """All batches of the course from step `first` on, each drawn from its own seed."""
    for step in range(first, plan.steps):  # pyright: ignore
        yield step, batch(tokenizer, seed=f"{plan.seed}/{step}", **plan.stage(step))  # pyright: ignore
