"""Who may review: names, roles and tokens, of which only hashes are kept."""

from __future__ import annotations

import hashlib
import secrets

from sqlalchemy import Connection, delete, insert, select, update

from rlaif.audit import tables
from rlaif.audit.errors import NotFound, Refused
from rlaif.audit.records import Reviewer, Role

INVITED_FOR = 7 * 24 * 3600 * 1000  # milliseconds that a one-time token is good for
SESSION_FOR = 30 * 24 * 3600 * 1000

p, t = tables.reviewer.c, tables.token.c


def add(at: Connection, name: str, role: Role, now: int) -> tuple[Reviewer, str]:
    """A new reviewer and his one-time token."""
    name = name.strip()
    if not name or len(name) > 80 or not name.isprintable():
        raise Refused(
            f"{name[:80]!r} is no name", remedy="give one of 1 to 80 printable characters"
        )
    if at.execute(select(p.id).where(p.name == name)).first():
        raise Refused(f"there is a reviewer called {name!r}", remedy="invite him, or add a surname")
    row = {"name": name, "role": role, "active": 1, "created": now}
    id = at.execute(insert(tables.reviewer).values(row).returning(p.id)).scalar_one()
    return Reviewer(id, name, role), invite(at, id, now)


def invite(at: Connection, reviewer: int, now: int) -> str:
    """Another one-time token."""
    one(at, reviewer)
    return _issue(at, reviewer, "once", now + INVITED_FOR)


def admit(at: Connection, name: str, role: Role | None, now: int) -> str:
    """A one-time token for whoever has this name, added if need be."""
    known = at.execute(select(tables.reviewer).where(p.name == name.strip())).first()
    if known is None:
        return add(at, name, role or "reviewer", now)[1]
    if role not in (None, known.role):
        remedy = f"roles don't change: give a {role} another name, such as {name} ({role})"
        raise Refused(f"{name} is here as a {known.role}", remedy=remedy)
    at.execute(update(tables.reviewer).where(p.id == known.id).values(active=1))
    return invite(at, known.id, now)


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
    return Reviewer(row.id, row.name, row.role) if row else None


def logout(at: Connection, session: str) -> None:
    """End a session."""
    at.execute(delete(tables.token).where(t.hash == _hash(session)))


def deactivate(at: Connection, reviewer: int) -> None:
    """End all that gives a reviewer access."""
    at.execute(delete(tables.token).where(t.reviewer == reviewer))
    at.execute(update(tables.reviewer).where(p.id == reviewer).values(active=0))


def reviewers(at: Connection) -> list[Reviewer]:
    """All of them, in the order in which they came."""
    rows = at.execute(select(tables.reviewer).order_by(p.id))
    return [Reviewer(row.id, row.name, row.role, bool(row.active)) for row in rows]


def one(at: Connection, reviewer: int) -> Reviewer:
    """An active reviewer."""
    row = at.execute(select(tables.reviewer).where(p.id == reviewer)).first()
    if row is None or not row.active:
        raise NotFound(f"there is no active reviewer {reviewer}", remedy="add or invite one")
    return Reviewer(row.id, row.name, row.role)


def lead(at: Connection, reviewer: int) -> Reviewer:
    """A reviewer who may decide for others."""
    found = one(at, reviewer)
    if found.role == "reviewer":
        raise Refused(f"{found.name} is no lead", remedy="ask a lead")
    return found


def _issue(at: Connection, reviewer: int, kind: str, until: int) -> str:
    token = secrets.token_urlsafe(32)
    row = {"hash": _hash(token), "reviewer": reviewer, "kind": kind, "until": until}
    at.execute(insert(tables.token).values(row))
    return token


def _hash(token: str) -> str:
    """A token has 256 random bits: a plain hash cannot be turned round."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
