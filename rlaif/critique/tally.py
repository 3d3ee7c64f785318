"""The figures of the critique stage, counted one chain at a time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rlaif.records import Chain, Step


@dataclass(slots=True)
class Steps:
    """What became of some steps. Each was skipped, revised or left unanswered."""

    met: int = 0
    skipped: int = 0
    revised: int = 0
    same: int = 0  # revised, to the same text
    change: float = 0.0  # summed over the revised
    unanswered: Counter[str] = field(default_factory=Counter)

    def add(self, step: Step, before: str, change: float) -> None:
        """Count a step that found the answer `before` and changed that share of its words."""
        self.met += 1
        if step.unanswered:
            self.unanswered[step.unanswered] += 1
        elif step.skipped:
            self.skipped += 1
        else:
            self.revised += 1
            self.same += step.revision == before
            self.change += change

    def json(self) -> dict[str, Any]:
        return {
            "met": self.met,
            "skipped": self.skipped,
            "revised": self.revised,
            "same": self.same,
            "change": _mean(self.change, self.revised),
            "unanswered": dict(sorted(self.unanswered.items())),
        }


@dataclass(slots=True)
class Tally:
    """All chains; its size does not grow with their number."""

    rounds: int
    prompts: int = 0
    chains: int = 0
    change: float = 0.0
    words: tuple[int, int] = (0, 0)  # of drafts and of final answers
    unanswered: Counter[str] = field(default_factory=Counter)
    by_round: list[Steps] = field(init=False)
    by_principle: dict[str, Steps] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.by_round = [Steps() for _ in range(self.rounds)]

    @property
    def drafted(self) -> int:
        return self.prompts - sum(
            n for why, n in self.unanswered.items() if why.startswith("draft: ")
        )

    def begin(self, chain: Chain) -> None:
        """Count a draft, or the lack of it."""
        self.prompts += 1
        if chain.unanswered:
            self.unanswered[f"draft: {chain.unanswered}"] += 1

    def end(self, chain: Chain) -> None:
        """Count a chain that has been through all rounds."""
        self.chains += 1
        before = chain.draft
        for step in chain.steps:
            change = changed(before, step.revision)
            self.by_round[step.round - 1].add(step, before, change)
            self.by_principle.setdefault(step.principle, Steps()).add(step, before, change)
            if step.unanswered:
                self.unanswered[step.unanswered] += 1
            before = step.revision
        self.change += changed(chain.draft, chain.final)
        drafts, finals = self.words
        self.words = drafts + len(chain.draft.split()), finals + len(chain.final.split())

    def json(self) -> dict[str, Any]:
        """Plain values. `change` is the mean share of words changed (1 - Jaccard index of the
        sets of words): from draft to final answer, and in each round over what was revised."""
        drafts, finals = self.words
        return {
            "prompts": self.prompts,
            "drafted": self.drafted,
            "revised": sum(steps.revised for steps in self.by_round),
            "skipped": [steps.skipped for steps in self.by_round],
            "unanswered": dict(sorted(self.unanswered.items())),
            "change": _mean(self.change, self.drafted),
            "words": {"draft": _mean(drafts, self.drafted), "final": _mean(finals, self.drafted)},
            "rounds": [steps.json() for steps in self.by_round],
            "by_principle": {id: steps.json() for id, steps in sorted(self.by_principle.items())},
        }


def changed(before: str, after: str) -> float:
    """The share of words that two texts do not have in common, 0 to 1 (Jaccard distance)."""
    if before == after:
        return 0.0
    a, b = set(before.split()), set(after.split())
    return 1 - len(a & b) / len(a | b) if a | b else 0.0


def _mean(total: float, n: int) -> float | None:
    return round(total / n, 4) if n else None
