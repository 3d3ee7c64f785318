"""How good probabilities are: accuracy, Brier score, calibration error and curve, streamed.

A soft label p says that a is preferred with probability p. Which of the two is called a means
nothing, so every figure is of the confidence max(p, 1 - p) in the likelier side.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from rlaif.intervals import Estimate, Hits, Share

BINS = 10


class Calibration:
    """Probabilities against the truth, in bins of equal width over the confidence in [0.5, 1]."""

    def __init__(self, bins: int = BINS) -> None:
        self._bins = [[0, 0.0, 0.0] for _ in range(bins)]  # n, hits, sum of confidences
        self._squares = 0.0
        self._hits = Hits()

    def add(self, p: float, truth: bool, prompt: str | None = None) -> None:
        """One probability that a is preferred, and whether it is; a p of 0.5 is half a hit.

        The `prompt`, which labels of one prompt share, is for the interval of the accuracy.
        """
        confidence = max(p, 1 - p)
        hit = 0.5 if p == 0.5 else float((p > 0.5) == truth)
        last = len(self._bins) - 1
        cell = self._bins[min(int((confidence - 0.5) * 2 * len(self._bins)), last)]
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
    def curve(self) -> list[dict[str, Any]]:
        """For each bin that holds any: mean confidence, share right with interval, and n."""
        return [
            {"confidence": round(total / n, 4), "accuracy": Share(round(hits), int(n)).json()}
            for n, hits, total in self._bins
            if n
        ]


def temperature(labelled: Iterable[tuple[float, bool]], steps: int = 40) -> float | None:
    """The T that makes sigmoid(logit(p) / T) most likely, by golden section over ln T in [-3, 3].

    Temperature scaling (Guo et al. 2017); None without labels. Probabilities of 0 and 1 count as
    1e-6 away from them.
    """
    logits = [logit(p) if truth else -logit(p) for p, truth in labelled]
    if not logits:
        return None

    def loss(log_t: float) -> float:
        return sum(_softplus(-x / math.exp(log_t)) for x in logits)

    low, high, golden = -3.0, 3.0, (math.sqrt(5) - 1) / 2
    for _ in range(steps):
        a, b = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, b) if loss(a) < loss(b) else (a, high)
    return math.exp((low + high) / 2)


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


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
