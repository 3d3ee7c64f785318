"""The chain: every row that a person is behind carries the hash of the one before.

A row's hash is the SHA-256 of all its columns, of the table's name and of the hash before it, so
that no row can be changed, removed from the middle, or put in, without `verify` saying where. Rows
cut off the end are seen only against a head written down elsewhere: `rlaif audit status` prints it,
and every export records it.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, insert, select, update

from rlaif.audit import tables
from rlaif.audit.records import Reviewer, Verified

MOST = 20  # problems that are listed
ROWS = 1000  # read at a time


def digest(value: Any) -> str:
    """SHA-256 of a plain value, written as JSON with sorted keys."""
    plain = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(plain.encode()).hexdigest()


def append(at: Connection, table: str, row: dict[str, Any]) -> int:
    """Add a row to one of the chained tables; its number. Others wait for the end of `at`."""
    seq, head = lock(at)
    row = {**row, "seq": seq + 1, "prev": head}
    row["hash"] = digest({**row, "table": table})
    at.execute(insert(tables.CHAINED[table]).values(row))
    at.execute(update(tables.ledger).values(seq=row["seq"], head=row["hash"]))
    return row["seq"]


def lock(at: Connection) -> tuple[int, str]:
    """The head, kept from all others to the end of `at`."""
    t = tables.ledger.c
    row = at.execute(select(t.seq, t.head).with_for_update()).one()
    return row.seq, row.head


def head(at: Connection) -> tuple[int, str]:
    """The number and the hash of the last row."""
    row = at.execute(select(tables.ledger.c.seq, tables.ledger.c.head)).one()
    return row.seq, row.head


def reviewers(at: Connection) -> dict[int, Reviewer]:
    """Who each reviewer is, as the chain said it last; ledgers of old do not say it of all."""
    g = tables.gate_event.c
    rows = at.execute(select(g.figures).where(g.state == "reviewer").order_by(g.seq)).scalars()
    told = (Reviewer(**json.loads(figures)) for figures in rows)
    return {who.id: who for who in told}


def item_sha(item: Mapping[str, Any]) -> str:
    """What an item is, from its columns."""
    return digest({k: v for k, v in item.items() if k not in ("id", "sha")})


def audit_sha(audit: Mapping[str, Any], units: list[list[Any]]) -> str:
    """What was planned: the audit's columns, and (number, item's sha, arm, order, …) by unit."""
    left_out = ("id", "sha", "guideline_sha")
    return digest([{k: v for k, v in audit.items() if k not in left_out}, units])


def verify(at: Connection, head_then: str | None = None) -> Verified:
    """Recheck the chain, every item and every plan."""
    problems: list[str] = []
    passed = not head_then
    before, expected = "", 0
    for table, row in _chained(at):
        expected += 1
        if row["seq"] != expected:
            problems.append(f"row {expected} is missing: {table} {row['seq']} follows")
            expected = row["seq"]
        if row["prev"] != before:
            problems.append(f"{table} {row['seq']} does not follow on the row before it")
        before = row.pop("hash")
        passed = passed or before == head_then
        if digest({**row, "table": table}) != before:
            problems.append(f"{table} {row['seq']} was changed after it was written")
    if not passed:
        problems.append(f"no row has the hash {head_then}: rows were cut off or changed")
    last, recorded = head(at)
    if (last, recorded) != (expected, before):
        problems.append(f"the ledger ends at row {expected}, but {last} were written")
    problems += _texts_changed(at)
    problems += _plans_changed(at)
    problems += _people_changed(at)
    return Verified(expected, before, tuple(problems[:MOST]))


def _chained(at: Connection) -> Iterator[tuple[str, dict[str, Any]]]:
    streams = [_rows(at, name) for name in tables.CHAINED]
    return heapq.merge(*streams, key=lambda pair: pair[1]["seq"])


def _rows(at: Connection, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    table, after = tables.CHAINED[name], -1
    while True:
        query = select(table).where(table.c.seq > after).order_by(table.c.seq).limit(ROWS)
        found = at.execute(query).mappings().all()
        if not found:
            return
        for row in found:
            yield name, dict(row)
        after = found[-1]["seq"]


def _texts_changed(at: Connection) -> Iterator[str]:
    for name, column in (("guideline", "text"), ("constitution", "yaml")):
        table = getattr(tables, name)
        for row in at.execute(select(table)).mappings():
            if digest(row[column]) != row["sha"]:
                yield f"{name} {row['sha'][:12]} was changed after it was written"


def _plans_changed(at: Connection) -> Iterator[str]:
    t, i, after = tables.unit.c, tables.item, -1
    while (
        found := at.execute(select(i).where(i.c.id > after).order_by(i.c.id).limit(ROWS))
        .mappings()
        .all()
    ):
        for row in found:
            if item_sha(dict(row)) != row["sha"]:
                yield f"item {row['name']} was changed after it was drawn"
        after = found[-1]["id"]
    g = tables.gate_event.c
    told = at.execute(select(g.audit).where(g.state == "planned").order_by(g.seq)).scalars()
    for gone in sorted({*told} - {*at.execute(select(tables.audit.c.id)).scalars()}):
        yield f"audit {gone} was removed after it was drawn"
    for audit in at.execute(select(tables.audit)).mappings():
        units = select(t.number, i.c.sha, t.arm, t.order, t.stratum, t.pi, t.reviews)
        units = units.join_from(tables.unit, i).where(t.audit == audit["id"]).order_by(t.number)
        planned = [list(unit) for unit in at.execute(units)]
        told = list(map(json.loads, _events(at, audit["id"], "planned")))
        sha = told[0].get("sha") if told else None
        if not audit_sha(dict(audit), planned) == audit["sha"] == sha:
            yield f"the plan of audit {audit['id']} was changed after it was drawn"
        texts = [one["guideline"] for one in told if "guideline" in one]
        texts += [json.loads(one)["sha"] for one in _events(at, audit["id"], "guideline")]
        if texts and texts[-1] != audit["guideline_sha"]:
            yield f"the guideline of audit {audit['id']} is not the one that was set last"


def _people_changed(at: Connection) -> Iterator[str]:
    rows = at.execute(select(tables.reviewer))
    now = {row.id: Reviewer(row.id, row.name, row.role, bool(row.active)) for row in rows}
    for id, who in reviewers(at).items():
        if now.get(id) != who:
            yield f"reviewer {id} is not the one on record: {who.name}, {who.role}"


def _events(at: Connection, audit: int, state: str) -> Sequence[str]:
    g = tables.gate_event.c
    found = select(g.figures).where(g.audit == audit, g.state == state).order_by(g.seq)
    return at.execute(found).scalars().all()
