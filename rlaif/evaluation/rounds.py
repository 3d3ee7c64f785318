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
    """Violations, helpfulness and form of the drafts, then of the answers as they stood after each
    round; where no principle met a prompt in a round, its answer stood as it was.

    `chains` is the critique stage's folder; chains without a draft are left out.
    """
    path = chains / "chains.jsonl"
    last = max((s.round for chain in rows(path, Chain) for s in chain.steps), default=0)
    found = [_Round() for _ in range(last + 1)]
    for chain in rows(path, Chain):
        if chain.unanswered:
            continue
        text, revised = chain.draft, {step.round: step.revision for step in chain.steps}
        for n, counts in enumerate(found):
            text = revised.get(n, text)
            if known := truth(chain.prompt, text):
                counts.add(known)
    return [counts.json() for counts in found]
