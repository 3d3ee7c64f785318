"""How good probabilities are: accuracy, Brier score, calibration error and curve, streamed.

A soft label p says that a is preferred with probability p. Which of the two is called a means
nothing, so every figure is of the confidence max(p, 1 - p) in the likelier side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rlaif.intervals import Estimate, Hits, Share

BINS = 10


class Calibration:
    """Probabilities against the truth, or against soft labels, in bins of equal width over the
    confidence in [0.5, 1]."""

    def __init__(self) -> None:
        self._bins = [[0, 0.0, 0.0] for _ in range(BINS)]  # n, hits, sum of confidences
        self._squares = 0.0
        self._hits = Hits()

    def add(self, p: float, truth: float, prompt: str | None = None) -> None:
        """One probability that a is preferred, and whether it is, 0 or 1, or how likely; a p of 0.5
        is half a hit.

        The `prompt`, which labels of one prompt share, is for the interval of the accuracy.
        """
        confidence = max(p, 1 - p)
        hit = 0.5 if p == 0.5 else truth if p > 0.5 else 1 - truth
        cell = self._bins[min(int((confidence - 0.5) * 2 * BINS), BINS - 1)]
        cell[0] += 1
        cell[1] += hit
        cell[2] += confidence
        self._squares += (p - truth) ** 2
        self._hits.add(hit, prompt)

    @property
    def n(self) -> int:
        return int(sum(cell[0] for cell in self._bins))

    @property
    def accuracy(self) -> Estimate:
        """Share whose likelier side is the true one."""
        return self._hits.estimate

    @property
    def brier(self) -> float | None:
        """Mean squared difference from the truth (Brier 1950)."""
        return self._squares / self.n if self.n else None

    @property
    def ece(self) -> float | None:
        """Expected calibration error (Guo et al. 2017): |accuracy - confidence|, over the bins.

        It is biased upwards where bins hold few labels.
        """
        if not self.n:
            return None
        return sum(abs(hits - total) for _, hits, total in self._bins) / self.n

    @property
    def bins(self) -> list[tuple[float, float, int]]:
        """For each bin that holds any: mean confidence, share of hits, and n."""
        return [(total / n, hits / n, int(n)) for n, hits, total in self._bins if n]

    @property
    def curve(self) -> list[dict[str, Any]]:
        """`bins` as JSON, with the intervals of the shares."""
        return [
            {"confidence": round(mean, 4), "accuracy": Share(round(share * n), n).json()}
            for mean, share, n in self.bins
        ]


def temperature(labelled: Sequence[tuple[float, float]]) -> float | None:
    """The T in [0.01, 100] that makes sigmoid(logit / T) the likeliest, of logits and labels in
    [0, 1], by bisection. Temperature scaling (Guo et al. 2017).

    The log loss is convex in 1/T; its derivative there is the mean of (sigmoid(logit / T) - label)
    times logit. None without labels, or where every logit is 0.
    """
    if not any(logit for logit, _ in labelled):
        return None
    low, high = -math.log(100), math.log(100)  # of 1/T
    for _ in range(60):
        middle = (low + high) / 2
        scale = math.exp(middle)
        slope = sum((sigmoid(scale * x) - target) * x for x, target in labelled)
        low, high = (middle, high) if slope < 0 else (low, middle)
    return math.exp(-(low + high) / 2)


def scaled(p: float, temperature: float) -> float:
    """A probability with its logit divided by the temperature."""
    return sigmoid(logit(p) / temperature)


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else 1 - 1 / (1 + math.exp(x))


def logit(p: float) -> float:
    """ln(p / (1 - p)), with p kept 1e-6 away from 0 and 1."""
    p = min(max(p, 1e-6), 1 - 1e-6)
    return math.log(p / (1 - p))
