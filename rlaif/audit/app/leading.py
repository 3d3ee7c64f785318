"""What leads do: see what the audit has shown, settle disagreements, invite reviewers."""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.exceptions import HTTPException
from starlette.responses import Response

from rlaif.audit.app import plots
from rlaif.audit.app.pages import SAID, Visit, titled, version
from rlaif.audit.app.reviewing import Number
from rlaif.audit.errors import NotFound, Refused
from rlaif.audit.overview import Overview, overview
from rlaif.audit.records import Dispute
from rlaif.audit.scoring import question
from rlaif.audit.told import headline
from rlaif.intervals import Estimate

LEADS = ("lead", "admin")
STATES = {
    "open": "Open: the evidence decides neither way yet.",
    "pass": "Pass: people agree with the AI more often than the threshold asks.",
    "fail": "Fail: people agree with the AI less often than the threshold asks.",
    "inconclusive": "Inconclusive: all items are judged, and the evidence decides neither way.",
    "overridden": "Overridden: a lead lets training begin although the gate did not pass.",
}
FIGURES = {
    "weighted": "agreement with the AI, weighted",
    "decided_only": "agreement where both took a side",
    "humans": "agreement between people",
    "kappa": "Cohen's kappa",
    "alpha": "Krippendorff's alpha",
    "ac1": "Gwet's AC1",
    "humans_alpha": "Krippendorff's alpha between people",
    "unjudged": "not to be judged",
    "left_rate": "took the left side",
    "longer_rate": "took the longer one",
    "changed_rate": "changed their mind after the reveal",
    "consistent": "people say the same again",
    "drift": "first half against second, p",
    "violation_rate": "first answers that break their principle",
    "revision_win_rate": "revisions that are the better answer",
}
PLAIN = ("kappa", "alpha", "ac1", "humans_alpha", "drift")
"""Figures that are no shares."""

SIDES = {
    "preference": (("a", "first answer"), ("b", "second answer"), ("tie", "neither")),
    "critique": (("a", "no fault"), ("b", "a fault"), ("tie", "neither")),
}
"""What is counted against the AI's labels, in words."""


async def _lead(at: Annotated[Visit, Depends(Visit.of)]) -> Visit:
    """The visit of a lead; nobody else gets further.

    Raises:
        HTTPException: 403.
    """
    if at.reviewer.role not in LEADS:
        raise HTTPException(403, "This page is for leads.")
    return at


Lead = Annotated[Visit, Depends(_lead)]
router = APIRouter(prefix="/audits/{audit}")


@router.get("/lead")
def results(audit: Number, at: Lead) -> Response:
    """All that is known of an audit."""
    return _results(at, audit)


@router.get("/disputes/{number}")
def dispute(audit: Number, number: Number, at: Lead) -> Response:
    """An item on which reviewers differ, without their names and without the AI's label."""
    found = next((d for d in at.ledger.disputes(audit) if d.number == number), None)
    if found is None:
        raise NotFound(f"item {number} waits for no ruling", remedy="see the list of disagreements")
    return _dispute(at, audit, found)


@router.post("/disputes/{number}")
def rule(audit: Number, number: Number, at: Lead) -> Response:
    """A lead's final word on an item."""
    said, reason = at.fields.get("verdict", ""), at.fields.get("reason", "")
    stored = {"left": "ab"[_turned(audit, number)], "right": "ba"[_turned(audit, number)]}
    at.ledger.adjudicate(
        audit, number, at.reviewer.id, stored.get(said, said), reason, nonce=at.nonce
    )
    told = f"Item {number} is settled: {SAID.get(said, said)}."
    left = at.ledger.disputes(audit)
    return _dispute(at, audit, left[0], said=told) if left else _results(at, audit, said=told)


@router.get("/inspect/{number}")
def inspect(audit: Number, number: Number, at: Lead) -> Response:
    """An item whose reviews are complete, with what people and the AI said, without names.

    Raises:
        Refused: somebody, perhaps this lead, is still to judge it blind, or to rule on it.
    """
    item, me = at.ledger.item(audit, number), at.reviewer.id
    own = at.ledger.look(audit, number, me)
    if own.holding == "decided" and not (own.revealed or number in at.ledger.ready(audit, me)):
        raise Refused("your own reveal of this item is to come", remedy="judge its batch first")
    with at.ledger.folded(audit) as fold:
        unit = fold.units.get(number)
        if unit is None or not unit.complete(fold.audit.plan.reviewers):
            raise Refused("this item is still to be judged", remedy="look when it is reviewed")
        if unit.disputed:
            raise Refused("this item waits for a ruling", remedy="rule on it first, then look")
        verdicts = sorted(unit.verdict(review) for review in unit.counted)
        notes = list(unit.notes)
    sides = dict(SIDES[item.kind])
    said = {"revised": "found a fault, and revised", "no_fault": "found no fault"}
    words = said.get(item.label) or f"prefers the {sides[item.label]}"
    if item.label == "tie":
        words = "sees no difference"
    b = item.payload.get("b") or item.ai.get("b") or ""
    return at.page(
        "inspect", url=f"/audits/{audit}/inspect/{number}", audit=titled(at.ledger.audit(audit)),
        item={"number": number, "question": "", "principles": item.payload["principles"]},
        prompt=item.payload["messages"], texts=[item.payload["a"], *([b] if b else [])],
        verdicts=[SAID.get(v, sides.get(v, v)) for v in verdicts], notes=notes, words=words,
        target=item.ai.get("target"), critique=item.ai.get("critique"),
        rationales=item.ai.get("rationales", ()),
    )  # fmt: skip


@router.post("/override")
def override(audit: Number, at: Lead) -> Response:
    """Let training begin although the gate did not pass."""
    at.ledger.override(audit, at.reviewer.id, at.fields.get("reason", ""))
    return _results(at, audit, said="The gate is overridden, in your name.")


@router.post("/guideline")
def guideline(audit: Number, at: Lead) -> Response:
    """Another guideline, before the gate's first verdict."""
    text = at.fields.get("text", "").replace("\r\n", "\n")
    at.ledger.guideline(audit, text, at.reviewer.id)
    return _results(at, audit, said="The guideline is changed; reviewers are told.")


@router.post("/invite")
def invite(audit: Number, at: Lead) -> Response:
    """A one-time link for a reviewer, who is made, or made a lead, if need be; shown once."""
    name = at.fields.get("name", "").strip()
    role = "lead" if at.fields.get("role") == "lead" else None
    token = at.ledger.invite(name, role, by=at.reviewer.name)
    link = f"{at.request.url.scheme}://{at.request.headers['host']}/login?token={token}"
    return at.page("invited", audit=titled(at.ledger.audit(audit)), who=name, link=link, said="")


def _results(at: Visit, audit: int, **told: Any) -> Response:
    found = overview(at.ledger, audit)
    path, gate = found.path, found.gate
    evidence = plots.evidence([t for _, t, _ in path], [t for _, _, t in path], gate.alpha)
    return at.page(
        "lead", url=f"/audits/{audit}/lead", audit=titled(found.audit), plan=found.audit.plan,
        sizes=found.audit.sizes, gate=gate, state=STATES[gate.state], warnings=found.warnings,
        evidence=evidence if path else None, figures=_figures(found),
        principles=[_principle(row, gate.tau) for row in found.principles],
        reviewers=found.reviewers, cell=_cell,
        disputes=[_named(audit, dispute) for dispute in found.disputes], marked=found.marked,
        confusion=found.confusion, sides=SIDES[found.audit.plan.kind],
        alternative=found.alternative, nonce=at.nonce, headline=headline(gate),
        frozen=at.ledger.frozen(audit),
        versions=[version(one) for one in at.ledger.guidelines(audit)[::-1]], **told,
    )  # fmt: skip


def _figures(found: Overview) -> list[dict[str, str]]:
    return [
        {"name": FIGURES.get(name, name.replace("_", " ")), **_cell(figure, name not in PLAIN)}
        for name, figure in found.agreement.items()
    ]


def _cell(figure: Estimate, share: bool = True) -> dict[str, str]:
    """A figure in words: `value`, its interval `between`, or `why` there is none."""
    if figure.value is None:
        return {"value": "", "between": "", "why": figure.why}
    scale, digits, sign = (100, 0, "%") if share else (1, 2, "")
    between = ""
    if figure.low is not None and figure.high is not None:
        between = f"{scale * figure.low:.{digits}f} to {scale * figure.high:.{digits}f}{sign}"
    n = f"n = {figure.n:,}"
    return {
        "value": f"{scale * figure.value:.{digits}f}{sign}",
        "between": f"{between}, {n}" if between else n, "why": "",
    }  # fmt: skip


def _principle(row: Any, tau: float) -> dict[str, Any]:
    figure = row.agreement
    plot = None
    if figure.value is not None:
        plot = plots.interval(figure.value, figure.low, figure.high, tau)
    notes = []
    if row.quarantined:
        notes.append("quarantined: surely below 60%")
    if row.named:
        notes.append("contradicted more often than the others")
    if row.direction:
        notes.append(row.direction)
    edit = [(line[:1], line) for line in row.edit.splitlines()]
    return {"id": row.principle, "cell": _cell(figure), "plot": plot, "notes": notes,
            "exemplars": row.exemplars, "edit": edit}  # fmt: skip


# --- disagreements --------------------------------------------------------------------------------


def _dispute(at: Visit, audit: int, found: Dispute, **told: Any) -> Response:
    number, item = found.number, at.ledger.item(audit, found.number)
    a, b = item.payload["a"], item.payload.get("b") or item.ai.get("b") or ""
    left, right = (b, a) if _turned(audit, number) else (a, b)
    sided = question(item.kind, item.label) != "violated"
    shown = {"number": number, "principles": item.payload["principles"], "response": a,
             "prompt": item.payload["messages"], "left": left, "right": right}  # fmt: skip
    return at.page(
        "dispute", url=f"/audits/{audit}/disputes/{number}",
        audit=titled(at.ledger.audit(audit)), item=shown, sided=sided, marks=None,
        verdicts=_named(audit, found)["said"], notes=found.notes, nonce=at.nonce, **told,
    )  # fmt: skip


def _named(audit: int, found: Dispute) -> dict[str, Any]:
    """A disagreement in the words of the page."""
    sides = ("left", "right") if not _turned(audit, found.number) else ("right", "left")
    words = dict(zip("ab", sides, strict=True))
    said = [SAID.get(words.get(v, v), v) for v in found.verdicts]
    return {"number": found.number, "stratum": found.stratum, "said": said, "notes": found.notes,
            "url": f"/audits/{audit}/disputes/{found.number}"}  # fmt: skip


def _turned(audit: int, number: int) -> int:
    """Whether a lead sees the item's second side on the left; the same at every look."""
    return sha256(f"dispute/{audit}/{number}".encode()).digest()[0] & 1
