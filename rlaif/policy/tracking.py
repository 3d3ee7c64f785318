"""Curves as they come, in TensorBoard or with any other tracker that accelerate knows.

    policy: {report_to: [tensorboard]}                  # then: tensorboard --logdir runs

The names are those of curves.jsonl, whichever trainer they are from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rlaif.errors import ConfigError

_NO_FIGURES = {"step", "num_tokens"}


class Tracked:
    """The named trackers; without names, nobody.

    `done` is the last step that stays: later ones, which a stopped training left, are made anew.

    Raises:
        ConfigError: a tracker is not installed.
    """

    def __init__(self, into: Path, names: tuple[str, ...], done: int) -> None:
        for name in names:
            if find_spec(name) is None:
                remedy = f"pip install {name}, or leave it out"
                raise ConfigError(f"{name} is missing", where="policy.report_to", remedy=remedy)
        self._accelerator = Accelerator(log_with=list(names), project_dir=str(into))
        # Files that end in .log are no part of what a stage makes: they have the time in them.
        board = {"filename_suffix": ".log", "purge_step": done + 1}
        self._accelerator.init_trackers("tracked", init_kwargs={"tensorboard": board})

    def add(self, row: Mapping[str, Any]) -> None:
        """The figures of a step; those that are no finite numbers are left out."""
        known = {n: v for n, v in row.items() if n not in _NO_FIGURES and math.isfinite(v)}
        self._accelerator.log(known, step=int(row["step"]))

    def close(self) -> None:
        """That is all."""
        self._accelerator.end_training()


class Reporting(TrainerCallback):
    """The rows of a TRL trainer's log, tracked. Give it after the callbacks that add to them."""

    def __init__(self, into: Path, names: tuple[str, ...]) -> None:
        self._into, self._names = into, names
        self._tracked: Tracked | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self._names:
            done = state.global_step or -1
            self._tracked = Tracked(self._into, self._names, done)
            for row in state.log_history if done < 0 else ():
                self._tracked.add(row)  # what was measured before the first step

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        row = state.log_history[-1]
        if self._tracked and "train_runtime" not in row:
            self._tracked.add(row)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self._tracked:
            self._tracked.close()
