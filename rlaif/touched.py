"""What an edit of the constitution would touch in a finished run.

    rlaif constitution diff OLD NEW --run runs/mine

Every item's principles and wordings are drawn again under both constitutions; what comes out
differently has to be asked again. A revision that changes may change later rounds of its item too,
and through the finetuned model the answers that are labelled: the counts are the least.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rlaif.config import RunConfig
from rlaif.config.naming import config_of
from rlaif.constitution import Constitution, Law, choose, phrase
from rlaif.constitution.schema import Wording
from rlaif.jsonl import rows
from rlaif.records import Chain, Pair, Prompt


@dataclass(slots=True)
class Touched:
    """Calls of the critique stage, and labels (verdicts), that an edit touches; of how many."""

    calls: int = 0
    of_calls: int = 0
    labels: int = 0
    of_labels: int = 0

    def json(self) -> dict[str, int]:
        """The counts by name."""
        return asdict(self)


def touched(run: Path, old: Constitution, new: Constitution) -> Touched:
    """Count what changes in `run` where `new` takes the place of `old`.

    Raises:
        RunError: there is no such run, or its run.json is damaged.
    """
    config, found = config_of(run), Touched()
    if (run / "critique" / "chains.jsonl").is_file():
        _critiques(found, run, config, old, new)
    if (run / "preferences" / "pairs.jsonl").is_file():
        _labels(found, run, config, old, new)
    return found


def _critiques(
    found: Touched, run: Path, config: RunConfig, old: Constitution, new: Constitution
) -> None:
    wordings: tuple[Wording, ...] = (
        ("revise",) if config.critique.direct else ("critique", "revise")
    )
    for chain in rows(run / "critique" / "chains.jsonl", Chain):
        asked, again = set[str](), set[str]()  # rounds that change nothing share a call
        for step in chain.steps:
            known, now = (
                list(_met(law, wordings, chain.prompt, step.round, config.seed))
                for law in (old, new)
            )
            asked.update(step.calls)
            for n, call in enumerate(step.calls, 1):  # what is asked first comes into the next
                if known[:n] != now[:n]:
                    again.add(call)
        found.of_calls += len(asked)
        found.calls += len(again)


def _met(
    law: Constitution, wordings: tuple[Wording, ...], prompt: Prompt, round: int, seed: int
) -> Iterator[str]:
    """The texts that an item meets in a round, in the order of its calls."""
    for principle in choose(
        law, seed=seed, item=prompt.id, round=round, tags=prompt.tags, wording=wordings[0]
    ):
        for wording in wordings:
            yield phrase(principle, wording, seed=seed, item=prompt.id, round=round)


def _labels(
    found: Touched, run: Path, config: RunConfig, old: Constitution, new: Constitution
) -> None:
    pointwise, k = config.preferences.method == "pointwise", config.preferences.principles
    seed = config.seed
    asked: Wording = "critique" if pointwise else "prefer"
    wordings: tuple[Wording, ...] = ("prefer", "critique") if pointwise else ("prefer",)
    laws = [Law(law, wordings, k=k, seed=seed) for law in (old, new)]
    for pair in rows(run / "preferences" / "pairs.jsonl", Pair):
        item = pair.prompt.id
        known, now = (
            {
                phrase(p, asked, seed=seed, item=item, round="prefer")
                for p in law.met(pair.prompt)[0]
            }
            for law in laws
        )
        found.of_labels += len(known)
        found.labels += len(now - known)
