"""How good a reward model is on held-out pairs, against the judge's soft labels.

Which of two answers is called a means nothing: every figure is the same when a pair is turned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rlaif.calibration import sigmoid
from rlaif.intervals import Estimate, Hits
from rlaif.training.pairs import ROUNDING

BINS = 10
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
    clear = [p for p in pairs if abs(p.target - 0.5) >= CLEAR - ROUNDING]
    fitted = temperature([p for p in pairs if p.fits])
    others = [p for p in pairs if not p.fits]
    return {
        "heldout": len(pairs),
        "accuracy": _accuracy(decided).json(),
        "clear": len(clear),
        "clear_accuracy": _mean(clear, lambda p: float(_right(p))),
        **_agreement(pairs, 1.0),
        "margin": _mean(decided, lambda p: math.copysign(p.margin, _right(p) - 0.5)),
        "length_correlation": _correlation(pairs, lambda p: p.margin),
        "label_length_correlation": _correlation(pairs, lambda p: p.target - 0.5),
        "temperature": fitted,
        "raw": _agreement(others, 1.0),
        "calibrated": _agreement(others, fitted) if fitted else None,
        "reliability": reliability(pairs, 1.0),
    }


def reliability(pairs: Sequence[Judged], temperature: float) -> list[dict[str, float | int]]:
    """Mean confidence, mean label and number of pairs for each of ten bins that has any.

    The label is that of the answer with the higher reward.
    """
    cells = [[0, 0.0, 0.0] for _ in range(BINS)]
    for pair in pairs:
        p = sigmoid(pair.margin / temperature)
        confidence, label = (p, pair.target) if p >= 0.5 else (1 - p, 1 - pair.target)
        cell = cells[min(int((confidence - 0.5) * 2 * BINS), BINS - 1)]
        cell[0] += 1
        cell[1] += confidence
        cell[2] += label if p != 0.5 else 0.5
    return [{"predicted": c / n, "target": t / n, "n": int(n)} for n, c, t in cells if n]


def temperature(pairs: Sequence[Judged]) -> float | None:
    """The T in [0.01, 100] with the least log loss of sigmoid(margin / T), by bisection.

    The loss is convex in 1/T; its derivative there is the mean of (sigmoid(margin / T) - label)
    times margin. None without pairs, or where every margin is 0.
    """
    if not any(p.margin for p in pairs):
        return None
    low, high = -math.log(100), math.log(100)  # of 1/T
    for _ in range(60):
        middle = (low + high) / 2
        scale = math.exp(middle)
        slope = sum((sigmoid(scale * p.margin) - p.target) * p.margin for p in pairs)
        low, high = (middle, high) if slope < 0 else (low, middle)
    return math.exp(-(low + high) / 2)


def _agreement(pairs: Sequence[Judged], temperature: float) -> dict[str, float | None]:
    bins = reliability(pairs, temperature)
    off = sum(abs(b["predicted"] - b["target"]) * b["n"] for b in bins)

    def loss(pair: Judged) -> float:
        d = pair.margin / temperature
        return _softplus(-d) * pair.target + _softplus(d) * (1 - pair.target)

    return {
        "brier": _mean(pairs, lambda p: (sigmoid(p.margin / temperature) - p.target) ** 2),
        "log_loss": _mean(pairs, loss),
        "ece": off / len(pairs) if pairs else None,
    }


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


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
