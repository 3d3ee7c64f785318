"""What reviewers look up: their items, their progress, their earlier decisions."""

from __future__ import annotations

from statistics import median

from sqlalchemy import Connection, func, select

from rlaif.audit import tables
from rlaif.audit.folding import Fold
from rlaif.audit.holding import HOLDING, held, to_decision
from rlaif.audit.records import Decision, Place, Precedent, Progress
from rlaif.audit.reveals import BATCH, batch
from rlaif.audit.rulings import state
from rlaif.audit.scoring import turned

s, d = tables.slot.c, tables.decision.c
HAD = ("claimed", "decided", "skipped", "lapsed")
USUAL = 30_000  # milliseconds an item takes, before a reviewer has shown his pace


def places(at: Connection, audit: int, reviewer: int) -> list[Place]:
    """The reviewer's items by number."""
    mine = select(s.number, s.state, s.revealed).where(
        s.audit == audit, s.reviewer == reviewer, s.state.in_(HAD)
    )
    rows = at.execute(mine.order_by(s.number))
    return [Place(row.number, HOLDING[row.state], bool(row.revealed)) for row in rows]


def neighbours(
    at: Connection, audit: int, number: int, reviewer: int
) -> tuple[int | None, int | None]:
    """His items before and after a number."""
    mine = (s.audit == audit, s.reviewer == reviewer, s.state.in_(HAD))
    before = select(func.max(s.number)).where(*mine, s.number < number)
    after = select(func.min(s.number)).where(*mine, s.number > number)
    return at.execute(before).scalar(), at.execute(after).scalar()


def alike(at: Connection, fold: Fold, number: int, reviewer: int, most: int) -> list[Precedent]:
    """Items of the same stratum that he decided; none before he has decided this one."""
    own = held(at, fold.audit.id, number, reviewer)
    if own.stage is not None:
        return []
    found = [
        (review.seq, unit, review)
        for unit in fold.units.values()
        if unit.stratum == own.unit.stratum and unit.number != number
        for review in unit.here
        if review.reviewer == reviewer
    ]
    found.sort(key=lambda one: -one[0])
    return [
        Precedent(unit.number, unit.stratum, turned(unit.verdict(review), review.left))
        for _, unit, review in found[:most]
    ]


def progress(at: Connection, fold: Fold, reviewer: int) -> Progress:
    """How far he is, and how far it is to a decision of the gate."""
    audit = fold.audit
    units = (*fold.units.values(), *fold.repeats.values())
    mine = [unit.reviews[reviewer] for unit in units if reviewer in unit.reviews]
    whole = [review for review in mine if review.seq]
    gate, now = fold.gate(), state(at, fold)
    left = None if now.state != "open" else (gate.left() or 0) + _warming(fold)
    pace = median([review.active_ms for review in whole if review.active_ms] or [USUAL])
    return Progress(
        done=len(whole),
        target=sum(audit.sizes.values()),
        left=left,
        minutes=None if left is None else left * pace / 60_000,
        batch=batch(at, audit.id, reviewer),
        batch_size=BATCH,
        state=now.state,
        waiting=now.why,
    )


def _warming(fold: Fold) -> int:
    """Items to warm up on that come before the gate's."""
    warm = [unit for unit in fold.units.values() if unit.arm == "calibration"]
    done = sum(unit.complete(fold.audit.plan.reviewers) for unit in warm)
    return fold.audit.sizes.get("calibration", 0) - done


def decisions(at: Connection, audit: int, number: int | None) -> list[Decision]:
    """Rows in the order of writing."""
    query = select(tables.decision).where(d.audit == audit)
    if number is not None:
        query = query.where(d.number == number)
    return [to_decision(row) for row in at.execute(query.order_by(d.seq))]
