"""Who has which item: slots, leased one at a time."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, delete, exists, func, insert, select, update

from rlaif.audit import tables
from rlaif.audit.errors import NotFound
from rlaif.audit.holding import Held, held
from rlaif.audit.records import View

s, u = tables.slot.c, tables.unit.c
free, had = tables.slot.alias("free").c, tables.slot.alias("had").c
first, since = tables.slot.alias("first").c, tables.slot.alias("since").c
TAKEN = ("claimed", "decided", "skipped")
APART = 20  # items that a reviewer decides between a pair and its repeat, at least


def claim(
    at: Connection, audit: int, reviewer: int, number: int | None, now: int, lease: int
) -> View | None:
    """The reviewer's open item, else the next one; with a number, that one or None."""
    _lock(at, reviewer)
    if number is None:
        found = _open(at, audit, reviewer)
    else:
        mine = held(at, audit, number, reviewer)
        if mine.slot is not None and mine.slot.state in ("decided", "skipped"):
            return mine.view()
        found = mine.slot.number if mine.slot is not None and mine.slot.state == "claimed" else None
    if found is None:
        _lapse(at, audit, now)
        found = _regained(at, audit, reviewer, number) or _next(at, audit, reviewer, number)
    if found is None:
        return None
    own = held(at, audit, found, reviewer)
    change = update(tables.slot).where(s.unit == own.unit.id, s.reviewer == reviewer)
    at.execute(change.values(state="claimed", lease=now + lease, left=own.left))
    return held(at, audit, found, reviewer).view()


def renew(at: Connection, audit: int, number: int, reviewer: int, now: int, lease: int) -> bool:
    """Extend a lease, also one that ran out while nobody took the item."""
    own = held(at, audit, number, reviewer)
    if own.slot is None or not retaken(at, own):
        return False
    at.execute(update(tables.slot).where(s.id == own.slot.id).values(lease=now + lease))
    return True


def look(at: Connection, audit: int, number: int, reviewer: int) -> View:
    """An item as the reviewer may see it."""
    return held(at, audit, number, reviewer).view()


def retaken(at: Connection, own: Held) -> bool:
    """Whether the slot is his: a lapsed one is his again while nobody has its replacement, unless
    he knows what the AI said."""
    slot = own.slot
    if slot is not None and slot.state == "claimed":
        return True
    if slot is None or slot.state != "lapsed" or own.revealed:
        return False
    open_slot = select(s.id).where(s.unit == slot.unit, s.state == "open").limit(1)
    id = at.execute(open_slot.with_for_update(skip_locked=True)).scalar()
    if id is None or not withdraw(at, s.id == id):
        return False
    change = update(tables.slot).where(s.id == slot.id)
    at.execute(change.values(state="claimed", turn=slot.turn + 1))  # what came too late: anew
    return True


def replace(at: Connection, unit: int) -> None:
    """Offer an item to somebody else, in the place of a slot that was skipped or has lapsed."""
    slots = at.execute(select(tables.slot).where(s.unit == unit).order_by(s.k)).all()
    k = slots[-1].k + 1
    row = {"audit": slots[0].audit, "unit": unit, "number": slots[0].number, "arm": slots[0].arm}
    row |= {"k": k, "state": "open", "lease": 0, "left": "", "turn": 0, "taken": 0, "revealed": 0}
    at.execute(insert(tables.slot).values(row))


def retract(at: Connection, own: Held) -> None:
    """Take back what a skip offered to somebody else, if it is open still; never another's slot."""
    slots = select(s.id, s.state).where(s.unit == own.unit.id).order_by(s.k)
    there = [row for row in at.execute(slots) if row.state in ("open", "claimed", "decided")]
    offered = [row.id for row in there if row.state == "open"]
    if offered and len(there) >= own.unit.reviews:  # with his own there would be one too many
        withdraw(at, s.id == offered[-1])


def withdraw(at: Connection, which: ColumnElement[bool]) -> bool:
    """Take an open slot back; False if it has just been taken."""
    return bool(at.execute(delete(tables.slot).where(which, s.state == "open")).rowcount)


def unseen(audit: int, reviewer: int) -> tuple[ColumnElement[bool], ...]:
    """Open slots (`free`) of items that he never had, and of repeats that are due to him."""
    never = ~exists().where(had.unit == free.unit, had.reviewer == reviewer)
    between = select(func.count()).where(
        since.audit == audit, since.reviewer == reviewer, since.taken > first.taken
    )
    due = exists().where(
        u.id == free.unit, first.audit == audit, first.number == u.order,
        first.reviewer == reviewer, first.state == "decided", between.scalar_subquery() >= APART,
    )  # fmt: skip
    return free.audit == audit, free.state == "open", never, (free.arm != "retest") | due


def close(at: Connection, units: Sequence[int]) -> None:
    """Offer these items no more."""
    for start in range(0, len(units), 500):
        some = s.unit.in_(units[start : start + 500])
        at.execute(update(tables.slot).where(some, s.state == "open").values(state="closed"))


def _lock(at: Connection, reviewer: int) -> None:
    """Two tabs of one reviewer claim one after the other (in SQLite all writers do)."""
    p = tables.reviewer.c
    row = at.execute(select(p.active).where(p.id == reviewer).with_for_update()).first()
    if row is None or not row.active:
        raise NotFound(f"there is no active reviewer {reviewer}", remedy="add or invite one")


def _open(at: Connection, audit: int, reviewer: int) -> int | None:
    mine = select(func.min(s.number)).where(
        s.audit == audit, s.reviewer == reviewer, s.state == "claimed"
    )
    return at.execute(mine).scalar()


def _lapse(at: Connection, audit: int, now: int) -> None:
    """Leases that have run out give way to new slots."""
    over = update(tables.slot).where(s.audit == audit, s.state == "claimed", s.lease < now)
    for unit in at.execute(over.values(state="lapsed").returning(s.unit)).scalars().all():
        replace(at, unit)


def _regained(at: Connection, audit: int, reviewer: int, number: int | None) -> int | None:
    """An item that lapsed in his hands and that nobody else has taken."""
    mine = select(s.number).where(s.audit == audit, s.reviewer == reviewer, s.state == "lapsed")
    if number is not None:
        mine = mine.where(s.number == number)
    for found in at.execute(mine.order_by(s.number)).scalars().all():
        if retaken(at, held(at, audit, found, reviewer)):
            return found
    return None


def _next(at: Connection, audit: int, reviewer: int, number: int | None) -> int | None:
    """Take the first open slot of an item that he never had: one statement, one winner."""
    there = select(free.id).where(*unseen(audit, reviewer))
    if number is not None:
        there = there.where(free.number == number)
    there = there.order_by(free.number, free.k).limit(1).with_for_update(skip_locked=True)
    taken = update(tables.slot).where(s.id == there.scalar_subquery(), s.state == "open")
    return at.execute(taken.values(state="claimed", reviewer=reviewer).returning(s.number)).scalar()
