"""The sequential gate: can the labels be trusted, as soon as that can be said and no sooner.

ALPHA (Stark 2023, "ALPHA: Audit that learns from previously hand-audited ballots", section 2; arXiv
2201.02707): items come in a random order without replacement, x_t in [0, 1] says how far a person
agreed, and under "the mean is at most tau"

    T_t = T_{t-1} (x_t eta_t / m_t + (1 - x_t) (1 - eta_t) / (1 - m_t)),
    m_t = (N tau - S_{t-1}) / (N - t + 1)

is a nonnegative supermartingale, so T passes 1 / alpha with probability at most alpha, however
often one looks. eta_t is the shrink-truncated mean, kept in (m_t, 1). The same on 1 - x decides
FAIL. Beside the paper: m_t = 0 proves nothing by itself, only an x above it does.

    rlaif audit simulate --audits 2000 --agreement 0.9 --threshold 0.75
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

D = 100.0  # the weight of the prior guess, in items
AHEAD = 0.10  # the prior guess lies so much above tau
TINY = 1e-9
QUICK = 20.0  # the same for the confidence sequence, which has no tau to be quickest at
GRID = 1000  # steps of the inverted confidence sequence

Array = np.ndarray[Any, np.dtype[np.float64]]


class Alpha:
    """Test supermartingales against "the mean is at most tau", one for each entry of `tau`.

    `guess` is the mean that is bet on at first, with the `weight` of so many items; AHEAD of tau
    where none is given. `log` holds ln T and `peak` its highest value, both of the shape of `tau`.
    `population` is N.
    """

    def __init__(
        self, tau: float | Array, population: int, guess: float | None = None, weight: float = D
    ) -> None:
        self.tau = np.atleast_1d(np.asarray(tau, dtype=float))
        self.population, self.n = population, 0
        self.sum = np.zeros_like(self.tau)
        self.log = np.zeros_like(self.tau)
        self.peak = np.zeros_like(self.tau)
        ahead = np.minimum(self.tau + AHEAD, (1 + self.tau) / 2)
        self._guess = ahead if guess is None else np.full_like(self.tau, guess)
        self._weight, self._margin = weight, (ahead - self.tau) / 2

    def step(self, x: float | Array) -> None:
        """One more item: a score in [0, 1] for all, or one for each."""
        if self.n >= self.population:
            raise ValueError(f"the frame has {self.population} items only")
        mean = (self.population * self.tau - self.sum) / (self.population - self.n)
        m = np.clip(mean, TINY, 1 - TINY)
        weight = self._weight + self.n
        bet = (self._weight * self._guess + self.sum) / weight
        bet = np.maximum(bet, m + self._margin / math.sqrt(weight))
        bet = np.where(bet < 1 - TINY, bet, (1 + m) / 2)
        factor = x * bet / m + (1 - x) * (1 - bet) / (1 - m)
        with np.errstate(divide="ignore"):
            self.log = self.log + np.log(factor)
        at_zero = np.abs(mean) <= TINY  # under the null all that is left is 0
        self.log = np.where(at_zero & (np.asarray(x) <= 0), self.log - np.log(factor), self.log)
        self.log = np.where(mean >= 1 - TINY, -np.inf, self.log)  # the null can't be refuted
        self.sum = self.sum + x
        proved = self.sum > self.population * self.tau + TINY * self.population
        self.log = np.where(proved, np.inf, self.log)
        self.peak = np.maximum(self.peak, self.log)
        self.n += 1

    @property
    def value(self) -> float:
        """T of the first."""
        return math.exp(min(float(self.log[0]), 700.0))


@dataclass
class Gate:
    """Both tests on one sequence of items, with the confidence sequence.

    `add(low, high)`: an item's score; where it cannot be judged, 0 for PASS and 1 for FAIL. `path`
    has (n, passing, failing) after each.
    """

    tau: float
    alpha: float
    cap: int
    population: int
    scores: list[tuple[float, float]] = field(default_factory=list)
    path: list[tuple[int, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._passing = Alpha(self.tau, self.population)
        self._failing = Alpha(1 - self.tau, self.population)
        grid, guess = np.arange(1, GRID) / GRID, min(self.tau + AHEAD, (1 + self.tau) / 2)
        self._above = Alpha(grid, self.population, guess, QUICK)  # caught up when it is asked for
        self._below = Alpha(grid, self.population, 1 - guess, QUICK)
        self.state: Literal["open", "pass", "fail", "inconclusive"] = "open"

    def add(self, low: float, high: float) -> None:
        """One more item of the permutation."""
        self.scores.append((low, high))
        self._passing.step(low)
        self._failing.step(1 - high)
        self.path.append((self.n, self.passing, self.failing))
        if self.state == "open":
            limit = math.log(1 / self.alpha)
            if self._passing.peak[0] >= limit:
                self.state = "pass"
            elif self._failing.peak[0] >= limit:
                self.state = "fail"
            elif self.n >= min(self.cap, self.population):
                self.state = "inconclusive"

    @property
    def n(self) -> int:
        return len(self.scores)

    @property
    def passing(self) -> float:
        """T against "the mean is at most tau"."""
        return self._passing.value

    @property
    def failing(self) -> float:
        """T against "the mean is at least tau"."""
        return self._failing.value

    @property
    def mean(self) -> float | None:
        """Mean score, what can't be judged at one half."""
        if not self.scores:
            return None
        return math.fsum(low + high for low, high in self.scores) / (2 * self.n)

    def interval(self) -> tuple[float, float]:
        """The confidence sequence of the frame's mean at 1 - alpha, valid at any stop.

        The means that neither test rejects at alpha / 2, at a resolution of 1 / GRID, outwards.
        """
        for low, high in self.scores[self._above.n :]:
            self._above.step(low)
            self._below.step(1 - high)
        limit = math.log(2 / self.alpha)
        return _rejected(self._above, limit), 1 - _rejected(self._below, limit)

    def left(self) -> int | None:
        """Items that a decision is expected to take from here; None where it is taken.

        Each further item is taken to score as the shrunk mean so far, and T to grow at its mean
        logarithmic rate; at most what is left up to the cap.
        """
        if self.state != "open":
            return None
        room = min(self.cap, self.population) - self.n
        guess = (D / 4 * min(self.tau + AHEAD, 1.0) + (self.mean or 0) * self.n) / (D / 4 + self.n)
        limit = math.log(1 / self.alpha)
        needs = [
            _steps(limit - float(self._passing.log[0]), guess, self.tau),
            _steps(limit - float(self._failing.log[0]), 1 - guess, 1 - self.tau),
        ]
        return max(1, min(room, *(math.ceil(need) for need in needs)))


def _steps(need: float, mean: float, null: float) -> float:
    """Items until ln T has grown by `need`, betting on the true mean of 0s and 1s."""
    if mean <= null:
        return 1e9
    mean = min(mean, 1 - 1e-6)
    rate = mean * math.log(mean / null) + (1 - mean) * math.log((1 - mean) / (1 - null))
    return min(need / rate, 1e9)


def _rejected(test: Alpha, limit: float) -> float:
    """The highest mean up to which all are rejected as upper bounds."""
    kept = np.flatnonzero(test.peak < limit)
    first = int(kept[0]) if len(kept) else len(test.tau)
    return first / GRID


def judged(
    scores: Sequence[tuple[float, float]], tau: float, alpha: float, cap: int, population: int
) -> Gate:
    """The gate after these items."""
    gate = Gate(tau, alpha, cap, population)
    for low, high in scores:
        gate.add(low, high)
    return gate


# --- simulation -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Simulated:
    """What came of many audits. `median_items` is to a PASS, None where none passed."""

    audits: int
    agreement: float
    threshold: float
    pass_rate: float
    fail_rate: float
    inconclusive_rate: float
    median_items: float | None


def simulate(
    audits: int, agreement: float, threshold: float, *, seed: int = 0, alpha: float = 0.05,
    cap: int = 400, population: int = 2000,
) -> Simulated:  # fmt: skip
    """Audits of a frame of which a person agrees with a share, looked at after every item."""
    rng = np.random.default_rng(seed)
    taus = np.full(audits, threshold)
    passing, failing = Alpha(taus, population), Alpha(1 - taus, population)
    right = np.full(audits, float(round(agreement * population)))
    ended = np.zeros(audits, dtype=int)  # 1 pass, 2 fail
    items = np.zeros(audits)
    limit = math.log(1 / alpha)
    for n in range(min(cap, population)):
        x = (rng.random(audits) * (population - n) < right).astype(float)
        right -= x
        passing.step(x)
        failing.step(1 - x)
        for code, test in ((1, passing), (2, failing)):
            now = (ended == 0) & (test.peak >= limit)
            ended[now], items[now] = code, n + 1
    passed = items[ended == 1]
    return Simulated(
        audits, agreement, threshold, float((ended == 1).mean()), float((ended == 2).mean()),
        float((ended == 0).mean()), float(np.median(passed)) if len(passed) else None,
    )  # fmt: skip
