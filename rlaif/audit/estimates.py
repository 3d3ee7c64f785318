"""Figures of a frame from the few of its items that people judged, with 95% intervals.

Weighted means by stratum (Cochran 1977, section 5), the prediction-powered mean PPI++
(Angelopoulos, Duchi and Zrnic 2023, arXiv 2311.01453), rates shrunk towards one another,
Benjamini and Hochberg's (1995) and Benjamini and Yekutieli's (2001) corrections, and the
alternative annotator test (Calderon, Reichart and Dror 2025, arXiv 2501.10970).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rlaif.audit.agreement import Bounds, exact
from rlaif.intervals import Estimate, undefined, wilson

Array = np.ndarray[Any, np.dtype[np.float64]]

SHARED = 50  # items that the alternative-annotator test asks for
RATERS = 3


def rate(hits: float, n: int, nobody: str, bounds: Bounds = exact) -> Estimate:
    """A share with Clopper and Pearson's interval, or other `bounds`; `nobody`: why undefined."""
    return Estimate(hits / n, *bounds(hits, n), n) if n else undefined(nobody)


def hull(found: Estimate, low: float, high: float) -> Estimate:
    """A figure whose interval covers another, too."""
    if found.low is None or found.high is None:
        return found
    return replace(found, low=min(found.low, low), high=max(found.high, high))


def weighted(samples: Mapping[str, Sequence[float]], sizes: Mapping[str, int]) -> Estimate:
    """The mean of a frame from samples of its strata, whose `sizes` in the frame are known.

    sum W_h p_h, with variance sum W_h^2 (1 - f_h) s_h^2 / n_h (each s_h^2 with half an item more at
    0 and at 1) and Wilson's interval on the effective number of items. Strata with fewer than 2
    items are taken together.
    """
    strata = _collapsed(samples, sizes)
    if not strata:
        return undefined("nothing was judged")
    total = sum(size for _, size in strata)
    value = variance = 0.0
    for xs, size in strata:
        weight, n = size / total, len(xs)
        value += weight * float(xs.mean())
        variance += weight**2 * max(1 - n / size, 0.0) * _spread(xs) / n
    n = sum(len(xs) for xs, _ in strata)
    if variance <= 0:
        return Estimate(value, value, value, n)  # all was judged
    middle = min(max(value, 0.5 / (n + 1)), 1 - 0.5 / (n + 1))
    low, high = wilson(value, middle * (1 - middle) / variance)
    return Estimate(value, low, high, n)


def _spread(xs: Array) -> float:
    """A variance that is never 0."""
    n, mean = len(xs), float(xs.mean())
    squares = float(((xs - mean) ** 2).sum()) + 0.5 * ((1 - mean) ** 2 + mean**2)
    return squares / max(n - 1 + 0.5, 1.0)


def _collapsed(
    samples: Mapping[str, Sequence[float]], sizes: Mapping[str, int]
) -> list[tuple[Array, int]]:
    kept, rest, left = list[tuple[Array, int]](), list[float](), 0
    for name, size in sorted(sizes.items(), key=lambda stratum: stratum[1]):
        xs = list(samples.get(name, ()))
        if len(xs) >= 2:
            kept.append((np.array(xs, dtype=float), size))
        else:
            rest, left = rest + xs, left + size
    if left and len(rest) < 2 and kept:
        xs, size = kept.pop(0)
        rest, left = [*rest, *xs], left + size
    if left and rest:
        kept.append((np.array(rest, dtype=float), left))
    return kept


def ppi(y: Sequence[float], f: Sequence[float], everywhere: float, population: int) -> Estimate:
    """The mean of y over a population, from n judged items and a predictor f known everywhere.

    lambda F + mean(y - lambda f) with F the predictor's mean and lambda = Cov(y, f) / ((1 + n / N)
    Var f). The interval is at 1.96 standard errors, at least that of the judged items' own spread
    where the predictor hides it.
    """
    ys, fs = np.asarray(y, dtype=float), np.asarray(f, dtype=float)
    n = len(ys)
    if n < 10:
        return undefined(f"{n} judged items; 10 are needed", n)
    spread = float(fs.var(ddof=1))
    both = float(((ys - ys.mean()) * (fs - fs.mean())).sum() / (n - 1))
    tuned = min(max(both / ((1 + n / population) * spread), 0.0), 1.0) if spread > 0 else 0.0
    rest = ys - tuned * fs
    value = tuned * everywhere + float(rest.mean())
    variance = max(1 - n / population, 0.0) * _around(rest) / n
    half = _t(n - 1) * math.sqrt(variance)
    value = min(max(value, 0.0), 1.0)
    return Estimate(value, max(0.0, value - half), min(1.0, value + half), n)


def _around(xs: Array) -> float:
    """The variance, with half an item more at one off the mean to either side."""
    return (float(((xs - xs.mean()) ** 2).sum()) + 1.0) / len(xs)


def _t(df: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, df))


def fisher(one: tuple[int, int], other: tuple[int, int], *, greater: bool = False) -> float:
    """p of Fisher's exact test of (hits, misses) against (hits, misses)."""
    from scipy.stats import fisher_exact

    side = "greater" if greater else "two-sided"
    found: Any = fisher_exact([one, other], alternative=side)
    return float(found[1])


def shrunk(hits: Sequence[float], n: Sequence[int]) -> list[float | None]:
    """Rates drawn towards their mean, as far as chance alone could have spread them.

    A beta prior fitted by moments (Kleinman 1973); None where nothing was counted.
    """
    known = [(h, m) for h, m in zip(hits, n, strict=True) if m]
    if not known:
        return [None] * len(n)
    total = sum(m for _, m in known)
    mean = sum(h for h, _ in known) / total
    if len(known) < 2 or mean in (0.0, 1.0):
        return [mean if m else None for m in n]
    spread = sum(m * (h / m - mean) ** 2 for h, m in known)
    k, squares = len(known), sum(m * m for _, m in known)
    between = (spread - (k - 1) * mean * (1 - mean)) / (total - squares / total)
    prior = max(mean * (1 - mean) / between - 1, 0.0) if between > 0 else math.inf
    if math.isinf(prior):
        return [mean if m else None for m in n]
    return [(h + prior * mean) / (m + prior) if m else None for h, m in zip(hits, n, strict=True)]


def benjamini_hochberg(p: Sequence[float], *, dependent: bool = False) -> list[float]:
    """Adjusted p values; `dependent` is Benjamini and Yekutieli's."""
    m = len(p)
    factor = sum(1 / k for k in range(1, m + 1)) if dependent else 1.0
    adjusted, lowest = [1.0] * m, 1.0
    for rank, i in sorted(enumerate(sorted(range(m), key=lambda i: p[i]), 1), reverse=True):
        lowest = min(lowest, p[i] * m * factor / rank)
        adjusted[i] = lowest
    return adjusted


@dataclass(frozen=True, slots=True)
class Alternative:
    """Whether the judge may stand in for a person: the share of raters whom it matches or beats,
    less `epsilon`. Where `winning` is None, `why` says what is missing."""

    winning: float | None
    raters: int = 0
    items: int = 0
    epsilon: float = 0.15
    why: str = ""

    @property
    def passed(self) -> bool | None:
        return None if self.winning is None else self.winning >= 0.5


def alternative_annotator(
    labels: Sequence[str], ratings: Sequence[Mapping[int, str]], *, epsilon: float = 0.15,
    q: float = 0.05,
) -> Alternative:  # fmt: skip
    """The test of Calderon et al. (2025), for three raters and more, on the items that two or more
    of them judged.

    Each rater is left out in turn: against the others, does the judge agree as often as he, less
    epsilon? One-sided t tests, corrected by Benjamini and Yekutieli at q.
    """
    shared = [(y, r) for y, r in zip(labels, ratings, strict=True) if len(r) >= 2]
    raters = sorted({rater for _, r in shared for rater in r})
    if len(raters) < RATERS:
        return Alternative(
            None, len(raters), len(shared), epsilon, f"{RATERS} reviewers are needed"
        )
    worse: list[list[float]] = [[] for _ in raters]
    for y, r in shared:
        for k, rater in enumerate(raters):
            if rater in r:
                others = [verdict for other, verdict in r.items() if other != rater]
                his, its = others.count(r[rater]), others.count(y)
                worse[k].append(float(his > its) - float(its > his))
    fewest = min(map(len, worse))
    if fewest < SHARED:
        why = f"each needs {SHARED} items that others judged, too; one has {fewest}"
        return Alternative(None, len(raters), len(shared), epsilon, why)
    p = benjamini_hochberg([_below(xs, epsilon) for xs in worse], dependent=True)
    won = sum(value < q for value in p) / len(raters)
    return Alternative(won, len(raters), len(shared), epsilon)


def _below(xs: Sequence[float], epsilon: float) -> float:
    """p of "the mean is at least epsilon" against "below"."""
    from scipy.stats import t

    values = np.asarray(xs)
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    gap = float(values.mean()) - epsilon
    return float(t.cdf(gap / error, len(values) - 1)) if error else float(gap >= 0)
