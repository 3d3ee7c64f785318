"""The common part of every TRL training: arguments, exact resume, curves, figures."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rlaif.config.section import TrainerConfig
from rlaif.errors import ConfigError, TrainingFailed
from rlaif.jsonl import writing
from rlaif.training.launching import CHECKPOINTS, PROGRESS, write_whole
from rlaif.training.models import on_gpu_with_bf16
from rlaif.training.options import check_options, split

A = TypeVar("A", bound=TrainingArguments)

WHOLE = "complete"  # the file that a checkpoint gets last
_NOT_KEPT = {"step", "num_tokens"}  # not restored by TRL when a training goes on
_SUMMARY = "train_runtime"  # of the last row of the trainer's log, which is about time


def arguments(kind: type[A], folder: Path, config: TrainerConfig, seed: int, **more: Any) -> A:
    """TRL's arguments for a config; what `config.trl` says comes last and wins.

    Raises:
        ConfigError: an option is unknown, or the batch cannot be split over the devices.
    """
    per_device, accumulated = split(config, PartialState().num_processes)
    gpu = torch.cuda.is_available()
    ours: dict[str, Any] = {
        "output_dir": str(folder / CHECKPOINTS),
        "learning_rate": config.learning_rate,
        "num_train_epochs": config.epochs,
        "per_device_train_batch_size": per_device,
        "gradient_accumulation_steps": accumulated,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,  # a share of all steps
        "max_grad_norm": 1.0,
        "seed": seed,
        "bf16": on_gpu_with_bf16(),
        "use_cpu": not torch.accelerator.is_available(),  # else several processes miss one another
        "gradient_checkpointing": gpu,  # memory for time
        "dataloader_pin_memory": gpu,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_steps": config.save_every,
        "save_total_limit": 2,  # the last one may be torn by a kill
        "report_to": "none",
        "disable_tqdm": True,
    }
    known = {field.name for field in fields(kind) if field.init}
    check_options(config, known, kind.__name__)
    try:
        made = kind(**(ours | more | config.trl))
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error), where="trl", remedy="correct these options") from error
    made.get_warmup_steps = partial(_warm, made.warmup_steps)
    return made


def _warm(warmup: float, num_training_steps: int) -> int:
    """Steps of warm-up, rounded down: the first has a rate of 0, and a training of one step would
    learn nothing."""
    return int(warmup if warmup >= 1 else warmup * num_training_steps)


@dataclass(frozen=True)
class Fitted:
    """What a training left: its log, one row for each step of the optimizer."""

    steps: int
    curve: list[dict[str, Any]]

    def last(self, name: str) -> float | None:
        """Mean of a figure over the last tenth of the steps."""
        rows = [row for row in self.curve if name in row]
        tail = rows[-max(len(rows) // 10, 1) :]
        return sum(row[name] for row in tail) / len(tail) if tail else None


def fit(trainer: Trainer, folder: Path) -> Fitted:
    """Train, from the last whole checkpoint if there is one, and write curves.jsonl.

    On SIGTERM a checkpoint is written after the step and the process ends: its exit status is 143.
    """
    with stopping() as stop:
        trainer.add_callback(_Steward(folder, stop))
        last = last_checkpoint(folder / CHECKPOINTS)
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    if stop.told:
        sys.exit(128 + signal.SIGTERM)
    history = [row for row in trainer.state.log_history if _SUMMARY not in row]
    curve = [{"step": row["step"], **_kept(row)} for row in history]
    if trainer.is_world_process_zero():
        with writing(folder / "curves.jsonl") as write:
            for row in curve:
                write(row)
    return Fitted(trainer.state.global_step, curve)


def _kept(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in sorted(row.items()) if name not in _NOT_KEPT}


def last_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint that was written to its end."""
    whole = (path.parent for path in folder.glob(f"checkpoint-*/{WHOLE}"))
    return max(whole, key=step_of, default=None)


def step_of(folder: Path) -> int:
    """The step of a folder such as `checkpoint-12`."""
    return int(folder.name.split("-")[1])


class Stop:
    """Whether we were told to."""

    told = False


@contextmanager
def stopping() -> Iterator[Stop]:
    """SIGTERM asks for a checkpoint after the step; several processes, which would not agree on the
    step, end at once and go on from an earlier one."""
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        stop.told = True

    if PartialState().num_processes > 1:
        yield stop
        return
    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


class _Steward(TrainerCallback):
    """Shows the progress, marks whole checkpoints, and stops when it is told to."""

    def __init__(self, folder: Path, stop: Stop) -> None:
        self._folder, self._stop = folder, stop

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self._stop.told:
            control.should_save = control.should_training_stop = True

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        row, step = state.log_history[-1], state.global_step
        for name in ("loss",) if args.fp16 else ("loss", "grad_norm"):  # fp16 skips such a step
            if not math.isfinite(row.get(name, 0.0)):
                remedy = "set a lower learning_rate"
                raise TrainingFailed(f"the {name} is {row[name]} at step {step}", remedy=remedy)
        loss = row.get("loss")
        if loss is not None and state.is_world_process_zero:
            said = {"step": step, "total": state.max_steps, "text": f"loss {loss:.3f}"}
            write_whole(self._folder / PROGRESS, said)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.is_world_process_zero:
            (self._folder / CHECKPOINTS / f"checkpoint-{state.global_step}" / WHOLE).touch()
