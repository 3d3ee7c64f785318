"""PPO's probes and tripwires for the trainers of TRL: a callback that looks at each step.

It also keeps in the checkpoints what they and the rewards hang on. The best policy is saved as it
is served; where a wire trips, it is the result, as with PPO.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rlaif.config.policy import GroupConfig
from rlaif.evaluation.truth import reader
from rlaif.policy.ppo.checkpoint import best_folder, forget
from rlaif.policy.ppo.learner import refuse_fsdp1
from rlaif.policy.ppo.probe import Gauge, Probe, first_and_last
from rlaif.policy.ppo.prompts import answer_ends, decoder, heldout_prompts
from rlaif.policy.ppo.rollouts import Generated
from rlaif.policy.ppo.wires import Wires
from rlaif.policy.rewards import Rewards
from rlaif.training import models
from rlaif.training.examples import Encoder
from rlaif.training.launching import CHECKPOINTS

STATE = "watch.json"
Row = dict[str, Any]


@dataclass(frozen=True)
class _Trained:
    """The trainer's model, for whoever draws answers."""

    trainer: Any

    @property
    def model(self) -> Any:
        return self.trainer.model_wrapped

    @property
    def bare(self) -> Any:
        return self.accelerator.unwrap_model(self.trainer.model)

    @property
    def accelerator(self) -> Any:
        return self.trainer.accelerator


class Watch(TrainerCallback):
    """Probes held-out prompts, watches the wires, and stops the `trainer` when one trips.

    The curve `reward` is in standard deviations of the start model's held-out answers, as PPO's is;
    without held-out prompts it is the weighted sum, there is no probe and no way back.
    """

    trainer: Any  # set once it is made

    def __init__(
        self, into: Path, asked: dict[str, Any], config: GroupConfig, encode: Encoder,
        rewards: Rewards,
    ) -> None:  # fmt: skip
        self._folder, self._start = into / CHECKPOINTS, models.source(asked["model"])
        self._config, self._encode, self._rewards = config, encode, rewards
        self._seed, self._prompts = (
            asked["seed"],
            heldout_prompts(Path(asked["prompts"]), encode, config),
        )
        self._gauge, self._wires = Gauge(config.rewards), Wires(config.wires)

    # --- what the trainer calls -------------------------------------------------------------------

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        refuse_fsdp1(self.trainer.accelerator)
        ends = answer_ends(_Trained(self.trainer).bare, self._encode)
        drawing = Generated(_Trained(self.trainer), self._config, ends, self._encode.padding)
        self._probe = Probe(
            self._prompts, drawing, self._rewards, self._gauge, decoder(self._encode, ends),
            reader(self._config.oracle), self.trainer.accelerator, self._seed,
        )  # fmt: skip
        if state.global_step:
            self._restore(json.loads(self._kept(state).read_text("utf-8")))
        elif self._prompts:
            state.log_history.append(self._probed({"step": 0}))

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        row = state.log_history[-1]
        if not {"entropy", "length"} <= row.keys():  # a summary, not a step
            return
        unknown = {f"reward/{name}": math.nan for name in self._gauge.weights}
        reward = self._gauge.read(unknown | row)
        self._wires.batch(row | {"reward": reward})
        if not math.isnan(reward):
            row["reward"] = reward
        last = state.global_step == state.max_steps
        if self._prompts and (last or state.global_step % self._config.probe_every == 0):
            row |= self._probed(row)
        if self._wires.tripped:
            control.should_training_stop = True
            control.should_save = False  # gone on with, it trips again

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.is_world_process_zero:
            self._kept(state).write_text(json.dumps(self._state()), "utf-8")
            forget(self._folder, STATE)

    # --- the end ----------------------------------------------------------------------------------

    def save(self, into: Path) -> None:
        """Save the policy as it is served; the best one if a wire has tripped."""
        best = self._wires.best
        if not self._wires.tripped or not best:
            models.save(self.trainer, self._start, into, lora=self._config.lora)
        elif self.trainer.is_world_process_zero():
            shutil.rmtree(into, ignore_errors=True)
            shutil.copytree(best_folder(self._folder, best.step), into)

    def metrics(self) -> Row:
        """`planned_steps`, `answers`, `probe` and `stopped`, as PPO has them."""
        state, counted = self.trainer.state, self._rewards.metrics()
        return {
            "planned_steps": state.max_steps,
            "answers": counted["scored"] + sum(counted["unscored"].values()),
            "probe": first_and_last(state.log_history),
            "stopped": self._wires.stopped(),
        }

    # --- parts ------------------------------------------------------------------------------------

    def _probed(self, row: Row) -> Row:
        return self._probe.added(row, self._wires, self._save_best)

    def _save_best(self, step: int) -> None:
        kept = best_folder(self._folder, step)
        models.save(self.trainer, self._start, kept, lora=self._config.lora)

    def _state(self) -> Row:
        found = {"rewards": self._rewards.state(), "gauge": self._gauge.state()}
        return found | {"wires": self._wires.state()}

    def _restore(self, saved: Row) -> None:
        self._rewards.restore(saved["rewards"])
        self._wires.restore(saved["wires"])
        if saved["gauge"]:
            self._gauge.set(saved["gauge"])

    def _kept(self, state: TrainerState) -> Path:
        return self._folder / f"checkpoint-{state.global_step}" / STATE
