"""Win rates against the start model, as the judge sees them."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from rlaif.calibration import sigmoid
from rlaif.constitution import Constitution
from rlaif.intervals import Clusters, Estimate, bounded, share, undefined
from rlaif.jsonl import rows
from rlaif.records import Win

FEWEST = 20  # comparisons for a length-controlled win rate


class _Wins:
    """The comparisons of one model."""

    def __init__(self) -> None:
        self.rate, self.soft, self.helpful = Clusters(2), Clusters(2), Clusters(2)
        self.by_principle: dict[str, Clusters] = defaultdict(lambda: Clusters(2))
        self.unanswered: Counter[str] = Counter()
        self.ties = 0
        self.soft_and_longer: list[tuple[float, float]] = []  # by prompt: win, words more

    def add(self, all_wins: list[Win], helpful: set[str]) -> None:
        """The comparisons of one prompt."""
        self.unanswered.update(w.unanswered for w in all_wins if w.win is None)
        decided = [w for w in all_wins if w.win is not None]
        if not decided:
            return
        soft = [w.win for w in decided if w.win is not None]
        hits = sum(1.0 if win > 0.5 else 0.5 if win == 0.5 else 0.0 for win in soft)
        self.ties += sum(win == 0.5 for win in soft)
        self.rate.add(hits, len(soft))
        self.soft.add(sum(soft), len(soft))
        principle = decided[0].principle
        self.by_principle[principle].add(hits, len(soft))
        if principle in helpful:
            self.helpful.add(hits, len(soft))
        self.soft_and_longer.append((fmean(soft), fmean(w.longer for w in decided)))

    def json(self) -> dict[str, Any]:
        return {
            "rate": share(self.rate).json(),
            "soft": bounded(self.soft).json(),
            "length_controlled": length_controlled(self.soft_and_longer).json(),
            "principles": {id: share(s).json() for id, s in sorted(self.by_principle.items())},
            "ties": self.ties,
            "unanswered": dict(sorted(self.unanswered.items())),
        }


def wins(path: Path, constitution: Constitution) -> dict[str, Any]:
    """`wins` by model; `helpful`, the same under principles tagged helpful; the judge's `position`.

    A win is an averaged P above 0.5; equal answers tie and count half. `position` is the mean
    probability of whichever answer was shown first: 0.5 is no bias.
    """
    helpful = {p.id for p in constitution.principles if "helpful" in p.tags}
    by_model: dict[str, _Wins] = {}
    position = Clusters(2)
    for (_, model), group in groupby(rows(path, Win), lambda win: (win.prompt, win.model)):
        some = list(group)
        by_model.setdefault(model, _Wins()).add(some, helpful)
        if first := [w.orders[0] / 2 + (1 - w.orders[1]) / 2 for w in some if w.orders]:
            position.add(sum(first), len(first))
    missing = "no principle is tagged helpful" if not helpful else "no prompt met a helpful one"
    return {
        "wins": {name: found.json() for name, found in by_model.items()},
        "helpful": {
            name: (share(w.helpful) if w.helpful.n else undefined(missing)).json()
            for name, w in by_model.items()
        },
        "position": bounded(position).json(),
    }


def length_controlled(found: list[tuple[float, float]]) -> Estimate:
    """The win rate had both answers been of one length (after Dubois et al. 2024, AlpacaEval 2).

    A logistic regression of the soft win on tanh of the difference in words over its standard
    deviation; the figure is its value at no difference. The interval is from the sandwich variance,
    with a win and a loss more at no difference.
    """
    n = len(found)
    if n < FEWEST:
        return undefined(f"fewer than {FEWEST} prompts", n)
    scale = math.sqrt(fmean(longer**2 for _, longer in found))
    data = [
        (min(max(win, 1e-3), 1 - 1e-3), math.tanh(longer / scale) if scale else 0.0)
        for win, longer in found
    ]
    value, _ = _intercept(data)
    a, error = _intercept([*data, (0.0, 0.0), (1.0, 0.0)])
    low, high = sigmoid(a - 1.96 * error), sigmoid(a + 1.96 * error)
    return Estimate(sigmoid(value), min(low, sigmoid(value)), max(high, sigmoid(value)), n)


def _intercept(data: list[tuple[float, float]]) -> tuple[float, float]:
    """The logit at no difference, and its standard error."""
    a, b = _fitted(data)
    (aa, ab, bb), _ = _slopes(data, a, b)
    determinant = aa * bb - ab * ab
    # one row of the inverse of the information; then its product with every prompt's score
    row = (bb / determinant, -ab / determinant) if determinant > 1e-9 else (1 / aa, 0.0)
    error = math.sqrt(
        sum(((win - sigmoid(a + b * x)) * (row[0] + row[1] * x)) ** 2 for win, x in data)
    )
    return a, error


def _fitted(data: list[tuple[float, float]], steps: int = 60) -> tuple[float, float]:
    """Intercept and slope by Newton's method."""
    a = b = 0.0
    for _ in range(steps):
        (aa, ab, bb), (ga, gb) = _slopes(data, a, b)
        determinant = aa * bb - ab * ab
        if determinant <= 1e-9:  # one length throughout: no slope to be had
            step = (ga / aa, 0.0)
        else:
            step = ((bb * ga - ab * gb) / determinant, (aa * gb - ab * ga) / determinant)
        a, b = a + max(-2.0, min(2.0, step[0])), b + max(-2.0, min(2.0, step[1]))
        if abs(step[0]) + abs(step[1]) < 1e-10:
            break
    return a, b


def _slopes(
    data: list[tuple[float, float]], a: float, b: float
) -> tuple[tuple[float, float, float], tuple[float, float]]:
    """Information matrix (aa, ab, bb) and gradient of the log-likelihood."""
    aa = ab = bb = ga = gb = 0.0
    for win, x in data:
        p = sigmoid(a + b * x)
        w = max(p * (1 - p), 1e-12)
        aa, ab, bb = aa + w, ab + w * x, bb + w * x * x
        ga, gb = ga + win - p, gb + (win - p) * x
    return (aa, ab, bb), (ga, gb)
