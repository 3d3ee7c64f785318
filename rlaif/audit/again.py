"""Another audit of labels that have one: in a lead's name and for a reason, or not at all.

The gate is wrong in at most 5% of audits. Whoever could draw until it passes would get a PASS for
any labels; so a second draw of the same labels is refused unless a lead asks for it. That is a row
of the chain, and `GateState.again` shows it wherever the gate is told.
"""

from __future__ import annotations

from itertools import pairwise

from sqlalchemy import Connection, select

from rlaif.audit import chain, people, tables
from rlaif.audit.errors import Drawn, Refused
from rlaif.audit.records import Again, Audit, Plan

a, g = tables.audit.c, tables.gate_event.c
ENDS = ("pass", "fail", "inconclusive", "overridden")


def allow(at: Connection, plan: Plan, again: Again | None) -> None:
    """Let labels be audited for the first time, or again if a lead wants it; to the end of `at`
    nobody else draws.

    Raises:
        Drawn: they have an audit, and nobody asks for another one.
        Refused: who asks is no lead, or gives no reason.
    """
    chain.lock(at)
    if again is not None:
        people.lead(at, again.lead)
        if not again.reason.strip():
            remedy = "say why these labels are to be audited again"
            raise Refused("another audit needs a reason", remedy=remedy)
    elif (before := _of(at, plan)) and plan.labels:
        what = f"these labels have an audit already: {before[-1]}"
        raise Drawn(what, remedy="go on with it, or let a lead ask for another one")


def record(at: Connection, audit: int, again: Again, now: int) -> None:
    """Write down who asked for another audit, and why."""
    by = people.lead(at, again.lead)
    row = {"audit": audit, "state": "again", "figures": "{}", "by": by.name}
    chain.append(at, "gate_event", row | {"text": again.reason, "created": now})


def told(at: Connection, audit: Audit) -> tuple[str, ...]:
    """Each audit of the same labels before this one: its end, and who asked for the next and why.

    Ledgers of old may hold audits for which nobody gave a reason.
    """
    ids = [id for id in _of(at, audit.plan) if id <= audit.id] if audit.plan.labels else []
    if len(ids) < 2:
        return ()
    events = select(tables.gate_event).where(g.audit.in_(ids), g.state.in_((*ENDS, "again")))
    rows = at.execute(events.order_by(g.seq)).all()
    ends = {row.audit: row.state for row in rows if row.state != "again"}
    asked = {row.audit: f"by {row.by}, because: {row.text}" for row in rows if row.state == "again"}
    return tuple(
        f"drawn again after audit {before} of these labels ({ends.get(before, 'undecided')}) "
        + asked.get(now, "with no reason on record")
        for before, now in pairwise(ids)
    )


def _of(at: Connection, plan: Plan) -> list[int]:
    """The audits of the same labels, the newest last."""
    same = select(a.id).where(a.kind == plan.kind, a.labels == plan.labels).order_by(a.id)
    return list(at.execute(same).scalars())
