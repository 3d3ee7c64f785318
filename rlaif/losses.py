"""The soft losses: one label p = P(a is preferred) from the judge to the reward model and to DPO.

Pure functions of tensors, in float32 or better. B is the number of pairs. At p in {0, 1} they are
the usual losses on hard labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def preference(difference: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of a soft label, -p ln s(d) - (1 - p) ln s(-d), s the logistic function. (B)

    `difference` (B) is the logit of a over b: the difference of their rewards (Bradley and Terry
    1952), or beta times `log_ratio`. Its gradient is s(d) - p.
    """
    from torch.nn.functional import logsigmoid

    d = difference if difference.dtype.itemsize >= 4 else difference.float()
    p = target.to(d.dtype)
    return -p * logsigmoid(d) - (1 - p) * logsigmoid(-d)


def log_ratio(a: Tensor, b: Tensor, reference_a: Tensor, reference_b: Tensor) -> Tensor:
    """(ln pi(a) - ln ref(a)) - (ln pi(b) - ln ref(b)), from log-probabilities of whole answers. (B)

    The h of DPO (Rafailov et al. 2023, equation 7); beta h is the logit that a is preferred.
    """
    return (a - reference_a) - (b - reference_b)


def anchor(a: Tensor, b: Tensor) -> Tensor:
    """-(ln pi(a) + ln pi(b)) / 2, in nats for an answer. (B)

    `log_ratio` is blind to what both answers lose (Razin et al. 2024 call it likelihood
    displacement). Of answers drawn from the reference, the mean of this is KL(reference | policy)
    plus a constant; Pang et al. (2024, section 2) add a like term for the chosen answer.
    """
    return -(a + b) / 2


def smoothed(target: float, smoothing: float) -> float:
    """The label, were it turned round with probability s: p (1 - s) + (1 - p) s.

    At p = 1 it is the 1 - s of conservative DPO (Mitchell 2023).
    """
    return target * (1 - smoothing) + (1 - target) * smoothing
