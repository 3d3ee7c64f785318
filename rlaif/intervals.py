"""Shares, means, differences and ratios with their 95% intervals, streamed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Share:
    """`hits` of `n`, as a share with its Wilson score interval (Wilson 1927); None where n is 0."""

    hits: int
    n: int
    confidence: float = 0.95

    @property
    def value(self) -> float | None:
        return self.hits / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Lower and upper bound."""
        if not self.n:
            return None
        z = NormalDist().inv_cdf(0.5 + self.confidence / 2)
        return wilson(self.hits / self.n, self.n, z)

    def json(self) -> dict[str, float | int | None]:
        """`value`, `low`, `high` and `n`, rounded to four places."""
        low, high = self.interval or (None, None)
        numbers = {"value": self.value, "low": low, "high": high}
        return {k: v if v is None else round(v, 4) for k, v in numbers.items()} | {"n": self.n}

    def __str__(self) -> str:
        if self.interval is None:
            return "none measured"
        low, high = self.interval
        return (
            f"{100 * self.hits / self.n:5.1f}%  [{100 * low:5.1f}, {100 * high:5.1f}]  n={self.n}"
        )


def in_percent(share: Mapping[str, Any], *, missing: str = "not measured") -> str:
    """A share as `Share.json` has it, for people: `12.0% [8.1, 17.2]`."""
    if share.get("value") is None:
        return missing
    value = f"{100 * share['value']:.1f}%"
    if share.get("low") is None:
        return value
    return f"{value} [{100 * share['low']:.1f}, {100 * share['high']:.1f}]"


class Clusters:
    """Sums over clusters (prompts), and smooth functions of them with their intervals.

    Answers to one prompt are no independent draws, and models are compared on the same prompts: so
    each prompt adds one vector, and the variance of a function of the totals is that of its linear
    part over the prompts (the delta method; Deng et al. 2018, "Applying the Delta Method in Metric
    Analytics"). Memory does not grow with the prompts.
    """

    def __init__(self, width: int) -> None:
        self.n = 0.0
        self.totals = [0.0] * width
        self._products = [[0.0] * width for _ in range(width)]

    def add(self, *values: float, weight: float = 1.0) -> None:
        """One prompt's vector."""
        self.n += weight
        for i, value in enumerate(values):
            self.totals[i] += weight * value
            row = self._products[i]
            for j in range(i + 1):
                row[j] += weight * value * values[j]

    def error(self, gradient: Sequence[float]) -> float | None:
        """Standard error of a function of the totals, from its gradient; None below 2 prompts."""
        if self.n < 2:
            return None
        variance = 0.0
        for i, g in enumerate(gradient):
            for j in range(i + 1):
                moment = self._products[i][j] - self.totals[i] * self.totals[j] / self.n
                variance += g * gradient[j] * moment * (1 if i == j else 2)
        return math.sqrt(max(variance, 0.0) * self.n / (self.n - 1))

    def smoothed(self, *vectors: Sequence[float]) -> Clusters:
        """A copy with half a prompt more for each vector: no interval has the width 0."""
        out = Clusters(len(self.totals))
        out.n, out.totals = self.n, list(self.totals)
        out._products = [list(row) for row in self._products]
        for vector in vectors:
            out.add(*vector, weight=0.5)
        return out


class Hits:
    """Hits among labels, by prompt; the labels of one prompt come one after another."""

    def __init__(self) -> None:
        self._sums = Clusters(2)
        self._prompt: str | None = None
        self._hits = self._n = 0.0

    def add(self, hit: float, prompt: str | None = None) -> None:
        """One label; without a prompt it is a draw of its own."""
        if prompt is None or prompt != self._prompt:
            self._with_last(self._sums)
            self._hits = self._n = 0.0
        self._prompt = prompt
        self._hits += hit
        self._n += 1

    @property
    def estimate(self) -> Estimate:
        """The share of hits so far: see `share`."""
        return share(self._with_last(self._sums.smoothed()))

    def _with_last(self, sums: Clusters) -> Clusters:
        """The sums with the prompt whose labels are still coming."""
        if self._n:
            sums.add(self._hits, self._n)
        return sums


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95% interval; where `value` is None, `why` says what is missing."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    why: str = ""

    def json(self) -> dict[str, Any]:
        """`value`, `low`, `high` and `n`, rounded; and `why` where it is undefined."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        rounded = {k: v if v is None else float(f"{v:.5g}") for k, v in numbers.items()}
        return rounded | {"n": self.n} | ({"why": self.why} if self.why else {})


def undefined(why: str, n: int = 0) -> Estimate:
    """A figure that cannot be had, and why."""
    return Estimate(None, n=n, why=why)


def share(sums: Clusters) -> Estimate:
    """Hits over answers, from (hits, answers) by prompt.

    Wilson's interval with the effective number of answers p (1 - p) / variance, less where prompts
    are few (Korn and Graubard 1998), and at most the number of answers; with no variance to see,
    the number of prompts.
    """
    hits, n = sums.totals
    if not n:
        return undefined("nothing to count")
    p = hits / n
    error = sums.error((1 / n, -p / n))
    few = (_t(n - 1) / _t(sums.n - 1)) ** 2
    effective = min(n, few * p * (1 - p) / error**2) if error else min(n, sums.n)
    low, high = wilson(p, effective)
    return Estimate(p, low, high, round(n))


def _t(freedom: float) -> float:
    """Student's t at 97.5% (Abramowitz and Stegun 1964, 26.7.5; two terms)."""
    v = max(freedom, 1.0)
    return Z + (Z**3 + Z) / (4 * v) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * v * v)


def mean(sums: Clusters) -> Estimate:
    """Sum over count, from (sum, count) by prompt, plus and minus 1.96 standard errors."""
    total, n = sums.totals
    if not n:
        return undefined("nothing to average")
    value, error = total / n, sums.error((1 / n, -total / n**2))
    half = None if error is None else Z * error
    bounds = (None, None) if half is None else (value - half, value + half)
    return Estimate(value, *bounds, round(n))


def bounded(sums: Clusters) -> Estimate:
    """Mean of values in [0, 1], from (sum, count) by prompt.

    The interval is that of the sums with half a prompt more at 0 and at 1.
    """
    total, n = sums.totals
    if not n:
        return undefined("nothing to average")
    value, s = total / n, sums.smoothed((0, 1), (1, 1))
    total, n = s.totals
    half = Z * (s.error((1 / n, -total / n**2)) or 0.0)
    low, high = max(0.0, total / n - half), min(1.0, total / n + half)
    return Estimate(value, min(low, value), max(high, value), round(sums.totals[1]))


def difference(sums: Clusters) -> Estimate:
    """New less old, paired by prompt, from (hits, answers, old hits, old answers) by prompt.

    The interval is that of the table with half a prompt more in each cell (Agresti and Min 2005).
    """
    y, n, y0, n0 = sums.totals
    if not n or not n0:
        return undefined("no answers to compare")
    value = y / n - y0 / n0
    s = sums.smoothed((0, 1, 0, 1), (0, 1, 1, 1), (1, 1, 0, 1), (1, 1, 1, 1))
    y, n, y0, n0 = s.totals
    middle = y / n - y0 / n0
    half = Z * (s.error((1 / n, -y / n**2, -1 / n0, y0 / n0**2)) or 0.0)
    low, high = max(-1.0, middle - half), min(1.0, middle + half)
    return Estimate(value, min(low, value), max(high, value), round(sums.totals[1]))


def ratio(sums: Clusters) -> Estimate:
    """New share over old, paired by prompt, from vectors as in `difference`.

    The interval is symmetric on the logarithm, smoothed as in `difference`.
    """
    y, n, y0, n0 = sums.totals
    if not n or not y0:
        return undefined("the share it is compared with is 0" if n and n0 else "no answers")
    value = (y / n) / (y0 / n0)
    s = sums.smoothed((0, 1, 0, 1), (0, 1, 1, 1), (1, 1, 0, 1), (1, 1, 1, 1))
    y, n, y0, n0 = s.totals
    middle = math.log(y / n) - math.log(y0 / n0)
    half = Z * (s.error((1 / y, -1 / n, -1 / y0, 1 / n0)) or 0.0)
    low, high = math.exp(middle - half), math.exp(middle + half)
    return Estimate(value, min(low, value), max(high, value), round(sums.totals[1]))


def wilson(p: float, n: float, z: float = Z) -> tuple[float, float]:
    """Wilson's score interval of a share p of n items; n may be an effective number."""
    scale = 1 + z * z / n
    middle = (p + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(max(p * (1 - p) / n, 0.0) + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)
