"""Who may review: names, roles and tokens, of which only hashes are kept.

Whoever comes, gets another role or loses access is a row of the chain, beside the newest audit's.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from rlaif.audit import chain, tables
from rlaif.audit.errors import NotFound, Refused
from rlaif.audit.records import Reviewer, Role

INVITED_FOR = 7 * 24 * 3600 * 1000  # milliseconds that a one-time token is good for
SESSION_FOR = 30 * 24 * 3600 * 1000

p, t = tables.reviewer.c, tables.token.c


def add(at: Connection, name: str, role: Role, now: int, by: str = "") -> tuple[Reviewer, str]:
    """A new reviewer and his one-time token."""
    name = name.strip()
    if not name or len(name) > 80 or not name.isprintable():
        raise Refused(
            f"{name[:80]!r} is no name", remedy="give one of 1 to 80 printable characters"
        )
    chain.lock(at)
    if at.execute(select(p.id).where(p.name == name)).first():
        raise Refused(f"there is a reviewer called {name!r}", remedy="invite him, or add a surname")
    row = {"name": name, "role": role, "active": 1, "created": now}
    id = at.execute(insert(tables.reviewer).values(row).returning(p.id)).scalar_one()
    found = Reviewer(id, name, role)
    _record(at, found, by, now)
    return found, _issue(at, id, "once", now + INVITED_FOR)


def invite(at: Connection, name: str, role: Role | None, by: str, now: int) -> str:
    """A one-time token for somebody new or known, who gets the role and, if need be, access."""
    row = at.execute(select(tables.reviewer).where(p.name == name.strip())).first()
    if row is None:
        return add(at, name, role or "reviewer", now, by)[1]
    found = _reviewer(row)
    _change(at, found, replace(found, role=role or found.role, active=True), by, now)
    return _issue(at, found.id, "once", now + INVITED_FOR)


def redeem(at: Connection, token: str, now: int) -> str | None:
    """Burn a one-time token for a session's."""
    burnt = delete(tables.token).where(t.hash == _hash(token), t.kind == "once", t.until > now)
    reviewer = at.execute(burnt.returning(t.reviewer)).scalar()
    return None if reviewer is None else _issue(at, reviewer, "session", now + SESSION_FOR)


def by_session(at: Connection, session: str, now: int) -> Reviewer | None:
    """Whose session it is."""
    query = select(tables.reviewer).join(tables.token, t.reviewer == p.id)
    query = query.where(t.hash == _hash(session), t.kind == "session", t.until > now, p.active == 1)
    row = at.execute(query).first()
    return _reviewer(row) if row else None


def logout(at: Connection, session: str) -> None:
    """End a session."""
    at.execute(delete(tables.token).where(t.hash == _hash(session)))


def deactivate(at: Connection, reviewer: int, now: int) -> None:
    """End all that gives a reviewer access."""
    found = one(at, reviewer)
    at.execute(delete(tables.token).where(t.reviewer == reviewer))
    _change(at, found, replace(found, active=False), "", now)


def reviewers(at: Connection) -> list[Reviewer]:
    """All of them, in the order in which they came."""
    return list(map(_reviewer, at.execute(select(tables.reviewer).order_by(p.id))))


def record(at: Connection, now: int) -> None:
    """Rows for those who came before there was an audit, or when such rows were not written."""
    known = chain.reviewers(at)
    for found in reviewers(at):
        if found.id not in known:
            _record(at, found, "", now)


def one(at: Connection, reviewer: int) -> Reviewer:
    """An active reviewer."""
    row = at.execute(select(tables.reviewer).where(p.id == reviewer)).first()
    if row is None or not row.active:
        raise NotFound(f"there is no active reviewer {reviewer}", remedy="add or invite one")
    return _reviewer(row)


def lead(at: Connection, reviewer: int) -> Reviewer:
    """A reviewer who may decide for others."""
    found = one(at, reviewer)
    if found.role == "reviewer":
        raise Refused(f"{found.name} is no lead", remedy="ask a lead")
    return found


def _change(at: Connection, was: Reviewer, now_is: Reviewer, by: str, now: int) -> None:
    if now_is == was:
        return
    values = {"role": now_is.role, "active": int(now_is.active)}
    at.execute(update(tables.reviewer).where(p.id == was.id).values(values))
    _record(at, now_is, by, now)


def _record(at: Connection, who: Reviewer, by: str, now: int) -> None:
    """A row that says who somebody is from now on; before the first audit, `record` makes it."""
    audit = at.execute(select(func.max(tables.audit.c.id))).scalar()
    if audit is not None:
        event = {"audit": audit, "state": "reviewer", "by": by, "text": "", "created": now}
        chain.append(at, "gate_event", event | {"figures": json.dumps(asdict(who))})


def _reviewer(row: Any) -> Reviewer:
    return Reviewer(row.id, row.name, row.role, bool(row.active))


def _issue(at: Connection, reviewer: int, kind: str, until: int) -> str:
    token = secrets.token_urlsafe(32)
    row = {"hash": _hash(token), "reviewer": reviewer, "kind": kind, "until": until}
    at.execute(insert(tables.token).values(row))
    return token


def _hash(token: str) -> str:
    """A token has 256 random bits: a plain hash cannot be turned round."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
