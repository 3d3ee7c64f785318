"""The mathematics of PPO as pure functions of tensors.

B answers, padded on the right to A tokens; V words in the vocabulary. A `mask` (B, A) is 1 at the
tokens of an answer and 0 at its padding. Everything is in float32 or better.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# --- log-probabilities ----------------------------------------------------------------------------


def log_probs(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """ln P of `tokens` (B, A) under softmax(logits / temperature), `logits` (B, A, V). (B, A)

    Row by row, so that no second (B, A, V) is in memory at once without gradients.
    """
    pairs = zip(logits, tokens, strict=True)
    return torch.stack([_log_probs(row, told, temperature) for row, told in pairs])


def entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Entropy of softmax(logits / temperature) in nats, `logits` (B, A, V). (B, A)"""
    rows = []
    for row in logits:
        known = _tempered(row, temperature).log_softmax(-1)
        rows.append(-(known.exp() * known).sum(-1))
    return torch.stack(rows)


def _log_probs(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    row = _tempered(logits, temperature)  # (A, V)
    return row.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - row.logsumexp(-1)


def _tempered(logits: Tensor, temperature: float) -> Tensor:
    wide = logits if logits.dtype.itemsize >= 4 else logits.float()
    return wide if temperature == 1 else wide / temperature


# --- rewards and advantages -----------------------------------------------------------------------


def k1(ours: Tensor, reference: Tensor) -> Tensor:
    """ln (ours / reference): unbiased, may be negative (Schulman 2020, "Approximating KL")."""
    return ours - reference


def k2(ours: Tensor, reference: Tensor) -> Tensor:
    """(ln r)^2 / 2: biased, of little variance."""
    return (ours - reference) ** 2 / 2


def k3(ours: Tensor, reference: Tensor) -> Tensor:
    """r - 1 - ln r, r = reference / ours: unbiased and never negative."""
    log_ratio = reference - ours
    return log_ratio.expm1() - log_ratio


KL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, beta: float) -> Tensor:
    """-beta kl at every token, and the answer's score (B) at its last one. (B, A)

    The last token is the one that ends the answer, or where the answer was cut (Huang et al. 2024,
    detail "reward at EOS"); a score never lands on padding.
    """
    rewards = -beta * kl * mask
    last = mask.sum(1).long() - 1  # (B)
    rows = torch.nonzero(last >= 0).squeeze(1)
    rewards[rows, last[rows]] += scores[rows].to(rewards.dtype)
    return rewards


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns of generalised advantage estimation. (B, A) each

    `values` (B, A) are of the states before each token; after the last token the value is 0.
    A_t = d_t + gamma lam A_{t+1}, d_t = r_t + gamma V_{t+1} - V_t; returns are A + V (Schulman et
    al. 2016, equations 11 and 16).
    """
    values = values * mask
    advantages = torch.zeros_like(values)
    following = torch.zeros_like(values[:, 0])  # (B): A_{t+1}
    for t in reversed(range(values.shape[1])):
        ahead = values[:, t + 1] if t + 1 < values.shape[1] else torch.zeros_like(following)
        delta = rewards[:, t] + gamma * ahead - values[:, t]
        following = (delta + gamma * lam * following) * mask[:, t]
        advantages[:, t] = following
    return advantages, advantages + values


def moments(values: Tensor, mask: Tensor) -> Tensor:
    """Number, sum and sum of squares of the masked values, in float64, to be added up. (3)"""
    known = values.double() * mask
    return torch.stack([mask.double().sum(), known.sum(), (known**2).sum()])


def whiten(values: Tensor, mask: Tensor, found: Tensor, *, shift: bool = True) -> Tensor:
    """Values with the mean 0 (unless not to `shift`) and the variance 1, by `moments`. (B, A)

    The variance is the unbiased one.
    """
    n, total, squares = found.tolist()
    mean = total / max(n, 1)
    variance = max(squares - n * mean**2, 0.0) / max(n - 1, 1)
    return (values - mean * shift) / (variance + 1e-8) ** 0.5 * mask


# --- losses ---------------------------------------------------------------------------------------


def policy_loss(new: Tensor, old: Tensor, advantages: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """-min(r A, clip(r, 1 - clip, 1 + clip) A) at each token, and where the clipped one counts.

    r = exp(new - old), of log-probabilities. (B, A) each. Schulman et al. 2017, equation 7.
    """
    ratio = (new - old).exp()
    plain, clipped = -ratio * advantages, -ratio.clamp(1 - clip, 1 + clip) * advantages
    return torch.maximum(plain, clipped), clipped > plain


def value_loss(
    new: Tensor, old: Tensor, returns: Tensor, clip: float | None
) -> tuple[Tensor, Tensor]:
    """max((V - R)^2, (clip(V, V_old - clip, V_old + clip) - R)^2) / 2 at each token, and where the
    clipped one counts. (B, A) each
    """
    plain = (new - returns) ** 2
    if clip is None:
        return plain / 2, torch.zeros_like(plain, dtype=torch.bool)
    clipped = (new.clamp(old - clip, old + clip) - returns) ** 2
    return torch.maximum(plain, clipped) / 2, clipped > plain


def truncated_weights(trainer: Tensor, engine: Tensor, most: float) -> Tensor:
    """min(p / q, most) at each token, p the trainer's and q the rollout engine's probability, from
    log-probabilities: truncated importance sampling (Ionides 2008). (B, A)"""
    return (trainer - engine).exp().clamp(max=most)


def adapted(beta: float, kl: float, target: float, answers: int, horizon: int) -> float:
    """The next beta: beta (1 + e n / horizon), e = kl / target - 1 held to [-0.2, 0.2].

    Ziegler et al. 2019, section 2.2.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * answers / horizon)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """The moments behind 1 - Var(R - V) / Var(R): of the returns, then of the errors. (2, 3)"""
    return torch.stack([moments(returns, mask), moments(returns - values, mask)])


def variance(found: Tensor) -> float:
    """The variance by `moments`."""
    n, total, squares = found.tolist()
    return max(squares / n - (total / n) ** 2, 0.0) if n else 0.0
