"""What follows from what was said: the gate's events, disputes, and a lead's rulings."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, select

from rlaif.audit import again as redrawing
from rlaif.audit import chain, claims, people, planned, tables, verdicts
from rlaif.audit.errors import AuditError, Refused
from rlaif.audit.folding import Fold
from rlaif.audit.records import Adjudication, Dispute, GateState, State
from rlaif.audit.scoring import question

j, g, u = tables.adjudication.c, tables.gate_event.c, tables.unit.c
ENDS = ("pass", "fail", "inconclusive")
TOPPED_UP = ("gate", "coverage")  # arms that figures by stratum rest on


def state(at: Connection, fold: Fold) -> GateState:
    """Where the gate stands; once it is decided or overridden, as the ledger has it."""
    audit, plan = fold.audit, fold.audit.plan
    events = select(tables.gate_event).where(
        g.audit == audit.id, g.state.in_((*ENDS, "overridden"))
    )
    found = {row.state: row for row in at.execute(events.order_by(g.seq))}
    ended = next((row for name, row in found.items() if name in ENDS), None)
    override = found.get("overridden")
    by: dict[str, Any] = {"again": redrawing.told(at, audit)}
    by |= {"by": override.by, "reason": override.text} if override else {}
    if ended is not None:
        now: State = "overridden" if override else ended.state
        return GateState(**json.loads(ended.figures) | {"state": now} | by)
    gate = fold.gate()
    low, high = gate.interval()
    return GateState(
        "overridden" if override else gate.state, gate.n, plan.tau, plan.alpha, plan.cap,
        gate.passing, gate.failing, low, high, gate.mean, audit.id, plan.labels,
        "" if gate.state != "open" else _waits(fold, gate.n), **by,
    )  # fmt: skip


def settled(at: Connection, audit: int) -> bool:
    """Whether it is written down that the gate is decided."""
    ended = select(g.seq).where(g.audit == audit, g.state.in_(ENDS)).limit(1)
    return at.execute(ended).first() is not None


def settle(at: Connection, fold: Fold, now: int) -> None:
    """Write down that the gate is decided, once, and offer no more of its items."""
    audit = fold.audit.id
    chain.lock(at)
    if settled(at, audit):
        return
    found = state(at, fold)
    ended = fold.gate().state
    if ended not in ENDS:
        return
    figures = asdict(found) | {"state": ended, "by": "", "reason": ""}
    for name in ("doubted", "lacking", "blocks", "again"):  # they follow from what is said later
        del figures[name]
    row = {"audit": audit, "state": ended, "figures": json.dumps(figures, sort_keys=True)}
    chain.append(at, "gate_event", row | {"by": "", "text": "", "created": now})
    _close(at, fold)


def disputes(fold: Fold) -> list[Dispute]:
    """Items that wait for a ruling, in order."""
    return [
        Dispute(n, unit.stratum, tuple(sorted(map(unit.verdict, unit.counted))), tuple(unit.notes))
        for n, unit in sorted(fold.units.items())
        if unit.disputed
    ]


def adjudicate(
    at: Connection, fold: Fold, number: int, lead: int, verdict: str, reason: str, nonce: str,
    now: int,
) -> Adjudication:  # fmt: skip
    """A lead's final word on one item that is disputed; a later one replaces it."""
    by, audit = people.lead(at, lead), fold.audit.id
    if found := at.execute(select(tables.adjudication).where(j.nonce == nonce)).first():
        return Adjudication(
            found.seq, found.audit, found.number, found.reviewer, found.verdict, found.text
        )
    item = planned.item(at, audit, number)
    allowed = verdicts.answers(question(item.kind, item.label))
    if verdict not in allowed:
        raise AuditError(f"{verdict!r} is no ruling", remedy=f"one of {', '.join(allowed)}")
    if not reason.strip():
        raise Refused("a ruling needs a reason", remedy="say in a sentence why")
    which = select(u.id, u.arm, u.order).where(u.audit == audit, u.number == number)
    unit = at.execute(which).one()
    if unit.arm == "retest":
        raise Refused(f"item {number} is a repeat", remedy=f"rule on item {unit.order} instead")
    if number not in fold.units or not fold.units[number].contested:
        remedy = "rule on what reviewers differ on, or could not judge; an override opens the gate"
        raise Refused(f"item {number} waits for no ruling", remedy=remedy)
    row = {"audit": audit, "number": number, "unit": unit.id, "reviewer": by.id, "verdict": verdict}
    seq = chain.append(at, "adjudication", row | {"text": reason, "nonce": nonce, "created": now})
    return Adjudication(seq, audit, number, by.id, verdict, reason)


def override(at: Connection, audit: int, lead: int, reason: str, now: int) -> None:
    """A lead takes it on himself that training begins."""
    by = people.lead(at, lead)
    if not reason.strip():
        raise Refused(
            "an override needs a reason", remedy="say why training may begin all the same"
        )
    row = {"audit": audit, "state": "overridden", "figures": "{}", "by": by.name}
    chain.append(at, "gate_event", row | {"text": reason, "created": now})


def _close(at: Connection, fold: Fold) -> None:
    """Offer no more items than every stratum still needs for its figure, those that are begun
    first; the second review of one is offered like the first. Repeats end with them."""
    plan, s = fold.audit.plan, tables.slot.c
    offered = select(s.unit, s.number, u.stratum).join_from(tables.slot, tables.unit).distinct()
    offered = offered.where(s.audit == fold.audit.id, s.state == "open", s.arm.in_(TOPPED_UP))
    rows = at.execute(offered).all()
    waiting = {row.number for row in rows}
    begun = {n: x for n, x in fold.units.items() if x.arm in TOPPED_UP and x.reviews}
    waiting -= {n for n, unit in begun.items() if unit.complete(plan.reviewers)}
    needs = Counter(dict.fromkeys(plan.strata, int(plan.design.get("per_principle", 0))))
    needs.subtract(unit.stratum for n, unit in begun.items() if n not in waiting)
    surplus = list[int]()
    for row in sorted(rows, key=lambda row: (row.number not in begun, row.number)):
        needs[row.stratum] -= row.number in waiting
        if needs[row.stratum] < 0 or row.number not in waiting:
            surplus.append(row.unit)
    if len(surplus) == len(rows):
        repeats = s.audit == fold.audit.id, s.arm == "retest", s.state == "open"
        surplus += at.execute(select(s.unit).where(*repeats)).scalars().all()
    claims.close(at, surplus)


def _waits(fold: Fold, n: int) -> str:
    unit = next((x for x in fold.units.values() if (x.arm, x.order) == ("gate", n)), None)
    ahead = sum(
        x.arm == "gate" and x.order > n and x.complete(fold.audit.plan.reviewers)
        for x in fold.units.values()
    )
    if not ahead:
        return ""
    first = "is being reviewed" if unit is None or not unit.counted else "waits for a second review"
    return f"item {n + 1} of its order {first}; {ahead} behind it are done already"
