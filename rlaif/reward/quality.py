"""How good a reward model is on held-out pairs, against the judge's soft labels.

Which of two answers is called a means nothing: every figure is the same when a pair is turned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rlaif.calibration import Calibration, sigmoid, temperature
from rlaif.intervals import Estimate, Hits
from rlaif.training.pairs import clear

CLEAR = 0.1  # a label so far from 0.5 is no tie that noise has broken


@dataclass(frozen=True, slots=True)
class Judged:
    """A held-out pair: how its prompt opens, the label P(a is preferred), the rewards' difference
    r(a) - r(b), and by how many tokens a is longer. `fits` says in which half it is: temperature,
    or its test."""

    id: str
    opening: str
    target: float
    margin: float
    longer: int
    fits: bool


def figures(pairs: Sequence[Judged]) -> dict[str, Any]:
    """Agreement with the labels, as `heldout`; what cannot be had of so few pairs is None.

    `accuracy`, with its interval: the likelier answer has the higher reward, over the pairs whose
    label is not 0.5; `clear_accuracy`: over the `clear` ones, at least 0.1 away from it.
    `brier`, `log_loss`, `ece` and `reliability`: of sigmoid(margin) against the label itself, which
    is a probability, in bins of the confidence in [0.5, 1]. `margin`: mean reward of the likelier
    over the unlikelier answer. `length_correlation`: of margin and length, uncentred, and of the
    label's side and length beside it. `temperature` divides the margins to fit the labels best (Guo
    et al. 2017), from one half of the pairs; `calibrated` is measured on the other, `raw` there
    without it.
    """
    decided = [p for p in pairs if p.target != 0.5]
    sure = [p for p in pairs if clear(p.target, CLEAR)]
    fitted = temperature([(p.margin, p.target) for p in pairs if p.fits])
    others = [p for p in pairs if not p.fits]
    return {
        "heldout": len(pairs),
        "accuracy": _accuracy(decided).json(),
        "clear": len(sure),
        "clear_accuracy": _mean(sure, lambda p: float(_right(p))),
        **_agreement(pairs),
        "margin": _mean(decided, lambda p: math.copysign(p.margin, _right(p) - 0.5)),
        "length_correlation": _correlation(pairs, lambda p: p.margin),
        "label_length_correlation": _correlation(pairs, lambda p: p.target - 0.5),
        "temperature": fitted,
        "raw": _agreement(others),
        "calibrated": _agreement(others, fitted) if fitted else None,
        "reliability": [
            {"predicted": mean, "target": label, "n": n}
            for mean, label, n in _calibration(pairs).bins
        ],
    }


def _calibration(pairs: Sequence[Judged], temperature: float = 1.0) -> Calibration:
    found = Calibration()
    for pair in pairs:
        found.add(sigmoid(pair.margin / temperature), pair.target)
    return found


def _agreement(pairs: Sequence[Judged], temperature: float = 1.0) -> dict[str, float | None]:
    found = _calibration(pairs, temperature)
    loss = _mean(pairs, lambda p: _log_loss(p.margin / temperature, p.target))
    return {"brier": found.brier, "log_loss": loss, "ece": found.ece}


def _log_loss(d: float, target: float) -> float:
    """-p ln s(d) - (1 - p) ln s(-d), which is ln(1 + e^d) - p d, s the logistic function."""
    return max(d, 0.0) + math.log1p(math.exp(-abs(d))) - target * d


def _accuracy(pairs: Sequence[Judged]) -> Estimate:
    hits = Hits()
    for pair in sorted(pairs, key=lambda p: p.opening):
        hits.add(_right(pair), pair.opening)
    return hits.estimate


def _right(pair: Judged) -> bool:
    return (pair.margin > 0) == (pair.target > 0.5) and pair.margin != 0


def _correlation(pairs: Sequence[Judged], of: Callable[[Judged], float]) -> float | None:
    """Cosine of two differences: what Pearson's r is of each pair and its mirror image."""
    xy = sum(of(p) * p.longer for p in pairs)
    xx, yy = sum(of(p) ** 2 for p in pairs), sum(p.longer**2 for p in pairs)
    return xy / math.sqrt(xx * yy) if xx and yy else None


def _mean(pairs: Sequence[Judged], of: Callable[[Judged], float]) -> float | None:
    return sum(map(of, pairs)) / len(pairs) if pairs else None
