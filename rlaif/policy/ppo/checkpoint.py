"""Checkpoints: everything that the next step hangs on, so that a training goes on exactly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from rlaif.policy.ppo.learner import Learner
from rlaif.training.fitting import WHOLE, last_checkpoint, step_of

_STATE, _BEST = "state.json", "best"


class Checkpoints:
    """A folder of `checkpoint-<step>`, each with policy, critic and state, and `best-<step>`, which
    is a policy as it is served."""

    def __init__(
        self, folder: Path, policy: Learner, critic: Learner, save: Callable[[Path], None]
    ) -> None:
        self._folder, self._policy, self._critic = folder, policy, critic
        self._accelerator: Accelerator = policy.accelerator
        self._save = save

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint; it counts once it is marked whole. The one before is kept, too."""
        made, before = self._folder / f"checkpoint-{step}", last_checkpoint(self._folder)
        self._write(made, state)
        if self._accelerator.is_main_process:
            for old in self._folder.glob("checkpoint-*"):
                if old not in (made, before):
                    shutil.rmtree(old)
            forget(self._folder, _STATE)

    def load(self) -> dict[str, Any] | None:
        """Go on from the last whole checkpoint; its state, or None if there is none."""
        last = last_checkpoint(self._folder)
        if last is None:
            return None
        self._policy.load(last / "policy")
        self._critic.load(last / "critic")
        return json.loads((last / _STATE).read_text("utf-8"))

    def save_best(self, step: int) -> None:
        """Keep the policy as it is now."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._save(best_folder(self._folder, step))

    def _write(self, folder: Path, state: dict[str, Any]) -> None:
        if self._accelerator.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
        self._accelerator.wait_for_everyone()
        self._policy.save(folder / "policy")
        self._critic.save(folder / "critic")
        self._accelerator.wait_for_everyone()
        if self._accelerator.is_main_process:
            (folder / _STATE).write_text(json.dumps(state), "utf-8")
            (folder / WHOLE).touch()


def best_folder(checkpoints: Path, step: int) -> Path:
    """Where the policy of a step is kept that was the best then."""
    return checkpoints / f"{_BEST}-{step}"


def forget(checkpoints: Path, state: str) -> None:
    """Remove the policies that were the best before the one that the oldest checkpoint knows, in
    its file `state`: a training that is gone on with from there may still go back to it."""
    known = checkpoints.glob(f"checkpoint-*/{state}")
    if oldest := min(known, key=lambda path: step_of(path.parent), default=None):
        best = json.loads(oldest.read_text("utf-8"))["wires"]["best"]
        for old in checkpoints.glob(f"{_BEST}-*") if best else ():
            if step_of(old) < best["step"]:
                shutil.rmtree(old)
