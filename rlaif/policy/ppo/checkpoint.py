"""Checkpoints: everything that the next step hangs on, so that a training goes on exactly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from rlaif.policy.ppo.learner import Learner

_STATE, _WHOLE, _BEST = "state.json", "complete", "best"
_KEPT = 2  # the last one may be torn by a kill


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
        """Write a checkpoint; it counts once it is marked whole."""
        self._write(self._folder / f"checkpoint-{step}", state)
        if self._accelerator.is_main_process:
            for old in sorted(self._folder.glob("checkpoint-*"), key=_step)[:-_KEPT]:
                shutil.rmtree(old)

    def load(self) -> dict[str, Any] | None:
        """Go on from the last whole checkpoint; its state, or None if there is none."""
        whole = [p.parent for p in self._folder.glob(f"checkpoint-*/{_WHOLE}")]
        if not whole:
            return None
        last = max(whole, key=_step)
        self._policy.load(last / "policy")
        self._critic.load(last / "critic")
        return json.loads((last / _STATE).read_text("utf-8"))

    def save_best(self, step: int) -> None:
        """Keep the policy as it is now, in place of the one that was kept before."""
        self._folder.mkdir(parents=True, exist_ok=True)
        kept = self._folder / f"{_BEST}-{step}"
        self._save(kept)
        for old in self._folder.glob(f"{_BEST}-*") if self._accelerator.is_main_process else ():
            if old != kept:
                shutil.rmtree(old)

    def best(self) -> Path:
        """The folder of the policy that was kept."""
        return max(self._folder.glob(f"{_BEST}-*"), key=_step)

    def _write(self, folder: Path, state: dict[str, Any]) -> None:
        if self._accelerator.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
        self._accelerator.wait_for_everyone()
        self._policy.save(folder / "policy")
        self._critic.save(folder / "critic")
        self._accelerator.wait_for_everyone()
        if self._accelerator.is_main_process:
            (folder / _STATE).write_text(json.dumps(state), "utf-8")
            (folder / _WHOLE).touch()


def _step(folder: Path) -> int:
    return int(folder.name.split("-")[1])
