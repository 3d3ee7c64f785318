"""What each round of critique and revision did, as an oracle sees it (Bai et al., figure 5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlaif.evaluation.truth import Reader
from rlaif.intervals import Share
from rlaif.jsonl import rows
from rlaif.records import Chain


class _Round:
    """Counts over the answers as they stood after one round."""

    def __init__(self) -> None:
        self.violations, self.helpful, self.formed = [0, 0], [0, 0], [0, 0]

    def add(self, truth: dict[str, Any]) -> None:
        for count, hit in (
            (self.violations, bool(truth["violations"])),
            (self.formed, truth["well_formed"]),
            (self.helpful, truth["helpful"]),
        ):
            if hit is not None:
                count[0] += hit
                count[1] += 1

    def json(self) -> dict[str, Any]:
        return {
            "violations": Share(*self.violations).json(),
            "helpfulness": Share(*self.helpful).json(),
            "well_formed": Share(*self.formed).json(),
        }


def by_round(chains: Path, truth: Reader) -> list[dict[str, Any]]:
    """Violations, helpfulness and form of the drafts, then of the answers after each round.

    `chains` is the critique stage's folder; chains without a draft are left out.
    """
    found: list[_Round] = []
    for chain in rows(chains / "chains.jsonl", Chain):
        if chain.unanswered:
            continue
        for n, text in enumerate((chain.draft, *(step.revision for step in chain.steps))):
            if known := truth(chain.prompt, text):
                if n == len(found):
                    found.append(_Round())
                found[n].add(known)
    return [round.json() for round in found]
