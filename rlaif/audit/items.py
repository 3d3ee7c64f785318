"""What is under audit, from a run's stages: labels of pairs, or rounds of critique and revision.

Two passes over a stage's rows, both streamed: `candidates` tells just enough of each row to draw
from, `items` makes the few that were drawn into what reviewers see.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from rlaif.audit.records import Item, Kind
from rlaif.config.naming import record_of
from rlaif.constitution import Constitution, Principle, loads
from rlaif.errors import RunError
from rlaif.jsonl import rows
from rlaif.records import Chain, Pair, Step, Verdict

NO_PRINCIPLE = "none"
_ADDRESSED = re.compile(
    r"ignore (?:all |the )?(?:previous|above|prior)|</?(?:response|conversation|response_[ab])>|"
    r"(?:choose|prefer|pick|select) (?:response|answer|option) [ab12]\b|\[/?INST\]",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row as the draw sees it. `doubt`: how little its label is to be relied on, and `why`."""

    id: str
    stratum: str
    label: str
    doubt: float = 0.0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """A run's stage that can be audited."""

    run: Path
    kind: Kind
    tie: float
    law: Constitution
    pairwise: bool

    @classmethod
    def of(cls, run: Path, kind: Kind, tie: float) -> Source:
        """The stage of a run's folder; RunError where it is not there."""
        record = record_of(run)
        stage = run / stage_of(kind)
        if not (stage / "stage.json").is_file():
            remedy = "finish the run up to it first: rlaif run CONFIG"
            raise RunError(f"stage {stage.name} is not there", where=str(run), remedy=remedy)
        law = run / "constitution.yaml"
        method = record["config"]["preferences"]["method"]
        return cls(run, kind, tie, loads(law.read_text("utf-8"), law), method == "pairwise")

    @property
    def path(self) -> Path:
        name = "pairs.jsonl" if self.kind == "preference" else "chains.jsonl"
        return self.run / stage_of(self.kind) / name

    def candidates(self) -> Iterator[Candidate]:
        """Every row that has a label."""
        if self.kind == "preference":
            conflicts = _conflicts(self.run)
            for pair in rows(self.path, Pair):
                if pair.target is not None:
                    yield self._candidate(pair, conflicts)
        else:
            for chain, step, before in _steps(self.path):
                label = "no_fault" if step.revision == before else "revised"
                about = step.principle or NO_PRINCIPLE
                yield Candidate(_round_id(chain, step, before), about, label)

    def items(self, wanted: Collection[str]) -> Iterator[Item]:
        """The items of these ids, in the order of the rows."""
        if self.kind == "preference":
            chosen = {pair.id: pair for pair in rows(self.path, Pair) if pair.id in wanted}
            written = self._rationales(chosen)
            yield from (self._pair(pair, written) for pair in chosen.values())
        else:
            for chain, step, before in _steps(self.path):
                if _round_id(chain, step, before) in wanted:
                    yield self._round(chain, step, before)

    # --- pairs ------------------------------------------------------------------------------------

    def _candidate(self, pair: Pair, conflicts: Mapping[str, float]) -> Candidate:
        reasons = [(1 - 2 * abs((pair.target or 0.0) - 0.5), "unsure")]
        if any(self._consistent(verdict) is False for verdict in pair.verdicts):
            reasons.append((1.5, "order_flip"))
        if (apart := conflicts.get(pair.id)) is not None:
            reasons.append((1 + apart, "reward_model_conflict"))
        if _ADDRESSED.search(pair.a) or _ADDRESSED.search(pair.b):
            reasons.append((3.0, "addresses_the_judge"))
        doubt, why = max(reasons)
        label = named(pair.target or 0.0, self.tie)
        return Candidate(pair.id, stratum(pair, self.law), label, doubt, why)

    def _consistent(self, verdict: Verdict) -> bool | None:
        """Whether both orders name the same side; None where there is one order only."""
        if not self.pairwise or len(verdict.orders) != 2:
            return None
        return (verdict.orders[0] - 0.5) * (verdict.orders[1] - 0.5) >= 0

    def _pair(self, pair: Pair, written: Mapping[str, list[dict[str, str]]]) -> Item:
        target = pair.target or 0.0
        asked = {verdict.principle for verdict in pair.verdicts}
        flips = [self._consistent(verdict) for verdict in pair.verdicts]
        payload = {
            "messages": [asdict(message) for message in pair.prompt.messages],
            "a": pair.a,
            "b": pair.b,
            "principles": [_pinned(p, "prefer") for p in self.law.principles if p.id in asked],
        }
        ai = {
            "label": named(target, self.tie),
            "target": target,
            "spread": pair.spread,
            "consistent": None if None in flips or not flips else int(all(flips)),
            "verdicts": [
                {"principle": v.principle, "target": v.target, "orders": list(v.orders)}
                for v in pair.verdicts
            ],
            "rationales": [
                row for v in pair.verdicts for key in v.calls for row in written.get(key, ())
            ],
            "prompt": pair.prompt.id,
            "picked": self._candidate(pair, {}).why,
        }
        return Item(pair.id, "preference", stratum(pair, self.law), payload, ai)

    def _rationales(self, pairs: Mapping[str, Pair]) -> dict[str, list[dict[str, str]]]:
        """What the judge wrote before these labels, by the key of the call."""
        path = self.run / "preferences" / "rationales.jsonl"
        keys = {key for pair in pairs.values() for v in pair.verdicts for key in v.calls}
        found: dict[str, list[dict[str, str]]] = {}
        if path.is_file():
            for row in rows(path, _Rationale):
                if row.call in keys and row.text:
                    found[row.call] = [{"principle": row.principle, "text": row.text}]
        return found

    # --- critique and revision --------------------------------------------------------------------

    def _round(self, chain: Chain, step: Step, before: str) -> Item:
        revised = step.revision != before
        principle = next((p for p in self.law.principles if p.id == step.principle), None)
        payload = {
            "messages": [asdict(message) for message in chain.prompt.messages],
            "a": before,
            "principles": [_pinned(principle, "critique")] if principle else [],
        }
        ai = {
            "label": "revised" if revised else "no_fault",
            "critique": step.critique,
            "b": step.revision if revised else None,
            "prompt": chain.prompt.id,
            "round": step.round,
        }
        id = _round_id(chain, step, before)
        return Item(id, "critique", step.principle or NO_PRINCIPLE, payload, ai)


@dataclass(frozen=True, slots=True)
class _Rationale:
    principle: str
    text: str = ""
    call: str = ""


@dataclass(frozen=True, slots=True)
class _Margin:
    id: str
    target: float
    margin: float


def stage_of(kind: Kind) -> str:
    """The stage that a kind of item comes from."""
    return "preferences" if kind == "preference" else "critique"


def named(target: float, tie: float) -> str:
    """A soft label as a verdict: a, b, or tie within `tie` of one half."""
    if abs(target - 0.5) <= tie:
        return "tie"
    return "a" if target > 0.5 else "b"


def stratum(pair: Pair, law: Constitution) -> str:
    """The principle that decided a pair's label, whose verdict is farthest from 0.5: by weight, if
    verdicts counted by weight, which they do where every principle that applies was asked."""
    weights = {p.id: p.weight for p in law.principles if _applies(p, pair)}
    if not {verdict.principle for verdict in pair.verdicts} >= weights.keys():
        weights = {}
    known = [v for v in pair.verdicts if v.target is not None]
    if not known:
        return NO_PRINCIPLE

    def pull(verdict: Verdict) -> float:
        return weights.get(verdict.principle, 1.0) * abs((verdict.target or 0.0) - 0.5)

    return max(known, key=pull).principle


def _applies(principle: Principle, pair: Pair) -> bool:
    """Whether the judge was to compare these answers by it, unless others were drawn."""
    tags, only = pair.prompt.tags, principle.applies_to
    return bool(principle.weight and principle.prefer and (not only or {*only} & {*tags}))


def _pinned(principle: Principle, wording: Any) -> dict[str, str]:
    texts = principle.wordings(wording) or principle.critique or principle.prefer
    return {"id": principle.id, "text": texts[0]}


def _steps(path: Path) -> Iterator[tuple[Chain, Step, str]]:
    """Rounds that were answered, with the answer that each began from."""
    for chain in rows(path, Chain):
        before = chain.draft
        for step in chain.steps:
            if not (step.unanswered or chain.unanswered):
                yield chain, step, before
            before = step.revision


def _round_id(chain: Chain, step: Step, before: str) -> str:
    """A round by its texts: made anew, it is another item."""
    told = json.dumps([step.principle, before, step.critique, step.revision])
    digest = blake2b(told.encode(), digest_size=8).hexdigest()
    return f"{chain.prompt.id}:{step.round}:{digest}"


def _conflicts(run: Path) -> dict[str, float]:
    """Pairs on which the reward model contradicts the judge, and how far they are apart."""
    from rlaif.calibration import sigmoid

    path, found = run / "reward" / "heldout.jsonl", dict[str, float]()
    if path.is_file():
        for row in rows(path, _Margin):
            p = sigmoid(row.margin)
            if (p - 0.5) * (row.target - 0.5) < 0:
                found[row.id] = abs(p - row.target)
    return found
