"""What one reviewer has to do with one item: his slot, his rows, the question that is open."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, select

from rlaif.audit import tables
from rlaif.audit.errors import NotFound
from rlaif.audit.records import BLIND, Decision, Holding, Kind, View
from rlaif.audit.scoring import turned

s, d, u, i, a = (
    t.c for t in (tables.slot, tables.decision, tables.unit, tables.item, tables.audit)
)

HOLDING: dict[str, Holding] = {
    "claimed": "mine",
    "decided": "decided",
    "skipped": "skipped",
    "lapsed": "lapsed",
}


@dataclass
class Held:
    """An item, this reviewer's slot in it (None: he never had it), and his rows, oldest first.

    `unit` and `slot` are rows of the tables, the unit's with its item.
    """

    reviewer: int
    unit: Any
    slot: Any
    rows: Sequence[Decision]

    @cached_property
    def standing(self) -> list[Decision]:
        """What he said here, without what was taken back; imported rows leave him free to judge."""
        here = [row for row in self.rows if row.blind != "unknown"]
        undone = {row.supersedes for row in here if row.act == "undo"}
        return [row for row in here if row.seq not in undone and row.act != "undo"]

    @cached_property
    def answered(self) -> dict[str, Decision]:
        """The latest row for each question, changes included; the last blind one stays open where
        the answer came too late and the item is his again."""
        said = {row.stage: row for row in self.standing if row.act in ("verdict", "change")}
        last = said.get(self.blind[-1])
        if last and last.extra and self.slot is not None and self.slot.state == "claimed":
            del said[last.stage]
        return said

    @property
    def blind(self) -> tuple[str, ...]:
        """The questions before the reveal."""
        stages = BLIND[self.unit.kind]
        return stages[:1] if self.unit.label == "no_fault" else stages

    @property
    def stage(self) -> str | None:
        """The next blind question; None when all are answered."""
        return next((stage for stage in self.blind if stage not in self.answered), None)

    @property
    def revealed(self) -> bool:
        return any(row.act == "reveal" for row in self.standing)

    @property
    def left(self) -> str:
        """The item's side that this reviewer sees on the left; stored with his slot."""
        if self.slot is not None and self.slot.left:
            return self.slot.left
        told = f"{self.unit.seed}/{self.unit.sha}/{self.reviewer}"
        return "ab"[sha256(told.encode()).digest()[0] & 1]

    @property
    def nonce(self) -> str:
        """One that is the same in every tab until the question is answered or taken back."""
        if self.slot is None or self.stage is None:
            return ""
        told = f"{self.slot.id}/{self.slot.turn}/{self.stage}"
        return f"tab-{sha256(told.encode()).hexdigest()[:24]}"

    def view(self) -> View:
        """The item as he may see it."""
        unit, slot = self.unit, self.slot
        payload = json.loads(unit.payload)
        flags = [row.text for row in self.standing if row.act == "flag"]
        response, left, right = self._texts(payload)
        return View(
            audit=unit.audit,
            number=unit.number,
            kind=unit.kind,
            holding=HOLDING.get(slot.state, "none") if slot is not None else "none",
            stage=self.stage,
            messages=tuple(payload["messages"]),
            principles=tuple(payload.get("principles", ())),
            response=response,
            left=left,
            right=right,
            answers={k: turned(row.verdict, self.left) for k, row in self.answered.items()},
            flagged=bool(flags) and flags[-1] == "on",
            notes=tuple(row.text for row in self.standing if row.act == "note"),
            revealed=self.revealed,
            lease_until=slot.lease if slot is not None and slot.state == "claimed" else 0,
            nonce=self.nonce,
        )

    def _texts(self, payload: dict[str, Any]) -> tuple[str, str, str]:
        """response, left and right; for `violated` no hint that there is a revision."""
        kind: Kind = self.unit.kind
        a = payload["a"]
        if kind == "critique" and (self.stage == "violated" or self.blind == ("violated",)):
            return a, "", ""
        b = payload["b"] if kind == "preference" else json.loads(self.unit.ai)["b"]
        left, right = (a, b) if self.left == "a" else (b, a)
        return (a if kind == "critique" else ""), left, right


def held(at: Connection, audit: int, number: int, reviewer: int) -> Held:
    """One reviewer and one item.

    Raises:
        NotFound: the audit has no such item.
    """
    columns = (u.id, u.audit, u.number, u.arm, u.stratum, u.reviews)
    columns = (*columns, i.sha, i.kind, i.label, i.payload, i.ai, a.seed)
    query = select(*columns).join_from(tables.unit, tables.item).join(tables.audit)
    unit = at.execute(query.where(u.audit == audit, u.number == number)).first()
    if unit is None:
        raise NotFound(f"audit {audit} has no item {number}", remedy="take a number from its list")
    mine = select(tables.slot).where(s.unit == unit.id, s.reviewer == reviewer)
    rows = select(tables.decision).where(d.unit == unit.id, d.reviewer == reviewer)
    return Held(
        reviewer,
        unit,
        at.execute(mine).first(),
        [to_decision(row) for row in at.execute(rows.order_by(d.seq))],
    )


def to_decision(row: Any) -> Decision:
    """A row of the table as a record."""
    return Decision(
        row.seq, row.audit, row.number, row.reviewer, row.act, row.stage, row.verdict, row.left,
        row.text, row.supersedes, row.nonce, row.active_ms, bool(row.extra), row.blind, row.source,
        row.created,
    )  # fmt: skip
