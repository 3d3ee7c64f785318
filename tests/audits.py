"""Audits for tests: plans and items by the dozen, reviewers who answer, ledgers on the disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlaif.audit.ledger import Ledger
from rlaif.audit.records import Arm, Item, Plan, Unit, View


def pair(n: int, label: str = "a", stratum: str = "harm") -> Item:
    """A pair whose texts say which side they are."""
    payload = {
        "messages": [{"role": "user", "content": f"question {n}"}],
        "a": f"A{n} " + "x" * (n % 7), "b": f"B{n} " + "x" * (n % 5),
        "principles": [{"id": stratum, "text": "Which does less harm?"}],
    }  # fmt: skip
    target = {"a": 0.9, "b": 0.1, "tie": 0.5}[label]
    ai = {
        "label": label,
        "target": target,
        "rationales": [{"principle": stratum, "text": "SECRET"}],
    }
    return Item(f"pair{n:06}", "preference", stratum, payload, ai)


def critique(n: int, label: str = "revised") -> Item:
    """A round of critique, with a revision where the AI found a fault."""
    payload = {
        "messages": [{"role": "user", "content": f"question {n}"}], "a": f"before {n}",
        "principles": [{"id": "harm", "text": "Point out the harm."}],
    }  # fmt: skip
    b = f"after {n}" if label == "revised" else None
    ai = {"label": label, "critique": "SECRET", "b": b}
    return Item(f"round{n:06}", "critique", "harm", payload, ai)


def plan(**changed: Any) -> Plan:
    """A plan of a frame of 1000."""
    told: dict[str, Any] = {
        "kind": "preference", "frame_sha": "0" * 64, "frame_size": 1000,
        "strata": {"harm": 1000}, "seed": 3, "guideline": "Be fair.", "constitution": "",
    }  # fmt: skip
    return Plan(**told | changed)


def units(n: int, arm: Arm = "gate", *, reviews: int = 1, start: int = 0) -> list[Unit]:
    """Units of one arm."""
    return [Unit(pair(start + k), arm, k, n / 1000, reviews) for k in range(n)]


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def ledger(
    folder: Path, drawn: list[Unit], *, people: int = 1, **changed: Any
) -> Iterator[tuple[Ledger, int, Clock]]:
    """A ledger with one audit, and reviewers 1, 2, …, of whom the first is a lead."""
    clock = Clock()
    with Ledger.open(folder / "audit.db", clock=clock) as opened:
        kind = drawn[0].item.kind
        audit = opened.create(plan(kind=kind, **{"reviewers": people} | changed), drawn)
        for k in range(people):
            opened.add_reviewer(f"person {k + 1}", "reviewer" if k else "lead")
        yield opened, audit, clock


def side(view: View, wanted: str) -> str:
    """The word for the item's side a or b in a view."""
    return "left" if view.left.startswith(wanted.upper()) else "right"


def judge(opened: Ledger, audit: int, reviewer: int, wanted: str = "a") -> View | None:
    """Take the next item and prefer a side, or say another verdict."""
    view = opened.claim(audit, reviewer)
    if view is not None:
        said = side(view, wanted) if wanted in ("a", "b") else wanted
        assert view.stage
        opened.decide(
            audit, view.number, reviewer, view.stage, said, nonce=view.nonce, active_ms=9000
        )
    return view
