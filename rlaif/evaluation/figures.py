"""From samples.jsonl and wins.jsonl to figures with intervals, in one pass over each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlaif.constitution import Constitution
from rlaif.evaluation.answering import by_prompt
from rlaif.evaluation.monitors import boilerplate, refuses
from rlaif.evaluation.wins import wins
from rlaif.intervals import Clusters, Estimate, Hits, difference, mean, ratio, share, undefined
from rlaif.records import Sampled

Faults = Sequence[str]
Counted = tuple[float, float]
"""Hits (or a sum), and how many answers they are of."""


class Compared:
    """One figure of several models on the same prompts; "seed" is what the others are held to."""

    def __init__(self, models: Sequence[str]) -> None:
        self.models = models
        self._alone = {name: Clusters(2) for name in models}
        self._paired = {name: Clusters(4) for name in models if name != "seed"}

    def add(self, counts: Mapping[str, Counted]) -> None:
        """What one prompt's answers add; a model without answers is left out."""
        base = counts.get("seed", (0, 0))
        for name, (hits, n) in counts.items():
            if n:
                self._alone[name].add(hits, n)
                if name != "seed" and base[1]:
                    self._paired[name].add(hits, n, *base)

    def shares(self) -> dict[str, Any]:
        """Each model's share, and the `change` against the start model's, paired by prompt."""
        return self._json(share) | {
            "change": {name: difference(s).json() for name, s in self._paired.items()}
        }

    def means(self) -> dict[str, Any]:
        """Each model's mean."""
        return self._json(mean)

    def kept(self, name: str) -> Estimate:
        """A model's share over the start model's."""
        return ratio(self._paired[name]) if name in self._paired else undefined("no such model")

    def _json(self, of: Callable[[Clusters], Estimate]) -> dict[str, Any]:
        return {name: of(sums).json() for name, sums in self._alone.items()}


class _Figures:
    """All that is counted while the samples pass."""

    def __init__(self, models: Sequence[str]) -> None:
        self.models, self.prompts, self.known = models, 0, 0
        self.missing: Counter[str] = Counter()
        self.truly, self.helpful, self.formed = (Compared(models) for _ in range(3))
        self.judged, self.refusing = Compared(models), Compared(models)
        self.words, self.tokens = Compared(models), Compared(models)
        self.by_principle: dict[str, Compared] = defaultdict(lambda: Compared(models))
        self.judged_by: dict[str, Compared] = defaultdict(lambda: Compared(models))
        self.right: dict[str, Hits] = defaultdict(Hits)

    def add(
        self, all_answers: Mapping[str, list[Sampled]], principles: Iterable[str], faults: Faults
    ) -> None:
        """The answers to one prompt."""
        self.prompts += 1
        for answers in all_answers.values():
            self.missing.update(a.unanswered for a in answers if a.unanswered)
        answers = {
            name: [a for a in some if not a.unanswered] for name, some in all_answers.items()
        }
        _count(self.judged, answers, lambda a: any(p > 0.5 for p in a.violates.values()), _read)
        _count(self.refusing, answers, lambda a: refuses(a.text))
        _count(self.words, answers, lambda a: len(a.text.split()))
        _count(self.tokens, answers, lambda a: a.tokens)
        for id in principles:
            _count(
                self.judged_by[id],
                answers,
                lambda a, id=id: a.violates[id] > 0.5,
                lambda a, id=id: id in a.violates,
            )
        if any(a.truth for some in answers.values() for a in some):
            self._add_truth(answers, faults)

    def _add_truth(self, answers: Mapping[str, list[Sampled]], faults: Faults) -> None:
        self.known += 1
        _count(self.truly, answers, lambda a: bool(a.truth["violations"]))
        _count(self.formed, answers, lambda a: a.truth["well_formed"])
        _count(
            self.helpful,
            answers,
            lambda a: a.truth["helpful"],
            lambda a: a.truth["helpful"] is not None,
        )
        for id in faults:
            _count(self.by_principle[id], answers, lambda a, id=id: id in a.truth["violations"])
        for some in answers.values():
            for a in some:
                for id in a.violates.keys() & set(faults):
                    right = (a.violates[id] > 0.5) == (id in a.truth["violations"])
                    self.right[id].add(right, a.prompt.id)


def figures(
    folder: Path, models: Sequence[str], constitution: Constitution, *, faults: Faults
) -> dict[str, Any]:
    """The figures of an evaluation's rows, as JSON values; `faults`: what an oracle tells apart.

    `violations`, `principles`, `helpfulness` and `well_formed` are the oracle's where it knows any
    of the prompts, else the judge's; `by` says whose. `judged` is always the judge's.
    """
    counted = _Figures(models)
    ids = [p.id for p in constitution.principles if p.weight and p.critique]
    for answers in by_prompt(folder / "samples.jsonl"):
        counted.add(answers, ids, faults)
    won = wins(folder / "wins.jsonl", constitution)
    judged = {"violations": counted.judged.shares(), "principles": _each(counted.judged_by)}
    return {
        "by": "oracle" if counted.known else "judge",
        "prompts": counted.prompts,
        **(_told(counted) if counted.known else judged | _untold(models, won)),
        "judged": judged,
        "judge": {
            "accuracy": {id: hits.estimate.json() for id, hits in sorted(counted.right.items())},
            "position": won.pop("position"),
        },
        "wins": won["wins"],
        "lengths": {"words": counted.words.means(), "tokens": counted.tokens.means()},
        "refusals": counted.refusing.shares(),
        "boilerplate": boilerplate(folder / "samples.jsonl", models),
        "unanswered": dict(sorted(counted.missing.items())),
    }


def _told(counted: _Figures) -> dict[str, Any]:
    """What the oracle says."""
    return {
        "violations": counted.truly.shares(),
        "principles": _each(counted.by_principle),
        "helpfulness": counted.helpful.shares()
        | {"kept": counted.helpful.kept(_last(counted.models)).json(), "by": "oracle"},
        "well_formed": counted.formed.shares(),
        "unknown_prompts": counted.prompts - counted.known,
    }


def _untold(models: Sequence[str], won: Mapping[str, Any]) -> dict[str, Any]:
    """What can be said without an oracle: help as the judge sees it, against the start model."""
    nobody = undefined("no oracle knows what is well formed").json()
    itself = undefined("a win rate is against the start model itself").json()
    return {
        "helpfulness": {"seed": itself}
        | won["helpful"]
        | {
            "kept": undefined("needs an oracle; see the judge's win rate").json(),
            "by": "the judge's win rate under principles tagged helpful",
        },
        "well_formed": dict.fromkeys(models, nobody),
    }


def _last(models: Sequence[str]) -> str:
    return "policy" if "policy" in models else models[-1]


def _each(by_principle: Mapping[str, Compared]) -> dict[str, Any]:
    return {id: found.shares() for id, found in sorted(by_principle.items())}


def _read(sampled: Sampled) -> bool:
    """Whether the judge said of every principle that the answer met whether it violates it."""
    return bool(sampled.violates) and not sampled.unread


def _count(
    into: Compared,
    answers: Mapping[str, list[Sampled]],
    value: Callable[[Sampled], float],
    counts: Callable[[Sampled], bool] = lambda _: True,
) -> None:
    """Add one prompt's answers to a figure: their values, those left out that do not count."""
    chosen = {name: [a for a in some if counts(a)] for name, some in answers.items()}
    into.add({name: (sum(map(value, some)), len(some)) for name, some in chosen.items()})
