"""All that was said in an audit, folded item by item: what the gate and the statistics read.

A fold is kept in memory and caught up with the rows that are new, so that a page costs no more with
many decisions than with few. Only items that somebody has looked at are in it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, select

from rlaif.audit import planned, tables
from rlaif.audit.gate import Gate, judged
from rlaif.audit.records import BLIND, Audit, Kind
from rlaif.audit.scoring import question, same, score

d, j, u, i = (t.c for t in (tables.decision, tables.adjudication, tables.unit, tables.item))


@dataclass
class Review:
    """One reviewer's answers to one item, in the item's sides.

    `answers` are those before the reveal, `later` what was said after it. `seq` is the row that
    completed it, `revealed` the one since which he knows what the AI said, 0 if he does not.
    `extra`: the last answer came when the item was another's. Skips that did are left out.
    """

    reviewer: int
    answers: dict[str, str] = field(default_factory=dict)
    rows: dict[int, str] = field(default_factory=dict)
    later: dict[str, str] = field(default_factory=dict)
    left: str = ""
    active_ms: int = 0
    seq: int = 0
    skipped: str = ""
    revealed: int = 0
    extra: bool = False


@dataclass
class Reviewed:
    """One unit and all that was said of it: `reviews` made here, and `imported` ones, by reviewer.

    They are kept apart, so that no import can touch what the gate counts.
    """

    number: int
    item: str
    kind: Kind
    arm: str
    order: int
    stratum: str
    pi: float
    wanted: int
    label: str
    target: float | None
    consistent: bool | None
    longer: int
    reviews: dict[int, Review] = field(default_factory=dict)
    imported: dict[int, Review] = field(default_factory=dict)
    ruling: str | None = None
    notes: list[str] = field(default_factory=list)
    flags: set[int] = field(default_factory=set)
    _counted: list[Review] | None = None

    @property
    def blind(self) -> tuple[str, ...]:
        """The questions before the reveal."""
        return ("violated",) if self.label == "no_fault" else BLIND[self.kind]

    @property
    def counted(self) -> list[Review]:
        """Whole blind reviews made here and in time, in the order in which they came."""
        if self._counted is None:
            in_time = (review for review in self.here if not review.extra)
            self._counted = sorted(in_time, key=lambda review: review.seq)
        return self._counted

    def take(self, row: Any) -> None:
        """One more row of the ledger."""
        self._counted = None
        if row.act == "note":
            self.notes.append(row.text)
        elif row.act == "flag":
            (self.flags.add if row.text == "on" else self.flags.discard)(row.reviewer)
        else:
            known = self.imported if row.blind == "unknown" else self.reviews
            _ACTS[row.act](known.setdefault(row.reviewer, Review(row.reviewer)), row)

    def rule(self, verdict: str) -> None:
        """A lead's ruling; one on an item that nobody disputed when it was made counts nothing."""
        if self.contested:
            self.ruling = verdict

    @property
    def here(self) -> list[Review]:
        """Whole blind reviews made here, the late ones too."""
        return [review for review in self.reviews.values() if self._whole(review)]

    @property
    def all_reviews(self) -> list[Review]:
        """The same with the imported ones, of people who have none here."""
        imported = {n: review for n, review in self.imported.items() if self._whole(review)}
        return list((imported | {review.reviewer: review for review in self.here}).values())

    def complete(self, reviewers: int) -> bool:
        """Whether nobody else is expected to say anything."""
        skipped = sum(bool(r.skipped) for r in self.reviews.values())
        done = len(self.counted)
        return self.ruling is not None or done >= self.wanted or done + skipped >= reviewers

    def score(self, review: Review) -> float | None:
        """A review's agreement with the AI."""
        return score(self.kind, self.label, review.answers)

    def ruled(self) -> float | None:
        """The agreement of the ruling."""
        told = {question(self.kind, self.label): self.ruling or ""}
        return score(self.kind, self.label, told)

    @property
    def agreement(self) -> float | None:
        """The item's agreement with the AI; None where people differ or can't judge."""
        if self.ruling is not None:
            return self.ruled()
        scores = {self.score(review) for review in self.counted}
        return scores.pop() if len(scores) == 1 else None

    @property
    def contested(self) -> bool:
        """Whether a lead may rule on it: it waits for a ruling, or has one."""
        return self.ruling is not None or self.disputed

    @property
    def disputed(self) -> bool:
        """Whether it waits for a ruling: people differ, or none of those who tried could judge."""
        if self.ruling is not None:
            return False
        said = {same(self.verdict(review)) for review in self.counted}
        skipped = [r for r in self.reviews.values() if r.skipped]
        return len(said) > 1 or said == {"cant"} or (not said and bool(skipped))

    def verdict(self, review: Review) -> str:
        """A review's answer to the question that is scored."""
        return review.answers.get(question(self.kind, self.label), "cant")

    def _whole(self, review: Review) -> bool:
        return all(stage in review.answers for stage in self.blind)


class Fold:
    """An audit's `units` by number, as of row `seq`; its `repeats` are apart, so that nothing but
    consistency can count them."""

    def __init__(self, audit: Audit) -> None:
        self.audit, self.seq, self.settled = audit, 0, False
        self.units: dict[int, Reviewed] = {}
        self.repeats: dict[int, Reviewed] = {}
        self._gate: Gate | None = None
        self._gate_units: dict[int, Reviewed] = {}

    @property
    def population(self) -> int:
        """How many items the gate's arm was drawn from."""
        return int(self.audit.plan.design.get("population", self.audit.plan.frame_size))

    def gate(self) -> Gate:
        """The gate on the completed prefix of its permutation.

        What can't be judged, and what people differ on, counts 0 for PASS and 1 for FAIL.
        """
        plan, scores = self.audit.plan, list[tuple[float, float]]()
        while len(scores) < plan.cap and (unit := self._gate_units.get(len(scores))):
            if not unit.complete(plan.reviewers):
                break
            x = unit.agreement
            scores.append((0.0, 1.0) if x is None else (x, x))
        gate = self._gate
        if gate is None or scores[: gate.n] != gate.scores:
            gate = judged((), plan.tau, plan.alpha, plan.cap, max(self.population, len(scores)))
        for low, high in scores[gate.n :]:
            gate.add(low, high)
        self._gate = gate
        return gate

    def catch_up(self, at: Connection) -> None:
        """Take in the rows that are new."""
        rows = at.execute(_rows(self.audit.id, self.seq)).all()
        rulings = select(tables.adjudication).where(j.audit == self.audit.id, j.seq > self.seq)
        ruled = at.execute(rulings.order_by(j.seq)).all()
        for row in sorted([*rows, *ruled], key=lambda row: row.seq):
            if "act" in row._fields:
                self._unit(row).take(row)
            elif unit := self.units.get(row.number):
                unit.rule(row.verdict)
            self.seq = row.seq

    def _unit(self, row: Any) -> Reviewed:
        known = self.repeats if row.arm == "retest" else self.units
        unit = known.get(row.number)
        if unit is None:
            consistent = None if row.consistent is None else bool(row.consistent)
            unit = Reviewed(
                row.number, row.name, row.kind, row.arm, row.order, row.stratum, row.pi,
                row.reviews, row.label, row.target, consistent, row.longer,
            )  # fmt: skip
            known[row.number] = unit
            if row.arm == "gate":
                self._gate_units[row.order] = unit
        return unit


def _verdict(review: Review, row: Any) -> None:
    if row.blind == "no":
        review.later[row.stage] = row.verdict
        return
    review.answers[row.stage] = row.verdict
    review.rows[row.seq] = row.stage
    review.left, review.seq = row.left, row.seq
    review.active_ms += row.active_ms
    review.extra = bool(row.extra)


def _skip(review: Review, row: Any) -> None:
    if not row.extra:
        review.skipped = row.text
        review.rows[row.seq] = ""


def _undo(review: Review, row: Any) -> None:
    stage = review.rows.pop(row.supersedes, None)
    if stage == "":
        review.skipped = ""
    elif stage is not None:
        review.answers.pop(stage, None)


def _reveal(review: Review, row: Any) -> None:
    review.revealed = review.revealed or row.seq


_ACTS = {
    "verdict": _verdict, "change": _verdict, "skip": _skip, "undo": _undo, "reveal": _reveal,
}  # fmt: skip

_STATIC = (
    u.number, u.arm, u.order, u.stratum, u.pi, u.reviews, i.name, i.kind, i.label, i.target,
    i.consistent, i.longer,
)  # fmt: skip


def _rows(audit: int, after: int) -> Any:
    said = (d.seq, d.reviewer, d.act, d.stage, d.verdict, d.left, d.text, d.supersedes)
    said = (*said, d.active_ms, d.extra, d.blind)
    query = select(*said, *_STATIC).join_from(tables.decision, tables.unit).join(tables.item)
    return query.where(d.audit == audit, d.seq > after).order_by(d.seq)


class Folds:
    """The folds of a ledger's audits, for all threads of a process."""

    def __init__(self) -> None:
        self._lock, self._folds = threading.Lock(), dict[int, Fold]()

    @contextmanager
    def of(self, at: Connection, audit: int) -> Iterator[Fold]:
        """An audit's fold, caught up, and nobody else's while the block lasts.

        `at` must be a transaction that has written nothing: what is folded must be there for good.
        """
        with self._lock:
            fold = self._folds.get(audit)
            if fold is None:
                fold = self._folds[audit] = Fold(planned.audit(at, audit))
            fold.catch_up(at)
            yield fold
