"""What reviewers do: take an item, judge it blind, see later what the AI said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, Path
from starlette.responses import RedirectResponse, Response

from rlaif.audit.app import showing
from rlaif.audit.app.pages import SAID, Visit, header, titled, version
from rlaif.audit.app.shown import differing, worded
from rlaif.audit.errors import NotAnswered
from rlaif.audit.ledger import BATCH
from rlaif.audit.records import BLIND, Recorded

router = APIRouter(prefix="/audits/{audit}")
At = Annotated[Visit, Depends(Visit.of)]
ARMS = {
    "calibration": "to warm up",
    "gate": "for the gate",
    "coverage": "for single principles",
    "targeted": "picked because they are doubtful",
}
TERMS = {
    "preference": (
        ("12", "Left, right", "It keeps the principle better, even if only a little."),
        ("3", "Equally good", "Both keep it equally well, or it has nothing to say here."),
        ("4", "Both bad", "Both break it, and neither less than the other. It counts as a tie."),
        ("0", "Can't judge", "Nobody could say, from what is shown. A lead decides."),
        ("s", "Skip", "You can't or won't; somebody else may."),
    ),
    "critique": (
        ("yn", "Breaks it", "By the principle shown alone, whatever else is wrong."),
        ("u", "Unsure", "It hangs on something that is not shown."),
        ("12", "Left, right", "It keeps the principle better and still answers what was asked."),
        ("34", "Equally good, both bad", "Neither is better. Both count as a tie."),
        ("0", "Can't judge", "Nobody could say, from what is shown. A lead decides."),
        ("s", "Skip", "You can't or won't; somebody else may."),
    ),
}
"""Keys, verdicts, and when each is right."""

Number = Annotated[int, Path(ge=1, le=2**53)]

# --- from item to item ----------------------------------------------------------------------------


@router.post("/next")
def following(audit: Number, at: At) -> Response:
    """The reviewer's open item, or the next one."""
    return showing.next_item(at, audit)


@router.get("/items/{number}")
def item(audit: Number, number: Number, at: At) -> Response:
    """One item: as a question, or as the reviewer answered it."""
    return showing.show(at, audit, number)


@router.post("/items/{number}/take")
def take(audit: Number, number: Number, at: At) -> Response:
    """Claim this very item."""
    view = at.ledger.claim(audit, at.reviewer.id, number=number)
    if view is None or view.number != number:
        note = "This item is somebody else's, or you have another one open."
        return showing.next_item(at, audit, notice=note)
    return showing.show(at, audit, number, view=view)


@router.get("/items/{number}/sides")
def sides(audit: Number, number: Number, at: At, marks: bool = False) -> Response:
    """The two responses, with or without marks where they differ; the same marks on both."""
    view = at.ledger.look(audit, number, at.reviewer.id)
    marked = differing(view.left, view.right) if marks else None
    return at.page("sides", item=view, marks=marked)


@router.post("/items/{number}/renew")
def renew(audit: Number, number: Number, at: At) -> Response:
    """Keep the item for another while."""
    kept = at.ledger.renew(audit, number, at.reviewer.id)
    return Response(status_code=204 if kept else 409)


@router.get("/guideline")
def guideline(audit: Number, at: At) -> Response:
    """The guideline, what the verdicts mean and the principles, for the panel at the side."""
    plan, versions = at.ledger.audit(audit).plan, at.ledger.guidelines(audit)
    return at.page(
        "guideline", guideline=plan.guideline or "There is no guideline yet.",
        terms=TERMS[plan.kind], law=worded(plan.constitution, plan.kind, tuple(plan.strata)),
        versions=[version(one) for one in versions[::-1]], frozen=at.ledger.frozen(audit),
    )  # fmt: skip


# --- verdicts -------------------------------------------------------------------------------------


@router.post("/items/{number}/verdict")
def verdict(audit: Number, number: Number, at: At) -> Response:
    """Store a verdict, a note and a flag; then what comes next."""
    stage, said = at.fields.get("stage", ""), at.fields.get("verdict", "")
    recorded = _review(at, audit, number) if stage == "critique" else None
    if recorded is None:
        recorded = _decide(at, audit, number, stage, said, at.nonce)
    _remark(at, audit, number)
    return _after(at, audit, number, recorded, said)


@router.post("/items/{number}/skip")
def skip(audit: Number, number: Number, at: At) -> Response:
    """Leave the item to somebody else."""
    reason = dict(showing.REASONS).get(at.fields.get("reason", ""), showing.REASONS[-1][1])
    words = at.fields.get("note", "").strip()
    reason = f"{reason}: {words}" if words else reason
    at.ledger.skip(
        audit, number, at.reviewer.id, reason, nonce=at.nonce, active_ms=at.active_ms, ui=at.ui,
        guideline=at.fields.get("guideline", ""),
    )  # fmt: skip
    return showing.next_item(at, audit, said="Skipped. z takes it back.")


@router.post("/undo")
def undo(audit: Number, at: At) -> Response:
    """Take back the last verdict that is not revealed yet."""
    view = at.ledger.undo(audit, at.reviewer.id, nonce=at.nonce, ui=at.ui)
    if view is None:
        return showing.next_item(at, audit, notice="There is nothing to take back.")
    return showing.show(at, audit, view.number, view=view, said="Taken back: judge it anew.")


@router.post("/items/{number}/change")
def change(audit: Number, number: Number, at: At) -> Response:
    """Another mind after the reveal; the first verdict stays, and counts."""
    stage, said = at.fields.get("stage", ""), at.fields.get("verdict", "")
    at.ledger.change(
        audit, number, at.reviewer.id, stage, said, nonce=at.nonce, active_ms=at.active_ms, ui=at.ui
    )
    return showing.show(at, audit, number, said=f"Noted: {SAID.get(said, said)}.")


def _decide(at: Visit, audit: int, number: int, stage: str, said: str, nonce: str) -> Recorded:
    text = at.fields.get("edited", "") if said == "edit" else ""
    return at.ledger.decide(
        audit, number, at.reviewer.id, stage, said,
        nonce=nonce, active_ms=at.active_ms, text=text, ui=at.ui,
        guideline=at.fields.get("guideline", ""),
    )  # fmt: skip


def _review(at: Visit, audit: int, number: int) -> Recorded:
    """The questions after the reveal, which one form answers together."""
    said = {"critique": at.fields.get("critique", "")}
    if at.fields.get("verdict") != "done":  # there is a revision
        said["defects"] = ",".join(at.lists.get("defects", []))
        said["revision"] = at.fields.get("verdict", "")
    rows = [
        _decide(at, audit, number, stage, verdict, f"{at.nonce}-{stage}")
        for stage, verdict in said.items()
    ]
    return rows[-1]


def _remark(at: Visit, audit: int, number: int) -> None:
    note, me = at.fields.get("note", "").strip(), at.reviewer.id
    if note:
        at.ledger.note(audit, number, me, note, nonce=f"{at.nonce}-note")
    if at.fields.get("flag"):
        at.ledger.flag(audit, number, me, True, nonce=f"{at.nonce}-flag")


def _after(at: Visit, audit: int, number: int, recorded: Recorded, said: str) -> Response:
    """What follows a verdict: the item's next question, its reveal, a batch's, or the next item."""
    view = at.ledger.look(audit, number, at.reviewer.id)
    stored = showing.in_words(recorded.decision)
    if recorded.already and stored != said and said in SAID:
        notice = f"You had judged this already: {SAID.get(stored, stored)}. That verdict stays."
        return showing.show(at, audit, number, view=view, notice=notice)
    back = "" if view.revealed else " z takes it back."
    told = f"Saved: {SAID.get(said, said)}.{back}"
    if recorded.extra:
        told = "Saved, as an extra: the item had gone to somebody else meanwhile."
    if view.stage in BLIND[view.kind]:
        return showing.show(at, audit, number, view=view, said=told)
    ready = at.ledger.ready(audit, at.reviewer.id)
    if number not in ready:
        return showing.next_item(at, audit, said=told)
    if len(ready) > BATCH // 2 and not at.ledger.progress(audit, at.reviewer.id).batch:
        return showing.batch(at, audit, ready, said=told)
    return showing.show(at, audit, number, view=view, said=told)


# --- reveals --------------------------------------------------------------------------------------


@router.post("/items/{number}/reveal")
def reveal(audit: Number, number: Number, at: At) -> Response:
    """Show what the AI said; from now on the verdict stands."""
    try:
        at.ledger.reveal(audit, number, at.reviewer.id)
    except NotAnswered as error:
        return showing.show(at, audit, number, notice=error.what)
    return showing.show(at, audit, number)


@router.get("/reveals")
def reveals(audit: Number, at: At) -> Response:
    """The batch that may be revealed."""
    ready = at.ledger.ready(audit, at.reviewer.id)
    return showing.batch(at, audit, ready) if ready else RedirectResponse("/", 303)


@router.post("/reveals")
def reveal_all(audit: Number, at: At) -> Response:
    """Reveal a full batch."""
    ready = at.ledger.ready(audit, at.reviewer.id)
    if not ready:
        return showing.next_item(at, audit, notice="They are revealed: k leads back to them.")
    rows = [showing.row(at, audit, number, reveal=True) for number in ready]
    agreed = sum(row["agrees"] is True for row in rows)
    title = f"You and the AI agree on {agreed} of {len(rows)}"
    words = "Open one to read its reasons, or to change your mind."
    return showing.frame(at, audit, "batch", batch=rows, title=title, lead_in=words, hidden=False)


# --- coming and going -----------------------------------------------------------------------------


def home(at: At) -> Response:
    """All audits, with what is left to do."""
    rows = [
        titled(audit) | {
            "about": _about(audit.sizes),
            "progress": header(at.ledger.progress(audit.id, at.reviewer.id)),
        }
        for audit in at.ledger.audits()
    ]  # fmt: skip
    return at.page("home", audits=rows[::-1])


def _about(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{sizes[arm]} {words}" for arm, words in ARMS.items() if sizes.get(arm))


def log_out(at: At) -> Response:
    """End the session."""
    at.ledger.logout(at.request.state.session)
    return RedirectResponse("/login", 303)
