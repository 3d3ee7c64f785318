"""The audit's ledger: who was shown what, who said what, and what the gate made of it.

    with Ledger.open(run / "audit.db") as ledger:
        audit = ledger.create(plan, units)
        view = ledger.claim(audit, reviewer)
        ledger.decide(audit, view.number, reviewer, view.stage, "left", nonce=view.nonce)

SQLite by default (WAL, synchronous=FULL), PostgreSQL by URL. Whatever a person says is a row that
is only ever added, chained to the one before by its hash; when a call returns, it is on the disk.
Every call is a short transaction, and is safe in any thread and beside any other process. Times are
in milliseconds since 1970.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from rlaif.audit import again as redrawing
from rlaif.audit import (
    chain,
    claims,
    guidelines,
    people,
    planned,
    principles,
    reading,
    reveals,
    rulings,
    tables,
    verdicts,
)
from rlaif.audit.folding import Fold, Folds
from rlaif.audit.records import (
    Adjudication,
    Again,
    Audit,
    Decision,
    Dispute,
    GateState,
    Guideline,
    Item,
    Place,
    Plan,
    Precedent,
    Progress,
    Recorded,
    Reveal,
    Reviewer,
    Role,
    Unit,
    Verified,
    View,
)

LEASE = 15 * 60.0
"""Seconds for which an item is one reviewer's."""

BATCH = reveals.BATCH
"""Preference items of the calibration, gate and coverage arms are revealed so many at a time."""


class Ledger:
    """An open ledger. Make one with `Ledger.open`.

    Raises:
        AuditError: the ledger cannot be opened or written, or an act is not allowed.
    """

    def __init__(self, database: tables.Database, clock: Callable[[], float] = time.time) -> None:
        self.database, self._clock = database, clock
        self._folds = Folds()
        self.memory: dict[int, Any] = {}
        """For figures that are costly to make (overview.py), by audit."""

    @property
    def name(self) -> str:
        """What tells this ledger apart, without saying where it is."""
        return sha256(self.database.where.encode()).hexdigest()[:12]

    @classmethod
    @contextmanager
    def open(cls, where: str | Path, *, clock: Callable[[], float] = time.time) -> Iterator[Ledger]:
        """The ledger in a file (made if it is new) or behind a `postgresql://` URL."""
        database = tables.Database(where)
        try:
            yield cls(database, clock)
        finally:
            database.close()

    # --- audits -----------------------------------------------------------------------------------

    def create(self, plan: Plan, units: Iterable[Unit], again: Again | None = None) -> int:
        """A new audit's id. Units come in any order; each item may be in it once.

        Raises:
            Drawn: the labels have an audit, and no lead wants them audited `again`.
        """
        with self._writing() as at:
            redrawing.allow(at, plan, again)
            audit = planned.create(at, plan, units, self._now())
            if again is not None:
                redrawing.record(at, audit, again, self._now())
            return audit

    def audits(self) -> list[Audit]:
        """All audits, the newest last."""
        with self._reading() as at:
            return planned.audits(at)

    def audit(self, audit: int) -> Audit:
        """One audit."""
        with self._reading() as at:
            return planned.audit(at, audit)

    def guideline(self, audit: int, text: str, lead: int) -> str:
        """Change the guideline, until the gate's first verdict; its SHA-256."""
        with self._writing() as at:
            return guidelines.change(at, audit, text, lead, self._now())

    def guidelines(self, audit: int) -> list[Guideline]:
        """Every version of the guideline, the latest last."""
        with self._reading() as at:
            return guidelines.versions(at, audit)

    def frozen(self, audit: int) -> bool:
        """Whether the gate has a verdict, so that the guideline stands."""
        with self._reading() as at:
            return guidelines.frozen(at, audit)

    def unread(self, audit: int, reviewer: int) -> bool:
        """Whether the guideline has changed since the reviewer's last act."""
        with self._reading() as at:
            return guidelines.unread(at, audit, reviewer)

    # --- reviewers --------------------------------------------------------------------------------

    def add_reviewer(self, name: str, role: Role = "reviewer") -> tuple[Reviewer, str]:
        """A new reviewer and his one-time token, shown here only; it is stored as a hash."""
        with self._writing() as at:
            return people.add(at, name, role, self._now())

    def invite(self, name: str, role: Role | None = None, *, by: str = "") -> str:
        """A one-time token for whoever is called so, who is made if need be, as a reviewer.

        With `role`, that is what they are from now on. Who lost access has it again. `by` is the
        lead who does so, "" where it is whoever has the ledger.
        """
        with self._writing() as at:
            return people.invite(at, name, role, by, self._now())

    def redeem(self, token: str) -> str | None:
        """Burn a one-time token for a session's token; None if it is unknown, used or too old."""
        with self._writing() as at:
            return people.redeem(at, token, self._now())

    def by_session(self, session: str) -> Reviewer | None:
        """Whose session it is; None if it is unknown, too old, logged out or its owner inactive."""
        with self._reading() as at:
            return people.by_session(at, session, self._now())

    def logout(self, session: str) -> None:
        """End a session."""
        with self._writing() as at:
            people.logout(at, session)

    def deactivate(self, reviewer: int) -> None:
        """End all sessions and invitations of a reviewer; what he said stays."""
        with self._writing() as at:
            people.deactivate(at, reviewer, self._now())

    def reviewers(self) -> list[Reviewer]:
        """All reviewers, in the order in which they came."""
        with self._reading() as at:
            return people.reviewers(at)

    # --- one item after the other -----------------------------------------------------------------

    def claim(
        self, audit: int, reviewer: int, *, number: int | None = None, lease: float = LEASE
    ) -> View | None:
        """The reviewer's open item, else the next one, leased to him; None where there is none.

        Never one that another holds, nor one that he had. A second call, from a second tab too,
        gives the same item. `number` asks for one item: None if it is not to be had.
        """
        with self._writing() as at:
            return claims.claim(at, audit, reviewer, number, self._now(), round(lease * 1000))

    def renew(self, audit: int, number: int, reviewer: int, *, lease: float = LEASE) -> bool:
        """Extend the lease; False if it has run out and the item is another's."""
        with self._writing() as at:
            return claims.renew(at, audit, number, reviewer, self._now(), round(lease * 1000))

    def look(self, audit: int, number: int, reviewer: int) -> View:
        """What this reviewer may see of an item, with his own answers; nothing is claimed."""
        with self._reading() as at:
            return claims.look(at, audit, number, reviewer)

    def decide(
        self, audit: int, number: int, reviewer: int, stage: str, verdict: str, *, nonce: str,
        active_ms: int = 0, text: str = "", ui: str = "", guideline: str = "",
    ) -> Recorded:  # fmt: skip
        """Answer the item's open question (records.VERDICTS; `defects` are joined by commas).

        The same nonce again gives the row that is there. So does another nonce for a question that
        is answered, as from a second tab (`already`). After the lease ran out and another took the
        item, the row is kept as `extra`. Questions after the reveal need one; `text` goes with
        `revision: edit`. `active_ms` is the time that the page was looked at, `guideline` the
        SHA-256 of the version that was at hand, if it was not the one that stands.
        """
        said = verdicts.Said(stage, verdict, nonce, active_ms, text, ui, guideline)
        with self._writing() as at:
            recorded = verdicts.decide(at, audit, number, reviewer, said, self._now())
        self._settle(audit)
        return recorded

    def skip(
        self, audit: int, number: int, reviewer: int, reason: str, *, nonce: str,
        active_ms: int = 0, ui: str = "", guideline: str = "",
    ) -> Recorded:  # fmt: skip
        """Leave the item, with a reason, to another reviewer; where there is none, to nobody."""
        said = verdicts.Said("", "skip", nonce, active_ms, reason, ui, guideline)
        with self._writing() as at:
            recorded = verdicts.skip(at, audit, number, reviewer, said, self._now())
        self._settle(audit)
        return recorded

    def undo(self, audit: int, reviewer: int, *, nonce: str, ui: str = "") -> View | None:
        """Take back the reviewer's last verdict or skip that is not revealed yet; a row says so.

        Returns the item, his again, with the question open; None where nothing can be undone.
        """
        with self._writing() as at:
            return verdicts.undo(at, audit, reviewer, nonce, ui, self._now(), round(LEASE * 1000))

    def note(self, audit: int, number: int, reviewer: int, text: str, *, nonce: str) -> Recorded:
        """Add a note to an item."""
        with self._writing() as at:
            return verdicts.remark(at, audit, number, reviewer, "note", text, nonce, self._now())

    def flag(self, audit: int, number: int, reviewer: int, on: bool, *, nonce: str) -> Recorded:
        """Flag an item, or take the flag away."""
        text = "on" if on else "off"
        with self._writing() as at:
            return verdicts.remark(at, audit, number, reviewer, "flag", text, nonce, self._now())

    def reveal(self, audit: int, number: int, reviewer: int, *, nonce: str = "") -> Reveal:
        """What the AI said, to one who has committed; the first time is recorded.

        Raises:
            AuditError: he has not answered every blind question, or the item's batch is not full.
        """
        with self._writing() as at:
            return reveals.reveal(at, audit, number, reviewer, nonce, self._now())

    def ready(self, audit: int, reviewer: int) -> list[int]:
        """Numbers that he has committed to and that `reveal` would show now for the first time."""
        with self._reading() as at:
            return reveals.ready(at, audit, reviewer)

    def change(
        self, audit: int, number: int, reviewer: int, stage: str, verdict: str, *, nonce: str,
        active_ms: int = 0, text: str = "", ui: str = "",
    ) -> Recorded:  # fmt: skip
        """Another mind after the reveal, as a new row; the gate keeps to the blind one."""
        said = verdicts.Said(stage, verdict, nonce, active_ms, text, ui)
        with self._writing() as at:
            return verdicts.change(at, audit, number, reviewer, said, self._now())

    def places(self, audit: int, reviewer: int) -> list[Place]:
        """The reviewer's items, in the order in which he took them."""
        with self._reading() as at:
            return reading.places(at, audit, reviewer)

    def neighbours(self, audit: int, number: int, reviewer: int) -> tuple[int | None, int | None]:
        """The reviewer's items before and after this one."""
        with self._reading() as at:
            return reading.neighbours(at, audit, number, reviewer)

    def alike(self, audit: int, number: int, reviewer: int, *, most: int = 5) -> list[Precedent]:
        """Items of the same stratum that he decided, the latest first; none before he commits."""
        with self._folded(audit) as (at, fold):
            return reading.alike(at, fold, number, reviewer, most)

    def progress(self, audit: int, reviewer: int) -> Progress:
        """How far the reviewer is, and how far it is to a decision."""
        with self._folded(audit) as (at, fold):
            return reading.progress(at, fold, reviewer)

    # --- the lead ---------------------------------------------------------------------------------

    def gate(self, audit: int) -> GateState:
        """Where the gate stands, and which principles people contradict; whoever is told that it is
        decided can rely on it."""
        self._settle(audit)  # a process that was killed may have left that undone
        with self._folded(audit) as (at, fold):
            return principles.told(fold, rulings.state(at, fold))

    @contextmanager
    def folded(self, audit: int) -> Iterator[Fold]:
        """All that was said in an audit, by item, as statistics read it; not to be changed.

        It stands still while the block lasts, and so do other pages of this process.
        """
        with self._folded(audit) as (_, fold):
            yield fold

    def items(self, audit: int) -> Iterator[tuple[int, Unit]]:
        """Every unit of an audit with its number, streamed; with what the AI said."""
        with self._reading() as at:
            yield from planned.units(at, audit)

    def item(self, audit: int, number: int) -> Item:
        """An item with all that the AI said of it: for leads, not for reviewers."""
        with self._reading() as at:
            return planned.item(at, audit, number)

    def decisions(self, audit: int, number: int | None = None) -> list[Decision]:
        """The rows of an audit, or of one of its items, in the order of writing."""
        with self._reading() as at:
            return reading.decisions(at, audit, number)

    def disputes(self, audit: int) -> list[Dispute]:
        """Items that wait for an adjudication."""
        with self._folded(audit) as (_, fold):
            return rulings.disputes(fold)

    def adjudicate(
        self, audit: int, number: int, lead: int, verdict: str, reason: str, *, nonce: str
    ) -> Adjudication:
        """A lead's final word on an item, in the item's own sides (a, b, tie, both_bad, cant).

        Raises:
            Refused: nobody disputes the item, it is a repeat, or the reviewer is no lead.
        """
        with self._folded(audit) as (_, fold), self._writing() as at:
            ruled = rulings.adjudicate(at, fold, number, lead, verdict, reason, nonce, self._now())
        self._settle(audit)
        return ruled

    def override(self, audit: int, lead: int, reason: str) -> GateState:
        """Let training begin although the gate did not pass, in a lead's name and for a reason."""
        with self._writing() as at:
            rulings.override(at, audit, lead, reason, self._now())
        return self.gate(audit)

    def record_export(self, audit: int, form: str, sha: str, rows: int) -> None:
        """Note that an audit was exported."""
        with self._writing() as at:
            planned.record_export(at, audit, form, sha, rows, self._now())

    def record_import(
        self, audit: int, rows: Iterable[verdicts.Imported], source: str
    ) -> tuple[int, int]:
        """Add verdicts that were made elsewhere; how many are new, and how many were there.

        They are kept with `blind` unknown, and the gate leaves them out.
        """
        with self._writing() as at:
            return verdicts.record_import(at, audit, rows, source, self._now())

    def head(self) -> str:
        """The hash of the last row: everything that was said, in one."""
        with self._reading() as at:
            return chain.head(at)[1]

    def verify(self, *, head: str | None = None) -> Verified:
        """Recheck every hash: the chain of what was said, the items and the plans; and who is who.

        `head` is a hash that was written down: the chain must still have it, so that rows cut off
        its end are missed, too.
        """
        with self._reading() as at:
            return chain.verify(at, head)

    # --- transactions -----------------------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self.database.reading() as at:
            yield at

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self.database.writing() as at:
            yield at

    @contextmanager
    def _folded(self, audit: int) -> Iterator[tuple[Connection, Fold]]:
        with self._reading() as at, self._folds.of(at, audit) as fold:
            yield at, fold

    def _settle(self, audit: int) -> None:
        """Write the gate's decision down, if it has just been reached."""
        with self._folded(audit) as (at, fold):
            if fold.settled or fold.gate().state == "open":
                return
            if not rulings.settled(at, audit):
                with self._writing() as writing:
                    rulings.settle(writing, fold, self._now())
            fold.settled = True

    def _now(self) -> int:
        return int(self._clock() * 1000)


def opened(where: str | Path, **how: Any) -> Ledger:
    """A ledger to keep for as long as the process lives, as a server does."""
    return Ledger(tables.Database(where), **how)
