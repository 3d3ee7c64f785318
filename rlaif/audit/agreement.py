"""Agreement between raters beyond chance, with intervals; what is undefined says why.

Tables hold the number of raters who put item i into category k, as an array (N, K). Cohen's kappa
(1960), Krippendorff's nominal alpha (2004) and Gwet's AC1 (2008) differ in what they call chance.
Intervals cover two: the jackknife's over items, on Fisher's scale, of the table with two invented
items more; and Clopper and Pearson's (1934) of the observed agreement, with chance as it was found.
The first fails where nearly all agree, the second where chance itself is uncertain. Where the
number of items hangs on what they said, as after a gate, `anytime` takes the second's place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rlaif.intervals import Estimate, Z, undefined

Array = np.ndarray[Any, np.dtype[np.float64]]
Statistic = Callable[[Array], float]
Bounds = Callable[[float, int], tuple[float, float]]
"""An interval of a share, from hits and items."""

GRID = 2000
FEWEST = 10  # items, below which no interval is given


def table(ratings: Sequence[Sequence[str | None]], categories: Sequence[str] = ()) -> Array:
    """Counts (N, K) from ratings by item; None is no rating. Categories nobody used drop out."""
    names = list(categories) or sorted({r for row in ratings for r in row if r is not None})
    place = {name: k for k, name in enumerate(names)}
    counts = np.zeros((len(ratings), len(names)))
    for i, row in enumerate(ratings):
        for rating in row:
            if rating is not None:
                counts[i, place[rating]] += 1
    return counts


def confusion(first: Sequence[str], second: Sequence[str]) -> dict[str, dict[str, int]]:
    """How often the second rater said what, by what the first said."""
    cells: dict[str, dict[str, int]] = {}
    for a, b in zip(first, second, strict=True):
        row = cells.setdefault(a, {})
        row[b] = row.get(b, 0) + 1
    return cells


def kappa(first: Sequence[str], second: Sequence[str], bounds: Bounds | None = None) -> Estimate:
    """Cohen's kappa of two raters of the same items."""
    names = sorted({*first, *second})
    place = {name: k for k, name in enumerate(names)}
    pairs = np.array([(place[a], place[b]) for a, b in zip(first, second, strict=True)])
    if not len(pairs):
        return undefined("nothing was rated by both")
    if len(names) == 1:
        return undefined("both raters used one and the same category", len(pairs))
    cells = np.zeros((len(pairs), len(names) ** 2))
    cells[np.arange(len(pairs)), pairs[:, 0] * len(names) + pairs[:, 1]] = 1
    rows, columns = _margins(cells.sum(0))
    prior: Array = np.outer(rows, columns).ravel().astype(float)
    agreed = float(sum(a == b for a, b in zip(first, second, strict=True)))
    return _estimate(_kappa, cells, prior, agreed, bounds or exact)


def alpha(counts: Array, bounds: Bounds | None = None) -> Estimate:
    """Krippendorff's alpha for nominal data; items with one rating say nothing."""
    counts = _pairable(counts)
    if why := _hollow(counts):
        return undefined(why, len(counts))
    return _estimate(_alpha, counts, _chance(counts), _agreed(counts), bounds or exact)


def ac1(counts: Array, categories: int | None = None, bounds: Bounds | None = None) -> Estimate:
    """Gwet's AC1 of several raters; `categories` that might have been used count for chance."""
    width = max(categories or 0, counts.shape[1])
    counts = _pairable(counts)
    if not len(counts):
        return undefined("nothing was rated twice")
    if width < 2:
        return undefined("there is one category only", len(counts))
    counts = np.pad(counts, ((0, 0), (0, width - counts.shape[1])))
    return _estimate(_ac1, counts, _chance(counts), _agreed(counts), bounds or exact)


def observed(counts: Array) -> Estimate:
    """The share of pairs of raters that agree on an item, averaged over items."""
    counts = _pairable(counts)
    if not len(counts):
        return undefined("nothing was rated twice")
    hits, n = _agreed(counts), len(counts)
    return Estimate(hits / n, *exact(hits, n), n)


# --- the statistics, of tables whose rows may have weights by being fractions ---------------------


def _kappa(cells: Array) -> float:
    joint = cells.sum(0)
    rows, columns = _margins(joint)
    expected = float(rows @ columns)
    k = len(rows)
    seen = float(joint.reshape(k, k).trace() / joint.sum())
    return (seen - expected) / (1 - expected) if expected < 1 else math.nan


def _alpha(counts: Array) -> float:
    raters = counts.sum(1)
    coincidence = counts.T @ (counts / (raters - 1)[:, None])
    coincidence -= np.diag((counts / (raters - 1)[:, None]).sum(0))
    totals = coincidence.sum(0)
    n = totals.sum()
    apart = n - coincidence.trace()
    expected = (n * n - float(totals @ totals)) / (n - 1)
    return 1 - apart / expected if expected > 0 else math.nan


def _ac1(counts: Array) -> float:
    pi = (counts / counts.sum(1)[:, None]).mean(0)
    expected = float(pi @ (1 - pi)) / (counts.shape[1] - 1)
    return (_observed(counts) - expected) / (1 - expected)


def _observed(counts: Array) -> float:
    raters = counts.sum(1)
    return float(((counts * (counts - 1)).sum(1) / (raters * (raters - 1))).mean())


def _margins(joint: Array) -> tuple[Array, Array]:
    k = math.isqrt(len(joint))
    square = joint.reshape(k, k) / joint.sum()
    return square.sum(1), square.sum(0)


def _pairable(counts: Array) -> Array:
    return counts[counts.sum(1) >= 2]


def _hollow(counts: Array) -> str:
    if not len(counts):
        return "nothing was rated twice"
    if (counts.sum(0) > 0).sum() < 2:
        return "all raters used one and the same category"
    return ""


def _chance(counts: Array) -> Array:
    """One invented pair of ratings by chance, for `_estimate`: the share of each category."""
    return counts.sum(0) / counts.sum()


def exact(hits: float, n: int) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share; never too short."""
    from scipy.stats import beta

    low = float(beta.ppf(0.025, hits, n - hits + 1)) if hits > 0 else 0.0
    high = float(beta.ppf(0.975, hits + 1, n - hits)) if hits < n else 1.0
    return low, high


def anytime(hits: float, n: int) -> tuple[float, float]:
    """An interval of a mean in [0, 1] that holds at whatever item one stops.

    The means p against which the mixture of all bets, int q^k (1 - q)^(n - k) dq over
    p^k (1 - p)^(n - k), stays below 20 (Robbins 1970): a test martingale, of scores between 0 and 1
    a supermartingale.
    """
    if not n:
        return 0.0, 1.0
    grid = np.arange(1, GRID) / GRID
    mixed = math.lgamma(hits + 1) + math.lgamma(n - hits + 1) - math.lgamma(n + 2)
    kept = mixed - hits * np.log(grid) - (n - hits) * np.log(1 - grid) < math.log(20)
    inside = np.flatnonzero(kept)
    return float(inside[0]) / GRID, float(inside[-1] + 2) / GRID


def _agreed(counts: Array) -> float:
    return _observed(counts) * len(counts)


def _estimate(
    statistic: Statistic, items: Array, prior: Array, agreed: float, bounds: Bounds
) -> Estimate:
    """The statistic with its interval; undefined where it is no number."""
    value, n = statistic(items), len(items)
    if not math.isfinite(value):
        return undefined("chance alone explains all agreement", n)
    if n < FEWEST:
        return Estimate(value, n=n, why=f"fewer than {FEWEST} items: no interval")
    middle, error = _jackknife(statistic, np.vstack([items, _invented(items, prior)]))
    middle = min(max(middle, -1 + 1e-6), 1 - 1e-6)
    scale, half = math.atanh(middle), Z * error / (1 - middle**2)
    seen = agreed / n
    chance = (seen - value) / (1 - value) if value < 1 else min(_chance_of(prior), 1 - 1e-9)
    ends = [(bound - chance) / (1 - chance) for bound in bounds(agreed, n)]
    low = min(math.tanh(scale - half), ends[0], value)
    high = max(math.tanh(scale + half), ends[1], value)
    return Estimate(float(value), max(-1.0, float(low)), min(1.0, float(high)), n)


def _chance_of(prior: Array) -> float:
    """Agreement by chance where all agreed: from the shares of the categories that were used."""
    shares = prior[prior > 0]
    return float((shares**2).sum() / shares.sum() ** 2)


def _invented(items: Array, prior: Array) -> Array:
    """Two items as they might have been rated by chance."""
    k, first = len(prior), np.argsort(-prior)[:2]
    if items.sum(1).max() == 1:  # cells of kappa: one mark an item
        return np.eye(k)[first]
    rows = np.zeros((2, k))
    rows[0, first] += 1
    rows[1, first[0]] += 2
    return rows


def _jackknife(statistic: Statistic, items: Array) -> tuple[float, float]:
    """The statistic, and its standard error from leaving out one item at a time."""
    n, kinds = len(items), np.unique(items, axis=0, return_index=True, return_counts=True)
    _, first, counts = kinds
    left_out = np.array([statistic(np.delete(items, i, axis=0)) for i in first])
    left_out = np.where(np.isfinite(left_out), left_out, statistic(items))
    mean = float((left_out * counts).sum() / n)
    variance = (n - 1) / n * float((counts * (left_out - mean) ** 2).sum())
    return statistic(items), math.sqrt(variance)
