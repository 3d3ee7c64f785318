"""The training process of PPO, put together: what `into/job.json` asks for, to its end."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import set_seed

from rlaif import training
from rlaif.config.policy import PpoConfig
from rlaif.errors import ConfigError
from rlaif.evaluation.truth import reader
from rlaif.policy.ppo.checkpoint import Checkpoints, best_folder
from rlaif.policy.ppo.critic import load_critic
from rlaif.policy.ppo.curves import Curves, Row
from rlaif.policy.ppo.learner import Learner
from rlaif.policy.ppo.policy import Policy
from rlaif.policy.ppo.probe import Gauge, Probe, first_and_last
from rlaif.policy.ppo.prompts import answer_ends, decoder, heldout_prompts, training_prompts
from rlaif.policy.ppo.rollouts import engine
from rlaif.policy.ppo.trainer import Ppo
from rlaif.policy.ppo.wires import Wires
from rlaif.policy.rewards import Rewards, opened
from rlaif.training import models
from rlaif.training.examples import Encoder
from rlaif.training.fitting import Fitted, stopping
from rlaif.training.launching import CHECKPOINTS

_MEANS = (
    "reward", "score", "reward_after_kl", "kl", "kl_k3", "entropy", "policy_loss", "value_loss",
    "explained_variance", "clip_fraction", "approx_kl", "length", "eos_rate", "mismatch",
    "unscored",
)  # fmt: skip


def run(into: Path) -> None:
    """Train, stop where a wire trips, save, and leave the metrics."""
    began, asked = time.monotonic(), training.job(into)
    PartialState()  # chooses this process's GPU before a model is loaded
    config, seed = PpoConfig.model_validate(asked["config"]), asked["seed"]
    folders = {name: Path(folder) for name, folder in asked["reward_models"].items()}
    with opened(config.rewards, reward_models=folders, judge=asked["judge"], seed=seed) as rewards:
        session = Session(into, config, asked, rewards)
        session.train()
        metrics, save = session.metrics(), session.save
        best = session.best()
    del session, rewards  # saving takes memory, too
    if best is None:
        save(into / "model")
    elif PartialState().is_main_process:
        shutil.rmtree(into / "model", ignore_errors=True)
        shutil.copytree(best, into / "model")
    training.finish(into, metrics | {"seconds": round(time.monotonic() - began, 1)})


class Session:
    """One training, new or gone on with."""

    def __init__(
        self, into: Path, config: PpoConfig, asked: dict[str, Any], rewards: Rewards
    ) -> None:
        self._into, self._config, self._rewards = into, config, rewards
        self._start, seed = models.source(asked["model"]), asked["seed"]
        set_seed(seed)  # of new adapters
        self.encode = Encoder(self._start, config.max_length, asked.get("templates"))
        prompts = Path(asked["prompts"])
        self._prompts, self._left_out = training_prompts(into, prompts, self.encode, config, seed)
        self.policy = Policy(self._start, config)
        self._accelerator = self.policy.learner.accelerator
        _check_split(config, self._accelerator.num_processes)
        self._critic = self._learned_critic(asked)
        self.save = partial(self.policy.save, tokenizer=self.encode.tokenizer)
        self._checkpoints = Checkpoints(
            into / CHECKPOINTS, self.policy.learner, self._critic, self.save
        )
        state = self._checkpoints.load()
        ends, pad = answer_ends(self.policy.learner.bare, self.encode), self.encode.padding
        drawing = engine(self.policy, config, ends, pad)
        gauge, decode = Gauge(config.rewards), decoder(self.encode, ends)
        self._ppo = Ppo(
            config, seed, self.policy, self._critic, drawing, rewards, gauge, self._prompts, ends,
            pad, decode,
        )  # fmt: skip
        self._probe = Probe(
            heldout_prompts(prompts, self.encode, config), drawing, rewards, gauge, decode,
            reader(config.oracle), self._accelerator, seed,
        )  # fmt: skip
        self._gauge, self._wires = gauge, Wires(config.wires)
        if state:
            self._restore(state)
        done = self._ppo.state.step if state else -1
        self._curves = Curves(into, config.report_to, self._accelerator, done, self._ppo.total)

    def train(self) -> None:
        """Probe, then batch by batch until the end, a wire or SIGTERM, whose exit status is 143."""
        ppo = self._ppo
        with stopping() as stop:
            if not self._curves.rows:
                self._curves.add(self._probed({"step": 0}))
            while ppo.state.step < ppo.total and not self._wires.tripped:
                row = ppo.step()
                self._wires.batch(row)
                if ppo.state.step % self._config.probe_every == 0 or ppo.state.step == ppo.total:
                    row = self._probed(row)
                self._curves.add(row)
                if stop.told or ppo.state.step % self._config.save_every == 0:
                    self._checkpoints.save(ppo.state.step, self._state())
                if stop.told:
                    sys.exit(128 + signal.SIGTERM)
        self._curves.close()

    def best(self) -> Path | None:
        """The folder of the policy to go back to, if a wire has tripped."""
        best = self._wires.best if self._wires.tripped else None
        return best_folder(self._into / CHECKPOINTS, best.step) if best else None

    def _learned_critic(self, asked: dict[str, Any]) -> Learner:
        config, own = self._config, asked["critic"]
        critic = load_critic(Path(own) if own else None, self._start, config.lora)
        rate = config.critic_learning_rate or config.learning_rate
        return Learner(critic, rate, config.max_grad_norm)

    def _probed(self, row: Row) -> Row:
        return self._probe.added(row, self._wires, self._checkpoints.save_best)

    def _state(self) -> dict[str, Any]:
        state = self._ppo.state
        return {
            "step": state.step,
            "beta": state.beta,
            "tokens": state.tokens,
            "units": state.units,
            "rewards": self._rewards.state(),
            "gauge": self._gauge.state(),
            "wires": self._wires.state(),
        }

    def _restore(self, saved: dict[str, Any]) -> None:
        state = self._ppo.state
        state.step, state.beta, state.tokens = saved["step"], saved["beta"], saved["tokens"]
        self._critic.bare.units = state.units = tuple(saved["units"])
        self._rewards.restore(saved["rewards"])
        if saved["gauge"]:
            self._gauge.set(saved["gauge"])
        self._wires.restore(saved["wires"])

    def metrics(self) -> dict[str, Any]:
        """What happened."""
        ppo, rows = self._ppo, self._curves.rows
        fitted = Fitted(ppo.state.step, rows)
        return {
            "examples": len(self._prompts),
            "left_out": self._left_out,
            "steps": fitted.steps,
            "planned_steps": ppo.total,
            "answers": ppo.state.step * ppo.answers,
            "tokens": ppo.state.tokens,
            **{name: fitted.last(name) for name in _MEANS},
            "beta": ppo.state.beta,
            "rewards": self._rewards.metrics(),
            "probe": first_and_last(rows),
            "stopped": self._wires.stopped(),
            "seconds_by": {name: round(s, 1) for name, s in sorted(ppo.seconds.items())},
        }


def _check_split(config: PpoConfig, processes: int) -> None:
    if config.batch_size % processes:
        what = f"batch_size {config.batch_size} is no multiple of {processes} processes"
        raise ConfigError(what, where="policy.batch_size", remedy="change it")
