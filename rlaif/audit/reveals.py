"""The reveal: what the AI said, to one who has committed, and not so soon that it teaches him."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, func, select, update

from rlaif.audit import claims, tables, verdicts
from rlaif.audit.errors import NotAnswered, NotYours
from rlaif.audit.holding import Held, held
from rlaif.audit.records import Reveal
from rlaif.audit.scoring import score, turned

BATCH = 20
BATCHED = ("calibration", "gate", "coverage", "retest")
AFTER = ("critique", "defects", "revision")

s, u, g = tables.slot.c, tables.unit.c, tables.gate_event.c


def reveal(at: Connection, audit: int, number: int, reviewer: int, nonce: str, now: int) -> Reveal:
    """What the AI said of an item, recorded the first time."""
    own = held(at, audit, number, reviewer)
    if own.slot is None:
        raise NotYours(f"item {number} was never yours", remedy="claim it first")
    if own.stage is not None:
        raise NotAnswered(f"`{own.stage}` is not answered yet", remedy="answer it first")
    if not own.revealed:
        if own.slot.state == "decided" and number not in ready(at, audit, reviewer):
            wait = BATCH - batch(at, audit, reviewer)
            remedy = f"{wait} more to go: what the AI says must not teach you its taste"
            raise NotAnswered(f"items are revealed {BATCH} at a time", remedy=remedy)
        told = nonce or f"reveal-{own.slot.id}-{own.slot.turn}"
        verdicts.record_reveal(at, own, told, now)
        at.execute(update(tables.slot).where(s.id == own.slot.id).values(revealed=1))
    return _reveal(own)


def ready(at: Connection, audit: int, reviewer: int) -> list[int]:
    """His items that could be revealed now and are not, in the order in which he decided them."""
    mine = select(s.number, s.arm, s.taken, s.revealed, tables.audit.c.kind).join(tables.audit)
    mine = mine.where(s.audit == audit, s.reviewer == reviewer, s.state == "decided")
    rows = at.execute(mine.order_by(s.taken)).all()
    batched = [row for row in rows if _batched(row)]
    waiting = set[int]()
    if not _over(at, audit, reviewer):
        decided = _gate_ended(at, audit)
        rest = batched[len(batched) - len(batched) % BATCH :]
        waiting = {row.number for row in rest if row.taken > decided}
        waiting |= _coming_back(at, audit, reviewer, waiting)
    return [row.number for row in rows if not row.revealed and row.number not in waiting]


def batch(at: Connection, audit: int, reviewer: int) -> int:
    """How many items the reviewer has decided since his last full batch."""
    mine = select(func.count()).where(
        s.audit == audit, s.reviewer == reviewer, s.state == "decided", s.arm.in_(BATCHED)
    )
    return at.execute(mine).scalar_one() % BATCH


def _coming_back(at: Connection, audit: int, reviewer: int, waiting: set[int]) -> set[int]:
    """Numbers of items that are still to be repeated, blind; or whose repeat is `waiting`."""
    first = tables.slot.alias("first")
    again = (u.audit == audit) & (u.arm == "retest") & (u.order == first.c.number)
    repeats = select(u.order, s.state, s.reviewer, s.number).join_from(first, tables.unit, again)
    repeats = repeats.join(tables.slot, s.unit == u.id).where(
        first.c.audit == audit, first.c.reviewer == reviewer, first.c.state == "decided",
        first.c.revealed == 0,
    )  # fmt: skip
    open_, mine = set[int](), dict[int, bool]()
    for row in at.execute(repeats):
        if row.reviewer == reviewer:
            mine[row.order] = row.state in ("claimed", "lapsed") or row.number in waiting
        elif row.state == "open":
            open_.add(row.order)
    return (open_ - mine.keys()) | {number for number, wait in mine.items() if wait}


def _batched(unit: Any) -> bool:
    return unit.kind == "preference" and unit.arm in BATCHED


def _gate_ended(at: Connection, audit: int) -> int:
    """The row since which the gate is decided: what was said up to it waits for no batch. What is
    judged after it still makes the figures of single principles, and stays blind."""
    ended = g.state.in_(("pass", "fail", "inconclusive", "overridden"))
    return at.execute(select(func.max(g.seq)).where(g.audit == audit, ended)).scalar() or 0


def _over(at: Connection, audit: int, reviewer: int) -> bool:
    """Whether nothing is left for this reviewer."""
    mine = select(s.id).where(s.audit == audit, s.reviewer == reviewer, s.state == "claimed")
    open_slots = select(claims.free.id).where(*claims.unseen(audit, reviewer))
    return not (at.execute(mine.limit(1)).first() or at.execute(open_slots.limit(1)).first())


def _reveal(own: Held) -> Reveal:
    payload, ai, unit = json.loads(own.unit.payload), json.loads(own.unit.ai), own.unit
    answers = {row.stage: row.verdict for row in own.standing if row.act == "verdict"}
    common = {
        "audit": unit.audit, "number": unit.number,
        "agrees": score(unit.kind, unit.label, answers), "ai": ai,
    }  # fmt: skip
    if unit.kind == "critique":
        open_stages = AFTER if ai.get("b") else AFTER[:1]
        said = "no" if unit.label == "no_fault" else "yes"
        return Reveal(
            **common, label=said, response=payload["a"], revision=ai.get("b") or "",
            stages=tuple(stage for stage in open_stages if stage not in own.answered),
        )  # fmt: skip
    a, b = payload["a"], payload["b"]
    left, right = (a, b) if own.left == "a" else (b, a)
    return Reveal(**common, label=turned(unit.label, own.left), left=left, right=right)
