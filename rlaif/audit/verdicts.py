"""What reviewers say, as rows that are only ever added."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select, update

from rlaif.audit import chain, claims, guidelines, people, tables
from rlaif.audit.errors import AuditError, NotAnswered, NotYours, Refused
from rlaif.audit.holding import Held, held, to_decision
from rlaif.audit.records import BLIND, VERDICTS, Decision, Recorded, View
from rlaif.audit.scoring import turned

s, d, u = tables.slot.c, tables.decision.c, tables.unit.c
back = tables.decision.alias("back").c
LONGEST = 100_000  # characters of a note or an edited revision
SIDED = ("prefer", "better")


@dataclass(frozen=True, slots=True)
class Said:
    """One act of a reviewer, as it came in."""

    stage: str
    verdict: str
    nonce: str
    active_ms: int = 0
    text: str = ""
    ui: str = ""
    guideline: str = ""
    """The SHA-256 of the version that was at hand; "" for the one that stands."""


@dataclass(frozen=True, slots=True)
class Imported:
    """A verdict made elsewhere, in the item's own sides; `nonce` is the same at every import."""

    number: int
    reviewer: str
    stage: str
    verdict: str
    nonce: str
    text: str = ""


def decide(
    at: Connection, audit: int, number: int, reviewer: int, said: Said, now: int
) -> Recorded:
    """Answer the item's open question."""
    own, there = _had(at, audit, number, reviewer, said)
    if there:
        return there
    _check(own, said)
    if said.stage not in own.blind:
        return _after_reveal(at, own, said, now)
    if said.stage in own.answered:
        return Recorded(own.answered[said.stage], already=True)
    if said.stage != own.stage:
        raise NotAnswered(f"`{own.stage}` comes before `{said.stage}`")
    assert own.slot is not None
    if own.slot.state == "skipped":
        raise Refused("this item was skipped", remedy="undo that first")
    counts = claims.retaken(at, own)
    row = _add(at, own, "verdict", said, now, extra=not counts)
    if counts and own.blind[-1] == said.stage:
        done = update(tables.slot).where(s.id == own.slot.id)
        at.execute(done.values(state="decided", taken=row.seq))
    return Recorded(row, extra=not counts)


def skip(at: Connection, audit: int, number: int, reviewer: int, said: Said, now: int) -> Recorded:
    """Leave an item; offer it to another, where another is expected."""
    own, there = _had(at, audit, number, reviewer, said)
    if there:
        return there
    if not said.text.strip():
        raise Refused("a skip needs a reason", remedy="say why the item can't be judged")
    skipped = [row for row in own.standing if row.act == "skip" and not row.extra]
    if skipped:
        return Recorded(skipped[-1], already=True)
    assert own.slot is not None
    if own.slot.state == "decided":
        raise Refused("this item is decided", remedy="undo that first")
    counts = claims.retaken(at, own)
    row = _add(at, own, "skip", said, now, extra=not counts)
    if counts:
        at.execute(update(tables.slot).where(s.id == own.slot.id).values(state="skipped"))
        states = at.execute(select(s.state).where(s.unit == own.unit.id)).scalars().all()
        expected = at.execute(
            select(tables.audit.c.reviewers).where(tables.audit.c.id == audit)
        ).scalar_one()
        if sum(state in (*claims.TAKEN, "open") for state in states) < expected:
            claims.replace(at, own.unit.id)
    return Recorded(row, extra=not counts)


def undo(
    at: Connection, audit: int, reviewer: int, nonce: str, ui: str, now: int, lease: int
) -> View | None:
    """Take back the last verdict or skip, unless the item is revealed, ruled on, or has counted
    for a gate that is decided."""
    people.one(at, reviewer)
    if found := at.execute(select(tables.decision).where(d.nonce == nonce)).first():
        return held(at, audit, found.number, reviewer).view() if found.act == "undo" else None
    last = _last(at, audit, reviewer)
    if last is None:
        return None
    own = held(at, audit, last.number, reviewer)
    if own.revealed or own.slot is None or own.slot.state == "lapsed" or _ruled(at, own):
        return None
    if last.act == "skip" and own.slot.state == "skipped":
        claims.retract(at, own)
    _add(at, own, "undo", Said(last.stage, "", nonce, ui=ui), now, supersedes=last.seq)
    change = update(tables.slot).where(s.id == own.slot.id)
    turn = own.slot.turn + 1
    at.execute(change.values(state="claimed", lease=now + lease, turn=turn, taken=0))
    return held(at, audit, last.number, reviewer).view()


def remark(
    at: Connection, audit: int, number: int, reviewer: int, act: str, text: str, nonce: str,
    now: int,
) -> Recorded:  # fmt: skip
    """A note or a flag."""
    people.one(at, reviewer)
    own, said = held(at, audit, number, reviewer), Said("", "", nonce, text=text)
    if there := _there(at, own, said):
        return there
    _short(text)
    return Recorded(_add(at, own, act, said, now))


def change(
    at: Connection, audit: int, number: int, reviewer: int, said: Said, now: int
) -> Recorded:
    """Another answer to a blind question, after the reveal."""
    own, there = _had(at, audit, number, reviewer, said)
    if there:
        return there
    _check(own, said)
    if not own.revealed or said.stage not in own.answered:
        raise NotAnswered("a mind is changed after the reveal", remedy="undo, or reveal first")
    before = own.answered[said.stage]
    return Recorded(_add(at, own, "change", said, now, supersedes=before.seq, blind="no"))


def record_reveal(at: Connection, own: Held, nonce: str, now: int) -> None:
    """Note that the reviewer has seen what the AI said."""
    said = Said("", "", nonce)
    if not _there(at, own, said):
        _add(at, own, "reveal", said, now)


def record_import(
    at: Connection, audit: int, rows: Iterable[Imported], source: str, now: int
) -> tuple[int, int]:
    """Verdicts from elsewhere; (new, there already)."""
    people_known = {r.name: r.id for r in people.reviewers(at)}
    new = there = 0
    for row in rows:
        before = at.execute(select(d.verdict).where(d.nonce == row.nonce)).scalar()
        if before not in (None, row.verdict):
            what = f"item {row.number}: {row.reviewer} said {before!r} in an earlier import"
            remedy = "the ledger only adds: name another source, and the later import counts"
            raise AuditError(f"{what} from {source}, not {row.verdict!r}", remedy=remedy)
        if before is not None:
            there += 1
            continue
        if row.reviewer not in people_known:
            people_known[row.reviewer] = people.add(at, row.reviewer, "reviewer", now)[0].id
        own = held(at, audit, row.number, people_known[row.reviewer])
        said = Said(row.stage, row.verdict, row.nonce, text=row.text)
        if row.stage not in own.blind or row.verdict not in answers(row.stage):
            what = f"item {row.number}: {row.verdict!r} is no answer to {row.stage!r}"
            asked = "; ".join(f"{stage}: {', '.join(answers(stage))}" for stage in own.blind)
            raise AuditError(what, remedy=f"it asks for {asked}")
        _add(at, own, "verdict", said, now, blind="unknown", source=source, as_it_is=True)
        new += 1
    return new, there


def answers(stage: str) -> tuple[str, ...]:
    """What a question may be answered with, in the item's own sides."""
    return ("a", "b", "tie", "both_bad", "cant") if stage in SIDED else VERDICTS[stage]


def _had(
    at: Connection, audit: int, number: int, reviewer: int, said: Said
) -> tuple[Held, Recorded | None]:
    """An item that he has or had, and what an earlier delivery of the same act left."""
    people.one(at, reviewer)
    own = held(at, audit, number, reviewer)
    if own.slot is None:
        raise NotYours(f"item {number} was never yours", remedy="claim it first")
    return own, _there(at, own, said)


def _there(at: Connection, own: Held, said: Said) -> Recorded | None:
    """The row that an earlier delivery of the same act left."""
    if not 0 < len(said.nonce) <= 200:
        raise AuditError("an act needs a nonce of 1 to 200 characters")
    row = at.execute(select(tables.decision).where(d.nonce == said.nonce)).first()
    if row is None:
        return None
    if (row.unit, row.reviewer) != (own.unit.id, own.reviewer):
        raise Refused("this nonce was used for another item", remedy="load the page anew")
    return Recorded(to_decision(row), already=True, extra=bool(row.extra))


def _check(own: Held, said: Said) -> None:
    stages = [*BLIND[own.unit.kind]]
    if own.unit.kind == "critique":
        stages += ["critique", "defects", "revision"]
    if said.stage not in stages:
        raise AuditError(f"{own.unit.kind} items have no question {said.stage!r}")
    given = said.verdict.split(",") if said.stage == "defects" else [said.verdict]
    allowed = VERDICTS[said.stage] + (("",) if said.stage == "defects" else ())
    if wrong := [one for one in given if one not in allowed]:
        remedy = f"one of {', '.join(VERDICTS[said.stage])}"
        raise AuditError(f"{wrong[0]!r} is no answer to {said.stage!r}", remedy=remedy)
    _short(said.text)


def _short(text: str) -> None:
    if len(text) > LONGEST:
        raise Refused(f"a text of {len(text):,} characters is too long", remedy=f"≤ {LONGEST:,}")


def _after_reveal(at: Connection, own: Held, said: Said, now: int) -> Recorded:
    if not own.revealed:
        raise NotAnswered(f"`{said.stage}` is asked after the reveal", remedy="reveal first")
    before = own.answered.get(said.stage)
    if before and (before.verdict, before.text) == (said.verdict, _clean(said.text)):
        return Recorded(before, already=True)
    supersedes = before.seq if before else None
    return Recorded(_add(at, own, "verdict", said, now, supersedes=supersedes, blind="no"))


def _last(at: Connection, audit: int, reviewer: int) -> Decision | None:
    """The reviewer's latest blind verdict or skip that stands and counts."""
    undone = select(back.seq).where(
        back.supersedes == d.seq,
        back.act == "undo",
        back.reviewer == reviewer,
        back.audit == audit,
    )
    query = select(tables.decision).where(
        d.reviewer == reviewer, d.audit == audit, d.act.in_(("verdict", "skip")), d.extra == 0,
        d.blind == "yes", ~undone.exists(),
    )  # fmt: skip
    row = at.execute(query.order_by(d.seq.desc()).limit(1)).first()
    return to_decision(row) if row else None


def _ruled(at: Connection, own: Held) -> bool:
    """Whether something has been built on what was said of the item."""
    j, g = tables.adjudication.c, tables.gate_event.c
    if at.execute(select(j.seq).where(j.audit == own.unit.audit, j.unit == own.unit.id)).first():
        return True
    decided = select(func.count()).where(
        g.audit == own.unit.audit, g.state.in_(("pass", "fail", "inconclusive"))
    )
    return own.unit.arm == "gate" and bool(at.execute(decided).scalar())


def _add(
    at: Connection, own: Held, act: str, said: Said, now: int, *, extra: bool = False,
    supersedes: int | None = None, blind: str = "yes", source: str = "", as_it_is: bool = False,
) -> Decision:  # fmt: skip
    a = tables.audit.c
    shas = select(a.guideline_sha, a.constitution_sha).where(a.id == own.unit.audit)
    guideline, constitution = at.execute(shas).one()
    if said.guideline not in ("", guideline):
        known = {version.sha for version in guidelines.versions(at, own.unit.audit)}
        guideline = said.guideline if said.guideline in known else guideline
    sided = said.stage in SIDED and not as_it_is
    row: dict[str, Any] = {
        "audit": own.unit.audit, "number": own.unit.number, "unit": own.unit.id,
        "slot": own.slot.id if own.slot is not None else 0, "reviewer": own.reviewer, "act": act,
        "stage": said.stage,
        "verdict": turned(said.verdict, own.left) if sided else said.verdict,
        "left": "" if as_it_is else own.left, "text": _clean(said.text), "supersedes": supersedes,
        "nonce": said.nonce, "active_ms": max(0, min(int(said.active_ms), 86_400_000)),
        "extra": int(extra), "blind": blind, "source": source, "guideline_sha": guideline,
        "constitution_sha": constitution, "ui": said.ui[:100], "created": now,
    }  # fmt: skip
    seq = chain.append(at, "decision", row)
    return to_decision(at.execute(select(tables.decision).where(d.seq == seq)).one())


def _clean(text: str) -> str:
    """A text as every database keeps it: without NUL and lone surrogates."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
