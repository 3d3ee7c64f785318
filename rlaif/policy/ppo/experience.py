"""From answers and their scores to what PPO learns from: advantages and returns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from rlaif.config.policy import PpoConfig
from rlaif.policy.ppo import objective
from rlaif.policy.ppo.batches import Cut, Micro, Rollout
from rlaif.policy.ppo.critic import Critic
from rlaif.policy.ppo.curves import Totals, reduced
from rlaif.policy.ppo.learner import Learner
from rlaif.policy.ppo.policy import Pass, Policy, without_gradient


@dataclass(frozen=True, slots=True)
class Experience:
    """Tables of N answers of at most A tokens, on the CPU. (N, A) each

    `mask` leaves out padding and answers without a score. `weight` corrects for the rollout engine;
    1 where that is switched off.
    """

    mask: Tensor
    old: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    weight: Tensor


class Reckoner:
    """Makes experience: three passes without gradients, and arithmetic."""

    def __init__(self, policy: Policy, critic: Learner, config: PpoConfig, cut: Cut) -> None:
        self._policy, self._critic, self._config, self._cut = policy, critic, config, cut

    def experience(
        self, rollouts: Sequence[Rollout], scores: Sequence[float], beta: float, totals: Totals
    ) -> Experience:
        """The experience of some answers; figures of the batch are added to `totals`."""
        old, spread = self._pass(rollouts, self._policy.log_probs_and_entropy)
        (reference,) = self._pass(rollouts, self._policy.reference)
        (values,) = self._pass(rollouts, self._values)
        engine, mask = _table([r.logprobs for r in rollouts]), _mask(rollouts)
        scored = torch.tensor([math.isfinite(score) for score in scores])
        kept = mask * scored.unsqueeze(1)  # (N, A)
        known = torch.tensor(scores, dtype=torch.float32).nan_to_num(0.0, 0.0, 0.0)
        cut = torch.tensor([not r.finished for r in rollouts])
        known = known - self._config.no_eos_penalty * cut
        kl = objective.KL[self._config.kl_estimator](old, reference)
        rewards = objective.token_rewards(known, kl, kept, beta)
        made = self._advantages(rewards, values, kept)
        weight = torch.ones_like(old)
        if self._config.correction:
            weight = objective.truncated_weights(old, engine, self._config.correction)
        totals.add("reward_after_kl", float((rewards * kept).sum()), int(scored.sum()))
        for name in ("k1", "k3"):
            each = (objective.KL[name](old, reference) * mask).sum(1)
            totals.add("kl" if name == "k1" else "kl_k3", float(each.sum()), len(rollouts))
        totals.tokens("entropy", spread, mask)
        totals.tokens("mismatch", (old - engine).abs(), mask)
        return Experience(kept, old, values, *made, weight)

    def _advantages(self, rewards: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        config, accelerator = self._config, self._policy.learner.accelerator
        if config.whiten_rewards:
            rewards = _white(accelerator, rewards, mask, shift=False)
        advantages, returns = objective.gae(rewards, values, mask, config.gamma, config.lam)
        if config.whiten_advantages:
            advantages = _white(accelerator, advantages, mask, shift=True)
        return advantages, returns

    def _pass(self, rollouts: Sequence[Rollout], work: Pass) -> list[Tensor]:
        return without_gradient(work, self._cut(rollouts, range(len(rollouts))))

    def _values(self, micro: Micro) -> tuple[Tensor]:
        return (values_of(self._critic.model, micro),)


def values_of(critic: Critic, micro: Micro) -> Tensor:
    """The values of the states before the answers' tokens. (B, A)"""
    return critic(micro.mask.shape[1], **micro.inputs)


def _white(accelerator: Accelerator, values: Tensor, mask: Tensor, *, shift: bool) -> Tensor:
    """Whitened over the answers of all processes."""
    found = reduced(accelerator, objective.moments(values, mask))
    return objective.whiten(values, mask, found, shift=shift)


def _table(rows: Sequence[Sequence[float]]) -> Tensor:
    table = torch.zeros(len(rows), max(map(len, rows)))
    for i, row in enumerate(rows):
        table[i, : len(row)] = torch.tensor(row)
    return table


def _mask(rollouts: Sequence[Rollout]) -> Tensor:
    return _table([[1.0] * len(r.tokens) for r in rollouts])
