"""Soft labels on their way through TRL's trainers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Batch = dict[str, Any]


@dataclass(frozen=True)
class SoftCollator:
    """A collator of TRL's, with the labels: `target` (B) beside `input_ids` (2 B, T), likelier
    answers first. The trainer's arguments need `remove_unused_columns=False`."""

    pairs: Callable[[list[Batch]], Batch]

    def __call__(self, examples: list[Batch]) -> Batch:
        import torch

        targets = torch.tensor([example["target"] for example in examples], dtype=torch.float32)
        return {**self.pairs(examples), "target": targets}
