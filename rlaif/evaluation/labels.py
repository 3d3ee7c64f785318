"""How good the judge's soft labels are, held against what an oracle knows.

Under a principle the truth of a pair is which side violates it. Pairs in which both or neither do
are ties: no label of them is right or wrong, so they are counted and left out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from rlaif.calibration import Calibration, logit, scaled, temperature
from rlaif.evaluation.truth import Reader
from rlaif.intervals import Share, undefined
from rlaif.jsonl import rows
from rlaif.records import Pair, Verdict
from rlaif.stages import stage_record

FITTED = 100_000  # verdicts of each half that temperature scaling is tried on


class _Labels:
    """All that is counted while the pairs pass."""

    def __init__(self) -> None:
        self.verdicts, self.pairs = Calibration(), Calibration()
        self.orders, self.one_order = (Calibration(), Calibration()), Calibration()
        self.by_principle: dict[str, Calibration] = defaultdict(Calibration)
        self.halves: tuple[list[tuple[float, bool]], ...] = ([], [])
        self.unlabelled: Counter[str] = Counter()
        self.ties = self.asked = 0

    def add(self, pair: Pair, a: Mapping[str, Any], b: Mapping[str, Any], pairwise: bool) -> None:
        """One pair, and what is true of its sides (nothing, where the oracle does not know)."""
        for verdict in pair.verdicts:
            self.asked += 1
            if verdict.target is None:
                self.unlabelled[verdict.unlabelled or "unknown"] += 1
                continue
            if a and b:
                self._add_verdict(pair, verdict, verdict.principle in a["violations"],
                                  verdict.principle in b["violations"], pairwise)  # fmt: skip
        if a and b and pair.target is not None:
            worse = len(a["violations"]) - len(b["violations"])
            if worse:
                self.pairs.add(pair.target, worse < 0, pair.prompt.id)

    def _add_verdict(
        self, pair: Pair, verdict: Verdict, a_guilty: bool, b_guilty: bool, pairwise: bool
    ) -> None:
        if a_guilty == b_guilty:
            self.ties += 1
            return
        p, truth = verdict.target or 0.0, b_guilty
        self.verdicts.add(p, truth, pair.prompt.id)
        self.by_principle[verdict.principle].add(p, truth, pair.prompt.id)
        half = self.halves[_half(pair.prompt.opening)]
        if len(half) < FITTED:
            half.append((p, truth))
        if pairwise and len(verdict.orders) == 2:
            for order, alone in zip(self.orders, verdict.orders, strict=True):
                order.add(alone, truth, pair.prompt.id)
                self.one_order.add(alone, truth, pair.prompt.id)

    def json(self, method: str) -> dict[str, Any]:
        nowhere = undefined(f"{method} labels have no order").json()
        pairwise = method == "pairwise"
        return {
            "method": method,
            "accuracy": self.verdicts.accuracy.json(),
            "one_order": self.one_order.accuracy.json() if pairwise else nowhere,
            "orders": [order.accuracy.json() for order in self.orders] if pairwise else [],
            "ece": _rounded(self.verdicts.ece),
            "brier": _rounded(self.verdicts.brier),
            "curve": self.verdicts.curve,
            "calibrated": self._calibrated(),
            "ties": self.ties,
            "pairs": {
                "accuracy": self.pairs.accuracy.json(),
                "ece": _rounded(self.pairs.ece),
                "curve": self.pairs.curve,
            },
            "principles": {
                id: {"accuracy": c.accuracy.json(), "ece": _rounded(c.ece)}
                for id, c in sorted(self.by_principle.items())
            },
            "unlabelled": Share(self.unlabelled.total(), self.asked).json(),
            "reasons": dict(sorted(self.unlabelled.items())),
        }

    def _calibrated(self) -> dict[str, Any]:
        """After temperature scaling, fitted on one half of the prompts and read on the other."""
        fitted = [temperature([(logit(p), truth) for p, truth in half]) for half in self.halves]
        after = Calibration()
        for t, other in zip(fitted, reversed(self.halves), strict=True):
            for p, truth in other if t else ():
                after.add(scaled(p, t or 1.0), truth)
        temperatures = [_rounded(t) for t in fitted]
        return {"temperatures": temperatures, "ece": _rounded(after.ece), "curve": after.curve}


def label_quality(pairs: Path, truth: Reader) -> dict[str, Any]:
    """The labels of the preferences stage's folder `pairs` against the oracle.

    `accuracy`, `ece` and `curve` are of single verdicts; `one_order` is the accuracy had only one
    order been asked; `pairs` holds the aggregated label against which side has fewer violations;
    `calibrated` what temperature scaling would make of the verdicts.

    Raises:
        RunError: the folder is no finished stage.
        DataError: a row cannot be read.
    """
    method = stage_record(pairs)["made_from"]["section"].get("method", "pairwise")
    labels = _Labels()
    for pair in rows(pairs / "pairs.jsonl", Pair):
        sides = truth(pair.prompt, pair.a), truth(pair.prompt, pair.b)
        labels.add(pair, *sides, pairwise=method == "pairwise")
    return labels.json(method)


def _half(opening: str) -> int:
    return blake2b(opening.encode(), digest_size=1).digest()[0] & 1


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
