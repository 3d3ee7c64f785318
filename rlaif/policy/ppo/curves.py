"""Figures of a training as they come: sums over all processes, and where they are written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from rlaif.policy.tracking import Tracked
from rlaif.training.launching import PROGRESS, write_whole

CURVES = "curves.jsonl"
Row = dict[str, float]


class Totals:
    """Weighted means by name, over micro batches and processes."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, name: str, total: float, n: float) -> None:
        """Add a sum over `n` things; a process that has none of them adds 0 and 0."""
        before = self._sums.get(name, (0.0, 0.0))
        self._sums[name] = before[0] + total, before[1] + n

    def tokens(self, name: str, values: Tensor, mask: Tensor) -> None:
        """Add the mean over tokens, `values` and `mask` (B, A)."""
        self.add(name, float((values * mask).sum()), float(mask.sum()))

    def rewards(self, batch: Mapping[str, tuple[float, int]]) -> None:
        """Add `Rewards.batch` as `reward/<source>`."""
        for name, (total, n) in batch.items():
            self.add(f"reward/{name}", total, n)

    def means(self, accelerator: Accelerator) -> Row:
        """Each mean, of all processes; NaN where there was nothing."""
        sums = torch.tensor(list(self._sums.values()), dtype=torch.float64).reshape(-1, 2)
        found = reduced(accelerator, sums).tolist()
        pairs = zip(self._sums, found, strict=True)
        return {name: total / n if n else math.nan for name, (total, n) in pairs}


def reduced(accelerator: Accelerator, values: Tensor) -> Tensor:
    """The sum over all processes, on the CPU."""
    if accelerator.num_processes == 1:
        return values.cpu()
    summed: Any = accelerator.reduce(values.to(accelerator.device), "sum")
    return summed.cpu()


class Curves:
    """One row for each batch: in curves.jsonl, in progress.json, and with the named trackers.

    A row that has no value for a figure (NaN) leaves it out.

    Raises:
        ConfigError: a tracker is not installed.
    """

    def __init__(
        self, into: Path, trackers: tuple[str, ...], accelerator: Accelerator, done: int, total: int
    ) -> None:
        self._into, self._total, self._main = into, total, accelerator.is_main_process
        path = into / CURVES
        self.rows = [row for row in _read(path) if row["step"] <= done]
        if self._main:
            path.write_text("".join(map(_line, self.rows)), "utf-8")
        self._tracked = Tracked(into, trackers, done) if trackers else None

    def add(self, row: Mapping[str, float]) -> None:
        """Write a row, which is on the disk afterwards."""
        kept = {name: value for name, value in row.items() if not math.isnan(value)}
        self.rows.append(kept)
        if not self._main:
            return
        with (self._into / CURVES).open("a", encoding="utf-8") as file:
            file.write(_line(kept))
        said = "  ".join(f"{n} {kept[n]:.2f}" for n in ("reward", "kl", "length") if n in kept)
        progress = {"step": kept["step"], "total": self._total, "text": said}
        write_whole(self._into / PROGRESS, progress)
        if self._tracked:
            self._tracked.add(kept)

    def close(self) -> None:
        """Tell the trackers that this is all."""
        if self._tracked:
            self._tracked.close()


def _read(path: Path) -> list[Row]:
    if not path.is_file():
        return []
    lines = path.read_text("utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]  # the last may be torn


def _line(row: Mapping[str, float]) -> str:
    return json.dumps(row) + "\n"
