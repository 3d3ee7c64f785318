"""Answers as padded tensors, in few and little padded batches.

A micro batch of B answers has its prompts padded on the left to P tokens and its answers on the
right to A: every answer begins in the same column, so the last A + 1 positions are all that logits
are needed of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from rlaif.records import Prompt

Ids = list[int]


@dataclass(frozen=True, slots=True)
class Rollout:
    """An answer as it was drawn: `tokens` follow `asked`; `logprobs` are the engine's, of each
    token. A `finished` one ends with a token that ends a turn."""

    prompt: Prompt
    asked: Ids
    tokens: Ids
    logprobs: list[float]
    finished: bool


@dataclass(frozen=True, slots=True)
class Micro:
    """A micro batch on a device. `rows` (B) says which rollouts it holds."""

    rows: Tensor
    input_ids: Tensor  # (B, P + A)
    attention_mask: Tensor  # (B, P + A)
    answer: Tensor  # (B, A): tokens
    mask: Tensor  # (B, A): 1 at tokens of the answer, in float32

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What a causal language model is called with."""
        positions = (self.attention_mask.cumsum(1) - 1).clamp(min=0)
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": positions,
        }


Cut = Callable[[Sequence[Rollout], Sequence[int]], Iterator[Micro]]
"""From answers, and which of them, to micro batches."""


def collated(
    rollouts: Sequence[Rollout], rows: Sequence[int], pad: int, device: torch.device | str = "cpu"
) -> Micro:
    """Some rollouts as a micro batch."""
    chosen = [rollouts[row] for row in rows]
    p, a = max(len(r.asked) for r in chosen), max(len(r.tokens) for r in chosen)
    ids = torch.full((len(chosen), p + a), pad)
    seen = torch.zeros_like(ids)
    for i, r in enumerate(chosen):
        begin, end = p - len(r.asked), p + len(r.tokens)
        ids[i, begin:end] = torch.tensor(r.asked + r.tokens)
        seen[i, begin:end] = 1
    ids, seen = ids.to(device), seen.to(device)
    return Micro(torch.tensor(rows), ids, seen, ids[:, p:], seen[:, p:].float())


def micro_batches(
    rollouts: Sequence[Rollout],
    rows: Sequence[int],
    size: int,
    pad: int,
    device: torch.device | str = "cpu",
    overhead: int | None = None,
) -> Iterator[Micro]:
    """All of `rows` in micro batches, like lengths together.

    They are of `size` answers; with an `overhead`, which is what each costs beside its tokens, in
    tokens, they are of `size` at most, and cut where padding and overhead are least.
    """
    order = sorted(rows, key=lambda row: (len(rollouts[row].tokens), len(rollouts[row].asked), row))
    starts = list(range(0, len(order), size))
    if overhead is not None:
        starts = _starts([rollouts[row] for row in order], size, overhead)
    for start, end in pairwise([*starts, len(order)]):
        yield collated(rollouts, order[start:end], pad, device)


def _starts(rollouts: Sequence[Rollout], most: int, overhead: int) -> list[int]:
    """Where the batches begin, of `most` at most, that cost least together."""
    best = [(0, 0)]  # of the first n: their cost, and where the last batch of them begins
    for end in range(1, len(rollouts) + 1):
        asked = tokens = 0
        found: list[tuple[int, int]] = []
        for start in range(end - 1, max(end - most, 0) - 1, -1):
            asked = max(asked, len(rollouts[start].asked))
            tokens = max(tokens, len(rollouts[start].tokens))
            padded = (end - start) * (asked + tokens)
            found.append((best[start][0] + padded + overhead, start))
        best.append(min(found))
    starts = [best[-1][1]] if rollouts else []
    while starts and starts[0]:
        starts.insert(0, best[starts[0]][1])
    return starts


def spread(found: Sequence[tuple[Tensor, Tensor]], shape: tuple[int, int]) -> Tensor:
    """Results of micro batches, each (rows (B), values (B, A)), as one table padded with 0."""
    table = torch.zeros(shape)
    for rows, values in found:
        table[rows, : values.shape[1]] = values.float().cpu()
    return table


def taken(table: Tensor, micro: Micro) -> Tensor:
    """The rows of a table (N, longest) that a micro batch is of, on its device. (B, A)"""
    return table[micro.rows, : micro.mask.shape[1]].to(micro.mask.device)
