"""The guideline: every version that reviewers had, who wrote it, and from when on it stands.

A lead may change it while people warm up. From the gate's first verdict on it stands: what was
judged under one guideline must not count for another. Every decision names the version under which
it was made, and a change is a row of the chain.
"""

from __future__ import annotations

import json
from pathlib import Path

from sqlalchemy import Connection, select, update

from rlaif.audit import chain, people, planned, tables
from rlaif.audit.errors import Refused
from rlaif.audit.records import Guideline
from rlaif.errors import DataError

LONGEST = 50_000  # characters

a, u, d = tables.audit.c, tables.unit.c, tables.decision.c


def read(path: Path) -> str:
    """The guideline in a file.

    Raises:
        DataError: it is no text that can be read.
    """
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        remedy = (
            "name a text file in UTF-8; audit.guideline=null takes the guideline that is shipped"
        )
        what = f"the guideline cannot be read ({cause})"
        raise DataError(what, where=str(path), remedy=remedy) from error


def change(at: Connection, audit_id: int, text: str, lead: int, now: int) -> str:
    """Another guideline, before the gate's first verdict."""
    by, found = people.lead(at, lead), planned.audit(at, audit_id)
    if not text.strip() or len(text) > LONGEST:
        raise Refused(f"a guideline has 1 to {LONGEST:,} characters", remedy="say how to judge")
    if frozen(at, audit_id):
        remedy = (
            "what was judged under one guideline must not count for another; a lead may have the "
            "labels audited again: rlaif audit sample RUN --again NAME --reason TEXT"
        )
        raise Refused("the gate has begun, so the guideline is frozen", remedy=remedy)
    sha = planned.keep(at, tables.guideline, "text", text)
    if sha != found.guideline_sha:
        at.execute(update(tables.audit).where(a.id == audit_id).values(guideline_sha=sha))
        event = {"audit": audit_id, "state": "guideline", "figures": json.dumps({"sha": sha})}
        event |= {"by": by.name, "text": "", "created": now}
        chain.append(at, "gate_event", event)
    return sha


def frozen(at: Connection, audit: int) -> bool:
    """Whether the guideline stands: the gate has a verdict."""
    counted = select(d.seq).join_from(tables.decision, tables.unit)
    counted = counted.where(d.audit == audit, d.act == "verdict", d.blind == "yes", u.arm == "gate")
    return at.execute(counted.limit(1)).first() is not None


def versions(at: Connection, audit_id: int) -> list[Guideline]:
    """Every version of the guideline, the latest last."""
    g, texts = tables.gate_event.c, tables.guideline.c
    events = select(tables.gate_event).where(
        g.audit == audit_id, g.state.in_(("planned", "guideline"))
    )
    found = []
    for row in at.execute(events.order_by(g.seq)):
        told = json.loads(row.figures)
        sha = told.get("guideline") or (told["sha"] if row.state == "guideline" else None)
        if sha:  # ledgers of old do not say what was planned
            text = at.execute(select(texts.text).where(texts.sha == sha)).scalar_one()
            found.append(Guideline(sha, text, row.by, row.created))
    if not found:
        now = planned.audit(at, audit_id)
        found.append(Guideline(now.guideline_sha, now.plan.guideline, "", now.created))
    return found


def unread(at: Connection, audit: int, reviewer: int) -> bool:
    """Whether the guideline is another than the one at hand at the reviewer's last verdict here."""
    last = select(d.guideline_sha).where(
        d.audit == audit, d.reviewer == reviewer, d.blind != "unknown",
        d.act.in_(("verdict", "skip")),
    )  # fmt: skip
    seen = at.execute(last.order_by(d.seq.desc()).limit(1)).scalar()
    now = at.execute(select(a.guideline_sha).where(a.id == audit)).scalar()
    return seen is not None and seen != now
