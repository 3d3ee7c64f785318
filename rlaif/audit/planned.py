"""What was planned: audits, their units and items, written once."""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, literal, select

from rlaif.audit import chain, people, tables
from rlaif.audit.errors import AuditError, NotFound
from rlaif.audit.records import ARMS, Audit, Item, Plan, Unit

ROWS = 500  # written or read at a time

a, u, i = tables.audit.c, tables.unit.c, tables.item.c


def create(at: Connection, plan: Plan, units: Iterable[Unit], now: int) -> int:
    """Write an audit; its id."""
    ordered = sorted(units, key=lambda unit: (ARMS.index(unit.arm), unit.order, unit.item.id))
    _check(plan, ordered)
    ordered = _with_repeats(ordered)
    keep(at, tables.constitution, "yaml", plan.constitution)
    keep(at, tables.guideline, "text", plan.guideline)
    items = [_columns(unit.item) for unit in ordered]
    shas = [item["sha"] for item in items]
    row = {**_row(plan, ordered), "created": now}
    planned = [
        [n, sha, unit.arm, unit.order, unit.item.stratum, unit.pi, unit.reviews]
        for n, (sha, unit) in enumerate(zip(shas, ordered, strict=True), 1)
    ]
    row["sha"] = chain.audit_sha(row, planned)
    id = at.execute(insert(tables.audit).values(row).returning(a.id)).scalar_one()
    ids = _items(at, items)
    rows = [
        {"audit": id, "number": n, "item": ids[sha], "arm": arm, "order": order,
         "stratum": stratum, "pi": pi, "reviews": reviews}
        for n, sha, arm, order, stratum, pi, reviews in planned
    ]  # fmt: skip
    for start in range(0, len(rows), ROWS):
        at.execute(insert(tables.unit), rows[start : start + ROWS])
    _slots(at, id, max((unit.reviews for unit in ordered), default=0))
    figures = json.dumps({"sha": row["sha"], "guideline": row["guideline_sha"]})
    event = {"audit": id, "state": "planned", "figures": figures, "by": "", "text": ""}
    chain.append(at, "gate_event", {**event, "created": now})
    people.record(at, now)
    return id


def audits(at: Connection) -> list[Audit]:
    """All audits, the newest last."""
    return [_audit(at, row) for row in at.execute(select(tables.audit).order_by(a.id)).mappings()]


def audit(at: Connection, audit: int) -> Audit:
    """One audit."""
    row = at.execute(select(tables.audit).where(a.id == audit)).mappings().first()
    if row is None:
        raise NotFound(f"there is no audit {audit}", remedy="draw one: rlaif audit sample RUN")
    return _audit(at, row)


def units(at: Connection, audit: int) -> Iterator[tuple[int, Unit]]:
    """Every unit with its number."""
    after = 0
    columns = (u.number, u.arm, u.order, u.pi, u.reviews, u.stratum)
    columns = (*columns, i.name, i.kind, i.payload, i.ai)
    query = select(*columns).join_from(tables.unit, tables.item).where(u.audit == audit)
    while True:
        found = at.execute(query.where(u.number > after).order_by(u.number).limit(ROWS)).all()
        if not found:
            return
        for row in found:
            yield row.number, Unit(_item(row), row.arm, row.order, row.pi, row.reviews)
        after = found[-1].number


def item(at: Connection, audit: int, number: int) -> Item:
    """An item with what the AI said of it."""
    columns = (i.name, i.kind, u.stratum, i.payload, i.ai)
    query = select(*columns).join_from(tables.unit, tables.item)
    row = at.execute(query.where(u.audit == audit, u.number == number)).first()
    if row is None:
        raise NotFound(f"audit {audit} has no item {number}", remedy="take a number from its list")
    return _item(row)


def record_export(at: Connection, audit: int, form: str, sha: str, rows: int, now: int) -> None:
    """Note an export, with the head of the chain as it stood."""
    row = {"audit": audit, "form": form, "sha": sha, "rows": rows, "created": now}
    at.execute(insert(tables.export_event).values(row | {"head": chain.head(at)[1]}))


def _check(plan: Plan, units: list[Unit]) -> None:
    names = Counter((unit.item.id, unit.arm == "retest") for unit in units)
    twice = [name for (name, _), n in names.items() if n > 1][:3]
    if twice:
        raise AuditError(f"items are in the audit twice: {', '.join(twice)}")
    if any(unit.item.kind != plan.kind for unit in units):
        raise AuditError(f"an audit of {plan.kind} has items of another kind")
    if not (0 < plan.tau < 1 and 0 < plan.alpha < 0.5 and plan.cap > 0 and plan.reviewers > 0):
        raise AuditError("tau is between 0 and 1, alpha between 0 and 0.5, cap and reviewers > 0")
    gate = [unit.order for unit in units if unit.arm == "gate"]
    if gate != list(range(len(gate))):
        raise AuditError("the gate arm's orders are not 0, 1, 2, …")


def _with_repeats(units: list[Unit]) -> list[Unit]:
    """Repeats among the others, each behind the unit that it repeats, whose number it gets.

    What is known of the AI says that it is a repeat: so each item is in an audit once.
    """
    due = {unit.item.id: unit.order for unit in units if unit.arm == "retest"}
    waiting, placed = list[tuple[int, int, Unit]](), list[Unit]()
    for unit in units:
        if unit.arm == "retest":
            continue
        while waiting and waiting[0][0] <= len(placed):
            placed.append(heapq.heappop(waiting)[2])
        placed.append(unit)
        if later := due.get(unit.item.id):
            number, item = len(placed), unit.item
            again = replace(item, ai={**item.ai, "repeat": True})
            entry = number + later, number, Unit(again, "retest", number, 0.0, unit.reviews)
            heapq.heappush(waiting, entry)
    return placed + [unit for _, _, unit in sorted(waiting)]


def _row(plan: Plan, units: list[Unit]) -> dict[str, Any]:
    plain = {
        name: getattr(plan, name)
        for name in ("kind", "title", "labels", "frame_sha", "frame_size", "seed", "tau", "alpha",
                     "cap", "reviewers")
    }  # fmt: skip
    return plain | {
        "strata": json.dumps(dict(plan.strata), sort_keys=True),
        "design": json.dumps(dict(plan.design), sort_keys=True),
        "sizes": json.dumps({arm: sum(unit.arm == arm for unit in units) for arm in ARMS}),
        "guideline_sha": chain.digest(plan.guideline),
        "constitution_sha": chain.digest(plan.constitution),
        "units": len(units),
    }


def _columns(item: Item) -> dict[str, Any]:
    payload, ai = dict(item.payload), dict(item.ai)
    b = payload.get("b") or ai.get("b") or ""
    row = {
        "name": item.id, "kind": item.kind, "stratum": item.stratum, "label": item.label,
        "target": ai.get("target"), "consistent": ai.get("consistent"),
        "longer": len(payload["a"]) - len(b) if b else 0,
        "payload": json.dumps(payload), "ai": json.dumps(ai),
    }  # fmt: skip
    return {"sha": chain.item_sha(row), **row}


def _items(at: Connection, items: list[dict[str, Any]]) -> dict[str, int]:
    """Write the items that are new; the id of each by its sha."""
    ids: dict[str, int] = {}
    for start in range(0, len(items), ROWS):
        some = items[start : start + ROWS]
        known = _known(at, some)
        new = [item for item in some if item["sha"] not in known]
        if new:
            at.execute(insert(tables.item), new)
            known |= _known(at, new)
        ids |= known
    return ids


def _known(at: Connection, items: list[dict[str, Any]]) -> dict[str, int]:
    query = select(i.sha, i.id).where(i.sha.in_([item["sha"] for item in items]))
    return {row.sha: row.id for row in at.execute(query)}


def _slots(at: Connection, audit: int, most: int) -> None:
    """As many open slots as reviews are wanted of each unit."""
    names = ("audit", "unit", "number", "arm", "k", "state", "lease", "left", "turn", "taken",
             "revealed")  # fmt: skip
    for k in range(most):
        fixed = [literal(value) for value in (k, "open", 0, "", 0, 0, 0)]
        wanted = select(u.audit, u.id, u.number, u.arm, *fixed)
        wanted = wanted.where(u.audit == audit, u.reviews > k)
        at.execute(insert(tables.slot).from_select(names, wanted))


def keep(at: Connection, table: Any, column: str, text: str) -> str:
    """Keep a text once; its SHA-256."""
    sha = chain.digest(text)
    if not at.execute(select(table.c.sha).where(table.c.sha == sha)).first():
        at.execute(insert(table).values({"sha": sha, column: text}))
    return sha


def _audit(at: Connection, row: RowMapping) -> Audit:
    g, c = tables.guideline.c, tables.constitution.c
    law = select(c.yaml).where(c.sha == row["constitution_sha"])
    plan = Plan(
        **{k: row[k] for k in ("kind", "title", "labels", "frame_sha", "frame_size", "seed", "tau",
                               "alpha", "cap", "reviewers")},
        strata=json.loads(row["strata"]),
        design=json.loads(row["design"]),
        guideline=at.execute(select(g.text).where(g.sha == row["guideline_sha"])).scalar_one(),
        constitution=at.execute(law).scalar_one(),
    )  # fmt: skip
    sizes: Mapping[str, int] = json.loads(row["sizes"])
    return Audit(
        row["id"], plan, sizes, row["guideline_sha"], row["constitution_sha"], row["created"]
    )


def _item(row: Any) -> Item:
    return Item(row.name, row.kind, row.stratum, json.loads(row.payload), json.loads(row.ai))
