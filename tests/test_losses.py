"""The soft losses: worked by hand, against finite differences, and their symmetries."""

from __future__ import annotations

import math

import pytest
import torch

from rlaif import losses

TABLE = [  # difference, label, loss: worked by hand from ln(1 + e^-d)
    (0.0, 0.3, 0.6931471805599453),
    (1.0, 1.0, 0.31326168751822286),
    (1.0, 0.0, 1.3132616875182228),
    (1.0, 0.75, 0.5632616875182229),
    (-2.0, 0.9, 1.9269280110429727),
    (2.0, 0.5, 1.1269280110429727),
    (4.0, 0.982, 0.09015),  # nearly where it is least: the entropy of the label
]


@pytest.mark.parametrize(("difference", "target", "expected"), TABLE)
def test_the_loss_is_that_of_the_table(difference: float, target: float, expected: float) -> None:
    d, p = torch.tensor([difference], dtype=torch.float64), torch.tensor([target]).double()
    assert losses.preference(d, p).item() == pytest.approx(expected, abs=1e-4 if d > 3 else 1e-7)


def test_the_gradient_is_that_of_finite_differences() -> None:
    rng = torch.Generator().manual_seed(0)
    d = (8 * torch.randn(50, generator=rng, dtype=torch.float64)).requires_grad_()
    p = torch.rand(50, generator=rng, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: losses.preference(x, p), (d,), atol=1e-8)
    losses.preference(d, p).sum().backward()
    assert torch.allclose(d.grad, torch.sigmoid(d) - p)  # pyright: ignore


def test_a_turned_pair_has_the_same_loss() -> None:
    d, p = torch.randn(20, dtype=torch.float64), torch.rand(20, dtype=torch.float64)
    assert torch.allclose(losses.preference(d, p), losses.preference(-d, 1 - p))


def test_an_even_label_draws_to_no_side() -> None:
    d = torch.linspace(-3, 3, 7, dtype=torch.float64)
    even = losses.preference(d, torch.full_like(d, 0.5))
    assert torch.allclose(even, even.flip(0))
    assert even.argmin() == 3


def test_the_least_loss_is_where_the_difference_is_the_labels_logit() -> None:
    d = torch.linspace(-6, 6, 12001, dtype=torch.float64)
    for p in (0.02, 0.3, 0.5, 0.9):
        best = d[losses.preference(d, torch.full_like(d, p)).argmin()].item()
        assert best == pytest.approx(math.log(p / (1 - p)), abs=1e-3)


def test_half_precision_is_computed_in_single() -> None:
    d = torch.tensor([30.0], dtype=torch.bfloat16)
    assert losses.preference(d, torch.tensor([0.9])).dtype == torch.float32
    extreme = losses.preference(torch.tensor([1e4, -1e4]), torch.tensor([1.0, 0.0]))
    assert extreme.tolist() == [0.0, 0.0]


def test_the_log_ratio_is_against_the_reference() -> None:
    a, b, ref_a, ref_b = torch.tensor([[-3.0], [-5.0], [-4.0], [-4.5]])
    assert losses.log_ratio(a, b, ref_a, ref_b).item() == 1.5
    assert losses.log_ratio(ref_a, ref_b, ref_a, ref_b).item() == 0.0


def test_smoothing_turns_labels_round_with_its_probability() -> None:
    assert losses.smoothed(1.0, 0.1) == pytest.approx(0.9)
    assert losses.smoothed(0.0, 0.1) == pytest.approx(0.1)
    assert losses.smoothed(0.5, 0.3) == 0.5
    assert losses.smoothed(0.8, 0.25) == pytest.approx(0.65)


def test_the_anchor_is_the_divergence_of_the_reference_but_for_its_entropy() -> None:
    """Over all answers, each drawn as the reference does: KL(ref | pi) + H(ref), least at ref."""
    reference, policy = torch.rand(2, 30, dtype=torch.float64, generator=torch.Generator()).log()
    reference, policy = (x - x.logsumexp(0) for x in (reference, policy))

    def mean(of: torch.Tensor) -> torch.Tensor:
        return (reference.exp() * losses.anchor(of, of)).sum()

    entropy = -(reference.exp() * reference).sum()
    divergence = (reference.exp() * (reference - policy)).sum()
    assert mean(policy).item() == pytest.approx((divergence + entropy).item(), abs=1e-12)
    assert mean(policy) > mean(reference)
    assert losses.anchor(torch.tensor([-3.0]), torch.tensor([-8.0])).item() == 5.5
