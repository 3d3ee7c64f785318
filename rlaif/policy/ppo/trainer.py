"""The loop of PPO: draw, score, reckon, learn; once for each batch of answers."""

from __future__ import annotations

import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlaif.config.policy import PpoConfig
from rlaif.errors import TrainingFailed
from rlaif.policy.ppo import objective
from rlaif.policy.ppo.batches import Ids, Micro, Rollout, micro_batches, taken
from rlaif.policy.ppo.curves import Row, Totals, reduced
from rlaif.policy.ppo.experience import Experience, Reckoner, values_of
from rlaif.policy.ppo.learner import Learner
from rlaif.policy.ppo.policy import Policy
from rlaif.policy.ppo.probe import Gauge
from rlaif.policy.ppo.prompts import Prompts
from rlaif.policy.ppo.rollouts import Engine, Request, seed_of
from rlaif.policy.rewards import Rewards

Loss = Callable[[], Tensor]
PASS = {"cpu": 48, "cuda": 2048}
"""What a micro batch costs beside its tokens, in tokens. On a CPU it is measured, of a GPU guessed
from the launches of its kernels."""

ON_GPU = 8
"""Answers of a micro batch on a GPU where the config does not say: the logits of an answer of 256
tokens among 150,000 take 150 MB, and their gradients again."""


@dataclass(slots=True)
class State:
    """What changes beside weights and optimizers."""

    step: int = 0
    beta: float = 0.0
    tokens: int = 0
    units: tuple[float, float] = (1.0, 0.0)
    """Of the critic: see `Critic`."""


class Ppo:
    """A policy, a critic and what they learn from; `step` is one batch of answers."""

    def __init__(
        self,
        config: PpoConfig,
        seed: int,
        policy: Policy,
        critic: Learner,
        engine: Engine,
        rewards: Rewards,
        gauge: Gauge,
        prompts: Prompts,
        ends: frozenset[int],
        pad: int,
        decode: Callable[[Ids], str],
    ) -> None:
        self.config, self._seed, self._policy, self._critic = config, seed, policy, critic
        self._engine, self._rewards, self._gauge = engine, rewards, gauge
        self._prompts, self._ends, self._pad, self._decode = prompts, ends, pad, decode
        self._own = config.rewards.own
        self._accelerator = policy.learner.accelerator
        self._world = self._accelerator.num_processes
        self.answers = config.batch_size * config.minibatches  # in a batch, of all processes
        self._reckoner = Reckoner(policy, critic, config, self._cut)
        self.total = math.ceil(config.epochs * len(prompts) * config.samples / self.answers)
        self.state = State(beta=config.beta)
        self.seconds: dict[str, float] = defaultdict(float)

    def step(self) -> Row:
        """Draw a batch, learn from it, and hand the new weights to the engine; its figures."""
        state, totals = self.state, Totals()
        state.step += 1
        share = self._share(state.step)
        with self._timed("drawing"):
            rollouts = self._drawn(state.step)
        with self._timed("scoring"):
            scores = self._scored(rollouts, totals)
        if state.step == 1 and self._own is not None:
            state.units = self._critic.bare.units = self._rewards.units(self._own)
        with self._timed("passes"):
            made = self._reckoner.experience(rollouts, scores, state.beta, totals)
        with self._timed("learning"):
            norms = self._learn(rollouts, made, share, totals)
        with self._timed("updating"):
            self._engine.update()
        row = self._row(totals, made, share, norms)
        state.tokens += round(row["length"] * self.answers)
        if self.config.kl_target:
            state.beta = objective.adapted(
                state.beta, row["kl"], self.config.kl_target, self.answers, self.config.kl_horizon
            )
        return row

    # --- answers ----------------------------------------------------------------------------------

    def _drawn(self, step: int) -> list[Rollout]:
        samples, world = self.config.samples, self._world
        asked = self._prompts.batch(step - 1, self.answers // samples)
        all_ = [  # a prompt that comes twice in a batch is answered anew
            (prompt, ids, seed_of(self._seed, "draw", step, place, n))
            for place, (prompt, ids) in enumerate(asked)
            for n in range(samples)
        ]
        mine = all_[self._accelerator.process_index :: world]
        requests = [Request(ids, seed) for _, ids, seed in mine]
        drawn = self._engine.draw(requests)
        return [
            Rollout(prompt, ids, d.tokens, d.logprobs, d.tokens[-1] in self._ends)
            for (prompt, ids, _), d in zip(mine, drawn, strict=True)
        ]

    def _scored(self, rollouts: Sequence[Rollout], totals: Totals) -> list[float]:
        answers = [self._decode(r.tokens) for r in rollouts]
        ids, lengths = [r.asked + r.tokens for r in rollouts], [len(r.tokens) for r in rollouts]
        scores = self._rewards.score([r.prompt for r in rollouts], answers, ids, lengths)
        known = [score for score in scores if math.isfinite(score)]
        totals.add("score", sum(known), len(known))
        totals.add("unscored", len(scores) - len(known), len(scores))
        totals.rewards(self._rewards.batch)
        totals.add("length", sum(lengths), len(lengths))
        totals.add("eos_rate", sum(r.finished for r in rollouts), len(rollouts))
        return scores

    # --- learning ---------------------------------------------------------------------------------

    def _learn(
        self, rollouts: Sequence[Rollout], made: Experience, share: float, totals: Totals
    ) -> tuple[float, float]:
        """All passes over the batch; the mean norms of both gradients."""
        norms: list[tuple[float, float]] = []
        warm = self.state.step <= self.config.critic_warmup
        for rows in self._minibatches(len(rollouts)):
            n = max(reduced(self._accelerator, made.mask[rows].sum().double()).item(), 1.0)
            micros = list(self._cut(rollouts, rows))
            policy = [self._policy_loss(m, made, n, totals) for m in micros]
            critic = [self._value_loss(m, made, n, totals) for m in micros]
            norm = 0.0 if warm else self._policy.learner.learn(policy, share)
            norms.append((norm, self._critic.learn(critic, share)))
        first, second = (sum(each) / len(norms) for each in zip(*norms, strict=True))
        return first, second

    def _cut(self, rollouts: Sequence[Rollout], rows: Sequence[int]) -> Iterator[Micro]:
        """Micro batches; of several processes, each has as many, as FSDP wants it."""
        size, device = self.config.micro_batch, self._policy.device
        share = self.config.batch_size // self._world
        size = size or (share if device.type == "cpu" else min(share, ON_GPU))
        overhead = None if self._world > 1 else PASS.get(device.type, PASS["cuda"])
        return micro_batches(rollouts, rows, size, self._pad, device, overhead)

    def _minibatches(self, n: int) -> Iterator[list[int]]:
        """Which answers each step learns from: every pass has an order of its own."""
        config = self.config
        for turn in range(config.ppo_epochs):
            order = list(range(n))
            random.Random(seed_of(self._seed, "order", self.state.step, turn)).shuffle(order)
            for start in range(config.minibatches):
                yield order[start :: config.minibatches]

    def _policy_loss(self, micro: Micro, made: Experience, n: float, totals: Totals) -> Loss:
        """The sum over a micro batch of the clipped surrogate, over the `n` tokens of the step."""
        mask, old = taken(made.mask, micro), taken(made.old, micro)
        advantages, weight = taken(made.advantages, micro), taken(made.weight, micro)

        def loss() -> Tensor:
            new = self._policy.log_probs(micro)
            each, clipped = objective.policy_loss(new, old, advantages, self.config.clip)
            totals.tokens("policy_loss", each.detach() * weight, mask)
            totals.tokens("clip_fraction", clipped.float(), mask)
            totals.tokens("approx_kl", objective.k2(new.detach(), old), mask)
            return (each * weight * mask).sum() / n

        return loss

    def _value_loss(self, micro: Micro, made: Experience, n: float, totals: Totals) -> Loss:
        mask, old = taken(made.mask, micro), taken(made.values, micro)
        returns = taken(made.returns, micro)

        def loss() -> Tensor:
            new = values_of(self._critic.model, micro)
            each, clipped = objective.value_loss(new, old, returns, self.config.value_clip)
            totals.tokens("value_loss", each.detach(), mask)
            totals.tokens("value_clip_fraction", clipped.float(), mask)
            return (each * mask).sum() / n

        return loss

    def _share(self, step: int) -> float:
        """Of the peak learning rates."""
        return 1.0 if self.config.schedule == "constant" else 1 - (step - 1) / self.total

    # --- figures ----------------------------------------------------------------------------------

    def _row(
        self, totals: Totals, made: Experience, share: float, norms: tuple[float, float]
    ) -> Row:
        found = totals.means(self._accelerator)
        moments = objective.explained_variance(made.values, made.returns, made.mask)
        of_returns, of_errors = map(objective.variance, reduced(self._accelerator, moments))
        row: dict[str, Any] = {
            "step": self.state.step,
            "reward": self._gauge.read(found),
            **found,
            "explained_variance": 1 - of_errors / of_returns if of_returns else math.nan,
            "beta": self.state.beta,
            "learning_rate": self.config.learning_rate * share,
            "grad_norm": norms[0],
            "critic_grad_norm": norms[1],
        }
        for name in ("kl", "value_loss", "grad_norm", "critic_grad_norm"):
            if not math.isfinite(row[name]):
                remedy = "set a lower learning_rate, or see why no answer has a reward"
                what = f"{name} is {row[name]} in batch {self.state.step}"
                raise TrainingFailed(what, where="rlaif.policy.ppo", remedy=remedy)
        return row

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[what] += time.monotonic() - began
