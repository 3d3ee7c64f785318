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
BATCHED = ("calibration", "gate", "coverage")
AFTER = ("critique", "defects", "revision")

s, g = tables.slot.c, tables.gate_event.c


def reveal(at: Connection, audit: int, number: int, reviewer: int, nonce: str, now: int) -> Reveal:
    """What the AI said of an item, recorded the first time."""
    own = held(at, audit, number, reviewer)
    if own.slot is None:
        raise NotYours(f"item {number} was never yours", remedy="claim it first")
    if own.stage is not None:
        raise NotAnswered(f"`{own.stage}` is not answered yet", remedy="answer it first")
    if not own.revealed:
        if wait := _wait(at, own):
            remedy = f"{wait} more to go: what the AI says must not teach you its taste"
            raise NotAnswered(f"items are revealed {BATCH} at a time", remedy=remedy)
        told = nonce or f"reveal-{own.slot.id}-{own.slot.turn}"
        verdicts.record_reveal(at, own, told, now)
        at.execute(update(tables.slot).where(s.id == own.slot.id).values(revealed=1))
    return _reveal(own)


def ready(at: Connection, audit: int, reviewer: int) -> list[int]:
    """His items that could be revealed now and are not, in the order in which he decided them."""
    mine = select(s.number, s.arm, s.revealed, tables.audit.c.kind).join(tables.audit)
    mine = mine.where(s.audit == audit, s.reviewer == reviewer, s.state == "decided")
    rows = at.execute(mine.order_by(s.taken)).all()
    batched = [row.number for row in rows if _batched(row)]
    full = len(batched) - len(batched) % BATCH
    if full < len(batched) and _over(at, audit, reviewer):
        full = len(batched)
    waiting = set(batched[full:])
    return [row.number for row in rows if not row.revealed and row.number not in waiting]


def batch(at: Connection, audit: int, reviewer: int) -> int:
    """How many items the reviewer has decided since his last full batch."""
    return _decided(at, audit, reviewer) % BATCH


def _wait(at: Connection, own: Held) -> int:
    """How many more items until this one may be revealed; 0 if it may."""
    if not _batched(own.unit):
        return 0
    slot = own.slot
    assert slot is not None
    if slot.state != "decided":  # it went to another reviewer: nothing rests on this verdict
        return 0
    done = _decided(at, own.unit.audit, own.reviewer)
    place = _decided(at, own.unit.audit, own.reviewer, up_to=slot.taken)
    if place <= done - done % BATCH or _over(at, own.unit.audit, own.reviewer):
        return 0
    return BATCH - done % BATCH


def _batched(unit: Any) -> bool:
    return unit.kind == "preference" and unit.arm in BATCHED


def _over(at: Connection, audit: int, reviewer: int) -> bool:
    """Whether the gate is decided, or nothing is left for this reviewer."""
    ended = g.state.in_(("pass", "fail", "inconclusive", "overridden"))
    if at.execute(select(g.seq).where(g.audit == audit, ended).limit(1)).first():
        return True
    mine = select(s.id).where(s.audit == audit, s.reviewer == reviewer, s.state == "claimed")
    open_slots = select(claims.free.id).where(*claims.unseen(audit, reviewer))
    return not (at.execute(mine.limit(1)).first() or at.execute(open_slots.limit(1)).first())


def _decided(at: Connection, audit: int, reviewer: int, up_to: int | None = None) -> int:
    mine = select(func.count()).where(
        s.audit == audit, s.reviewer == reviewer, s.state == "decided", s.arm.in_(BATCHED)
    )
    if up_to is not None:
        mine = mine.where(s.taken <= up_to)
    return at.execute(mine).scalar_one()


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
