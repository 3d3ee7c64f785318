"""PPO's mathematics: tables worked by hand, a slow second implementation, finite differences."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rlaif.policy.ppo import objective as ppo

LN2 = math.log(2)


def t(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# --- a second, slow implementation in plain floats ------------------------------------------------


def slow_gae(
    rewards: list[float], values: list[float], gamma: float, lam: float
) -> tuple[list[float], list[float]]:
    """Of one answer without padding, straight from the sum over all later errors."""
    n, values = len(rewards), [*values, 0.0]
    deltas = [rewards[i] + gamma * values[i + 1] - values[i] for i in range(n)]
    found = [sum((gamma * lam) ** (j - i) * deltas[j] for j in range(i, n)) for i in range(n)]
    return found, [a + v for a, v in zip(found, values, strict=False)]


def slow_policy_loss(new: float, old: float, advantage: float, clip: float) -> float:
    ratio = math.exp(new - old)
    held = min(max(ratio, 1 - clip), 1 + clip)
    return -min(ratio * advantage, held * advantage)


def slow_value_loss(new: float, old: float, target: float, clip: float) -> float:
    held = min(max(new, old - clip), old + clip)
    return 0.5 * max((new - target) ** 2, (held - target) ** 2)


def slow_log_prob(logits: list[float], token: int, temperature: float) -> tuple[float, float]:
    """ln P of the token, and the entropy."""
    total = math.fsum(math.exp(x / temperature) for x in logits)
    probabilities = [math.exp(x / temperature) / total for x in logits]
    return math.log(probabilities[token]), -math.fsum(p * math.log(p) for p in probabilities)


def ragged(dice: random.Random, n: int, longest: int) -> tuple[list[int], Tensor]:
    """Lengths, and the mask that pads to the longest."""
    lengths = [dice.randint(1, longest) for _ in range(n)]
    mask = t(*([1.0] * k + [0.0] * (longest - k) for k in lengths))
    return lengths, mask


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- log-probabilities ----------------------------------------------------------------------------


def test_log_probs_of_a_table() -> None:
    logits = torch.tensor([[[0.0, LN2, 0.0], [3.0, 3.0, 3.0]]], dtype=torch.float64)
    found = ppo.log_probs(logits, torch.tensor([[1, 2]]))
    assert found.tolist()[0] == pytest.approx([math.log(2 / 4), math.log(1 / 3)])
    half = ppo.log_probs(logits, torch.tensor([[1, 2]]), temperature=0.5)  # 2 ln 2: 4 of 6
    assert half.tolist()[0] == pytest.approx([math.log(4 / 6), math.log(1 / 3)])
    assert ppo.entropy(logits).tolist()[0] == pytest.approx([1.5 * LN2, math.log(3)])


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.9])
def test_log_probs_and_entropy_of_random_logits(temperature: float) -> None:
    logits, tokens = 3 * noise(0, 2, 5, 7), torch.randint(7, (2, 5))
    known, spread = ppo.log_probs(logits, tokens, temperature), ppo.entropy(logits, temperature)
    for b in range(2):
        for a in range(5):
            slow = slow_log_prob(logits[b, a].tolist(), int(tokens[b, a]), temperature)
            assert (known[b, a].item(), spread[b, a].item()) == pytest.approx(slow, abs=1e-12)


def test_half_precision_is_widened() -> None:
    logits = noise(1, 1, 2, 50).to(torch.bfloat16)
    assert ppo.log_probs(logits, torch.tensor([[1, 2]])).dtype == torch.float32


# --- KL -------------------------------------------------------------------------------------------


def test_kl_estimators_of_a_table() -> None:
    ours, reference = t([math.log(0.5), math.log(0.25)]), t([math.log(0.25), math.log(0.5)])
    assert ppo.k1(ours, reference).tolist()[0] == pytest.approx([LN2, -LN2])
    assert ppo.k2(ours, reference).tolist()[0] == pytest.approx([LN2**2 / 2] * 2)
    assert ppo.k3(ours, reference).tolist()[0] == pytest.approx([0.5 - 1 + LN2, 2 - 1 - LN2])


def test_k1_and_k3_are_unbiased_and_k3_is_never_negative() -> None:
    p, q = (x.softmax(-1) for x in (noise(2, 9), noise(3, 9)))
    exact = (p * (p / q).log()).sum().item()
    for estimate in (ppo.k1, ppo.k3):  # the expectation over the policy, exactly
        assert (p * estimate(p.log(), q.log())).sum().item() == pytest.approx(exact, abs=1e-12)
    assert (ppo.k3(p.log(), q.log()) >= 0).all()
    assert (p * ppo.k2(p.log(), q.log())).sum().item() == pytest.approx(exact, rel=0.5)


# --- rewards --------------------------------------------------------------------------------------


def test_the_score_lands_on_the_last_token_and_never_on_padding() -> None:
    mask, kl = t([1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]), t(*[[0.5] * 4] * 3)
    found = ppo.token_rewards(t([7.0, -2.0, 9.0])[0], kl, mask, beta=0.1)
    wanted = [[-0.05, -0.05, 6.95, 0], [-2.05, 0, 0, 0], [0, 0, 0, 0]]
    assert found.tolist() == [pytest.approx(row) for row in wanted]


def test_gae_of_a_table() -> None:
    """r = (0, 0, 1), V = (.5, .5, .5), gamma 1, lambda .5: d = (0, 0, .5)."""
    found, returns = ppo.gae(t([0, 0, 1.0]), t([0.5, 0.5, 0.5]), t([1, 1, 1]), 1.0, 0.5)
    assert found.tolist()[0] == pytest.approx([0.125, 0.25, 0.5])
    assert returns.tolist()[0] == pytest.approx([0.625, 0.75, 1.0])
    whole, _ = ppo.gae(t([0, 0, 1.0]), t([0.5, 0.2, 0.9]), t([1, 1, 1]), 1.0, 1.0)
    assert whole.tolist()[0] == pytest.approx([0.5, 0.8, 0.1])  # the return less the value
    one, _ = ppo.gae(t([0, 0, 1.0]), t([0.5, 0.2, 0.9]), t([1, 1, 1]), 0.9, 0.0)
    assert one.tolist()[0] == pytest.approx([0.18 - 0.5, 0.81 - 0.2, 0.1])  # one step alone


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.7, 0.0)])
def test_gae_of_ragged_answers(gamma: float, lam: float) -> None:
    lengths, mask = ragged(random.Random(0), 6, 9)
    rewards, values = noise(4, 6, 9) * mask, noise(5, 6, 9)  # values at padding are anything
    advantages, returns = ppo.gae(rewards, values, mask, gamma, lam)
    for i, n in enumerate(lengths):
        slow = slow_gae(rewards[i, :n].tolist(), values[i, :n].tolist(), gamma, lam)
        assert advantages[i, :n].tolist() == pytest.approx(slow[0], abs=1e-12)
        assert returns[i, :n].tolist() == pytest.approx(slow[1], abs=1e-12)
        assert not advantages[i, n:].any()
        assert not returns[i, n:].any()


def test_whitening_of_a_table_and_of_two_processes() -> None:
    values, mask = t([1, 3, 99], [5, 7, 99]), t([1, 1, 0], [1, 1, 0])  # mean 4, variance 20/3
    found = ppo.moments(values, mask)
    assert found.tolist() == [4, 16, 84]
    white = ppo.whiten(values, mask, found)
    scale = math.sqrt(20 / 3)
    assert white[:, :2].flatten().tolist() == pytest.approx([x / scale for x in (-3, -1, 1, 3)])
    assert not white[:, 2].any()
    kept = ppo.whiten(values, mask, found, shift=False)
    assert kept[:, :2].flatten().tolist() == pytest.approx([x / scale for x in (1, 3, 5, 7)])
    halves = sum(ppo.moments(values[i : i + 1], mask[i : i + 1]) for i in (0, 1))
    assert torch.equal(torch.as_tensor(halves), found)


# --- losses ---------------------------------------------------------------------------------------

LOSSES = [  # ratio, advantage, loss, clipped (clip .2)
    (1.0, 2.0, -2.0, False),
    (1.5, 2.0, -2.4, True),  # good, and already likelier: no more push
    (1.5, -2.0, 3.0, False),  # bad and likelier: full push back
    (0.5, 2.0, -1.0, False),
    (0.5, -2.0, 1.6, True),
]


@pytest.mark.parametrize(("ratio", "advantage", "loss", "clipped"), LOSSES)
def test_policy_loss_of_a_table(ratio: float, advantage: float, loss: float, clipped: bool) -> None:
    new = t([math.log(ratio)])
    found, held = ppo.policy_loss(new, t([0.0]), t([advantage]), 0.2)
    assert found.item() == pytest.approx(loss)
    assert held.item() is clipped


VALUES = [  # new, old, return, loss, clipped (clip .2)
    (1.0, 1.0, 3.0, 2.0, False),
    (2.0, 1.0, 3.0, 1.62, True),  # nearer than the clipped 1.2 would be: (1.8)^2 / 2
    (0.0, 1.0, 3.0, 4.5, False),
    (1.1, 1.0, 1.0, 0.005, False),
]


@pytest.mark.parametrize(("new", "old", "target", "loss", "clipped"), VALUES)
def test_value_loss_of_a_table(
    new: float, old: float, target: float, loss: float, clipped: bool
) -> None:
    found, held = ppo.value_loss(t([new]), t([old]), t([target]), 0.2)
    assert found.item() == pytest.approx(loss)
    assert held.item() is clipped
    plain, _ = ppo.value_loss(t([new]), t([old]), t([target]), None)
    assert plain.item() == pytest.approx((new - target) ** 2 / 2)


def test_both_losses_of_random_numbers() -> None:
    new, old, other = 0.5 * noise(6, 4, 8), 0.5 * noise(7, 4, 8), noise(8, 4, 8)
    policy, _ = ppo.policy_loss(new, old, other, 0.2)
    value, _ = ppo.value_loss(new, old, other, 0.3)
    rows = zip(*(x.flatten().tolist() for x in (new, old, other, policy, value)), strict=True)
    for n, o, x, p, v in rows:
        assert p == pytest.approx(slow_policy_loss(n, o, x, 0.2), abs=1e-12)
        assert v == pytest.approx(slow_value_loss(n, o, x, 0.3), abs=1e-12)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: ppo.policy_loss(x, 0.3 * noise(10, 3, 5), noise(11, 3, 5), 0.2)[0],
        lambda x: ppo.value_loss(x, noise(10, 3, 5), noise(11, 3, 5), 0.2)[0],
        lambda x: ppo.log_probs(x.unsqueeze(-1) * noise(12, 3, 5, 4), torch.ones(3, 5).long(), 0.8),
        lambda x: ppo.k3(x, noise(10, 3, 5)),
    ],
)
def test_gradients_by_finite_differences(loss: Callable[[Tensor], Tensor]) -> None:
    x = 0.3 * noise(9, 3, 5)
    assert torch.autograd.gradcheck(lambda y: loss(y).sum(), x.requires_grad_(), eps=1e-7)


def test_truncated_weights() -> None:
    found = ppo.truncated_weights(t([0.0, LN2, 0.0]), t([0.0, 0.0, LN2]), most=1.5)
    assert found.tolist()[0] == pytest.approx([1.0, 1.5, 0.5])


@pytest.mark.parametrize(
    ("kl", "beta"),
    [(6.0, 0.1), (6.6, 0.1 * 1.01), (60.0, 0.1 * 1.02), (0.0, 0.1 * 0.98)],
)
def test_beta_follows_its_target_by_at_most_a_fifth(kl: float, beta: float) -> None:
    """100 answers on a horizon of 1,000."""
    assert ppo.adapted(0.1, kl, target=6.0, answers=100, horizon=1000) == pytest.approx(beta)


def test_explained_variance() -> None:
    returns, mask = t([1, 2, 3, 9]), t([1, 1, 1, 0])

    def explained(values: Tensor) -> float:
        of_returns, of_errors = map(ppo.variance, ppo.explained_variance(values, returns, mask))
        return 1 - of_errors / of_returns

    assert explained(returns) == pytest.approx(1)
    assert explained(t([5, 5, 5, 5])) == pytest.approx(0)
    assert explained(t([1, 2.5, 4, 0])) == pytest.approx(0.75)
