"""The stage's metrics, counted row by row: memory doesn't grow with the prompts."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from rlaif.intervals import Hits
from rlaif.preferences.judging import Rationale, Reading
from rlaif.preferences.pairs import Candidates
from rlaif.records import Pair, Verdict

CONFIDENT = 0.8
"""A label is called confident from this probability of the likelier answer."""


@dataclass(slots=True)
class Figures:
    """What the verdicts under one principle have in common, or all of them."""

    n: int = 0
    target: float = 0.0
    first_place: float = 0.0
    in_both_orders: int = 0
    consistent: Hits = field(default_factory=Hits)
    confident: Hits = field(default_factory=Hits)
    unlabelled: Counter[str] = field(default_factory=Counter)

    def add(self, verdict: Verdict, prompt: str, *, pairwise: bool) -> None:
        """Count one verdict on answers to a prompt; those of one prompt come together."""
        if verdict.target is None:
            self.unlabelled[verdict.unlabelled] += 1
            return
        self.n += 1
        self.target += verdict.target
        self.confident.add(max(verdict.target, 1 - verdict.target) >= CONFIDENT, prompt)
        if pairwise:
            a_first, b_first = verdict.orders
            self.in_both_orders += 1
            self.first_place += a_first - b_first
            self.consistent.add((a_first - 0.5) * (b_first - 0.5) > 0, prompt)

    def json(self) -> dict[str, Any]:
        """Plain values.

        `position_bias` is what the first place gains: mean of P(a) shown first less P(a) shown
        second. `consistent` is the share of verdicts in which both orders prefer the same answer.
        """
        return {
            "n": self.n,
            "mean_target": _mean(self.target, self.n),
            "position_bias": _mean(self.first_place, self.in_both_orders),
            "consistent": self.consistent.estimate.json(),
            "confident": self.confident.estimate.json(),
            "unlabelled": dict(sorted(self.unlabelled.items())),
        }


class Tally:
    """Everything that the stage counts, and the metrics it makes."""

    def __init__(self, *, pairwise: bool) -> None:
        self._pairwise = pairwise
        self._counts: Counter[str] = Counter()
        self._unanswered: Counter[str] = Counter()
        self._unlabelled: Counter[str] = Counter()
        self._all = Figures()
        self._by_principle: dict[str, Figures] = defaultdict(Figures)
        self._confident, self._spread, self._mass = Hits(), [0.0, 0], [0.0, 0]
        self._products = [0.0, 0.0, 0.0]  # of label and length: xy, xx, yy

    def candidates(self, row: Candidates, pairs: int) -> None:
        """Count the answers of one prompt, of which so many pairs are made."""
        answered = [drawn for drawn in row.answers if not drawn.unanswered]
        distinct = math.comb(len(row.texts), 2)
        self._unanswered.update(d.unanswered for d in row.answers if d.unanswered)
        self._counts["prompts"] += 1
        self._counts["answers"] += len(answered)
        self._counts["pairs"] += pairs
        self._counts["identical"] += math.comb(len(answered), 2) - distinct
        self._counts["left_out"] += distinct - pairs

    def rationale(self, written: Rationale) -> None:
        """Count one rationale, if it can be used."""
        self._counts["rationales"] += not written.unanswered

    def reading(self, reading: Reading) -> None:
        """Count one label that was asked for."""
        if reading.logit is not None:
            self._mass[0] += reading.mass
            self._mass[1] += 1

    def pair(self, pair: Pair) -> None:
        """Count one judged pair."""
        prompt = pair.prompt.id
        for verdict in pair.verdicts:
            for figures in (self._all, self._by_principle[verdict.principle]):
                figures.add(verdict, prompt, pairwise=self._pairwise)
        if pair.target is None:
            self._unlabelled[pair.unlabelled] += 1
            return
        self._counts["labelled"] += 1
        self._confident.add(max(pair.target, 1 - pair.target) >= CONFIDENT, prompt)
        label, longer = pair.target - 0.5, len(pair.a) - len(pair.b)
        for i, product in enumerate((label * longer, label**2, longer**2)):
            self._products[i] += product
        if pair.spread is not None:
            self._spread[0] += pair.spread
            self._spread[1] += 1

    @property
    def _length_preference(self) -> float | None:
        xy, xx, yy = self._products
        return xy / math.sqrt(xx * yy) if xx and yy else None

    def json(self) -> dict[str, Any]:
        """The metrics: counts of answers and pairs, then figures of pairs, then of verdicts.

        `identical` counts pairs of draws that make no pair of their own, because their texts are
        equal or are those of another pair; `left_out` those beyond `max_pairs`. `label_mass` is the
        mean probability that fell on the two labels: near 0, the judge meant to say something else.
        `length_preference` is the correlation of the label with how much longer a is, uncentred:
        what Pearson's r is of each pair and its mirror image, so that sides mean nothing.
        """
        names = ("prompts", "answers", "pairs", "identical", "left_out", "labelled")
        return {
            **{name: self._counts[name] for name in names},
            "unanswered": dict(sorted(self._unanswered.items())),
            "unlabelled": dict(sorted(self._unlabelled.items())),
            "rationales": self._counts["rationales"],
            "label_mass": _mean(*self._mass),
            "confident": self._confident.estimate.json(),
            "spread": _mean(*self._spread),
            "length_preference": _rounded(self._length_preference),
            "verdicts": self._all.json(),
            "principles": {id: f.json() for id, f in sorted(self._by_principle.items())},
        }


def _mean(total: float, n: float) -> float | None:
    return _rounded(total / n) if n else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
