"""What a reviewer sees: an item as a question, an answered one, a batch, or that all is done."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.responses import Response

from rlaif.audit.app import plots
from rlaif.audit.app.pages import SAID, Visit, header, titled
from rlaif.audit.app.shown import changes, differing
from rlaif.audit.ledger import BATCH
from rlaif.audit.records import BLIND, Decision, Reveal, View

REASONS = (
    ("unclear", "I don't understand it"),
    ("expertise", "It needs an expert"),
    ("too_long", "Too long for now"),
    ("upsetting", "I'd rather not read this"),
    ("broken", "The item is broken"),
    ("other", "Something else"),
)
"""Why an item is skipped."""

ASKED = {
    "prefer": ("Compare two responses", "Which response is better by these principles?"),
    "violated": ("Read the response", "Does the response break the principle?"),
    "better": ("Compare two versions", "Which version keeps the principle better?"),
}
FREE = {
    "lapsed": "Your time for it ran out, so that it could go to somebody else.",
    "skipped": "You skipped it; undo takes that back.",
}
HOME = {"url": "/", "label": "All audits"}


# --- pages ----------------------------------------------------------------------------------------


def next_item(at: Visit, audit: int, **told: str) -> Response:
    """The reviewer's open item, else a new one, else that nothing is left."""
    view = at.ledger.claim(audit, at.reviewer.id)
    if view is not None:
        return show(at, audit, view.number, view=view, **told)
    ready = at.ledger.ready(audit, at.reviewer.id)
    lines = ["Every item is judged, or in work by somebody else. Thank you."]
    if at.ledger.progress(audit, at.reviewer.id).state != "open":
        lines = ["The gate has decided, and no more items are needed. Thank you."]
    label = {"url": f"/audits/{audit}/reveals", "label": "Show what the AI said"}
    return frame(
        at, audit, "message", title="Nothing left for you now", lines=lines,
        again=label if ready else None, back=HOME, **told,
    )  # fmt: skip


def show(at: Visit, audit: int, number: int, *, view: View | None = None, **told: str) -> Response:
    """An item as this reviewer may see it now."""
    view = view or at.ledger.look(audit, number, at.reviewer.id)
    if view.holding == "mine" and view.stage:
        marks = differing(view.left, view.right) if view.stage == "better" else None
        unread = at.ledger.unread(audit, at.reviewer.id)
        return _framed(
            at, view, "item", item=_asked(view), marks=marks, reasons=REASONS, unread=unread, **told
        )
    if view.holding != "decided":
        return _free(at, view, **told)
    return _revealed(at, view, **told) if view.revealed else _committed(at, view, **told)


def batch(at: Visit, audit: int, ready: list[int], **told: str) -> Response:
    """Items that are judged and may be revealed together."""
    return frame(
        at, audit, "batch", url=f"/audits/{audit}/reveals", hidden=True,
        batch=[row(at, audit, number, reveal=False) for number in ready],
        title=f"{len(ready)} judged: see what the AI said?",
        lead_in="Until you look, the last verdict can be taken back. Afterwards all of them stand.",
        **told,
    )  # fmt: skip


def row(at: Visit, audit: int, number: int, *, reveal: bool) -> dict[str, Any]:
    """A judged item as a row of a table."""
    me = at.reviewer.id
    view = at.ledger.look(audit, number, me)
    found = at.ledger.reveal(audit, number, me) if reveal else None
    return {
        "number": number, "url": item_url(audit, number),
        "principle": ", ".join(p["id"] for p in view.principles),
        "you": _joined(verdicts_of(at, view, "verdict")),
        "ai": SAID.get(found.label, found.label) if found else "",
        "agrees": agreement(found) if found else None,
    }  # fmt: skip


def _committed(at: Visit, view: View, **told: str) -> Response:
    can = view.number in at.ledger.ready(view.audit, at.reviewer.id)
    return _framed(
        at, view, "decided", item=_asked(view) | _answers(at, view), marks=None, can_reveal=can,
        reveal=None, alike=_alike(at, view),
        held_back="" if can else f"What the AI said is shown after {BATCH} items.", **told,
    )  # fmt: skip


def _revealed(at: Visit, view: View, **told: str) -> Response:
    me = at.reviewer.id
    found = at.ledger.reveal(view.audit, view.number, me)
    item, words = _asked(view) | _answers(at, view), _words(at, view, found)
    if found.stages:
        item |= {"critique": found.ai.get("critique") or "", "revision": found.revision}
        item["changes"] = changes(found.response, found.revision) if found.revision else None
        return _framed(at, view, "critique", item=item, reveal=words, **told)
    return _framed(
        at, view, "decided", item=item, marks=None, can_reveal=False, reveal=words, held_back="",
        alike=_alike(at, view), **told,
    )  # fmt: skip


def _alike(at: Visit, view: View) -> list[dict[str, Any]]:
    """Precedents: items under the same principle that he has decided."""
    return [
        {"number": p.number, "url": item_url(view.audit, p.number), "said": SAID.get(p.verdict, "")}
        for p in at.ledger.alike(view.audit, view.number, at.reviewer.id)
    ]


def _free(at: Visit, view: View, **told: str) -> Response:
    url = item_url(view.audit, view.number)
    return frame(
        at, view.audit, "message", url=url, title=f"Item {view.number} is not open here",
        lines=[FREE.get(view.holding, "You have not taken it yet.")],
        again={"url": f"{url}/take", "label": "Take it"}, back=HOME, **told,
    )  # fmt: skip


def frame(at: Visit, audit: int, name: str, *, url: str = "", **context: Any) -> Response:
    """A page within an audit, with the reviewer's progress."""
    given = {"before": None, "after": None, "undo_nonce": secrets.token_hex(16)}
    given |= {"audit": titled(at.ledger.audit(audit)), "url": url}
    given["progress"] = header(at.ledger.progress(audit, at.reviewer.id))
    return at.page(name, **(given | context))


def _framed(at: Visit, view: View, name: str, **context: Any) -> Response:
    """A page about one item."""
    near = at.ledger.neighbours(view.audit, view.number, at.reviewer.id)
    before, after = (n and item_url(view.audit, n) for n in near)
    nonce, url = view.nonce or secrets.token_hex(16), item_url(view.audit, view.number)
    return frame(at, view.audit, name, url=url, nonce=nonce, before=before, after=after, **context)


def item_url(audit: int, number: int) -> str:
    """Where an item is."""
    return f"/audits/{audit}/items/{number}"


# --- what they say --------------------------------------------------------------------------------


def _asked(view: View) -> dict[str, Any]:
    """A question as the templates show it; of an answered item, its first one."""
    stage = view.stage or BLIND[view.kind][0]
    over, question = ASKED[stage]
    if stage == "prefer" and len(view.principles) == 1:
        question = view.principles[0]["text"]
    return {
        "number": view.number, "stage": stage, "over": over, "question": question,
        "principles": view.principles, "prompt": view.messages, "response": view.response,
        "left": view.left, "right": view.right,
    }  # fmt: skip


def _answers(at: Visit, view: View) -> dict[str, str]:
    return {
        "verdict_said": _joined(verdicts_of(at, view, "verdict")),
        "changed": _joined(verdicts_of(at, view, "change")),
        "note": "; ".join(view.notes),
    }


def verdicts_of(at: Visit, view: View, act: str) -> list[Decision]:
    """The reviewer's verdicts (or changes) on an item that stand, one for each question."""
    rows = [d for d in at.ledger.decisions(view.audit, view.number) if d.reviewer == at.reviewer.id]
    undone = {row.supersedes for row in rows if row.act == "undo"}
    standing = [row for row in rows if row.act == act and row.seq not in undone]
    return list({row.stage: row for row in standing}.values())


def in_words(decision: Decision) -> str:
    """A stored verdict in the words of the one who gave it."""
    if decision.verdict not in ("a", "b"):
        return decision.verdict
    return "left" if decision.verdict == decision.left else "right"


def agreement(found: Reveal) -> bool | None:
    """Whether reviewer and AI agree; None for half, and where that is not defined."""
    return {1.0: True, 0.0: False}.get(found.agrees) if found.agrees is not None else None


def _joined(rows: Iterable[Decision]) -> str:
    words = [SAID.get(in_words(row), row.verdict.replace(",", ", ")) for row in rows if row.verdict]
    return "; ".join(words).replace("_", " ")


def _words(at: Visit, view: View, found: Reveal) -> dict[str, Any]:
    """What the AI said, in words and with its probability."""
    told = {"agrees": agreement(found), "scale": None, "lines": [], "rationales": []}
    if view.kind == "critique":
        fault = "found a fault, and revised" if found.label == "yes" else "found no fault"
        return told | {"said": f"The AI {fault}."}
    sides = {"left": "prefers the left response", "right": "prefers the right response"}
    own = verdicts_of(at, view, "verdict")
    target = found.ai.get("target")
    if target is not None:
        likely = target if own and own[0].left == "a" else 1 - target
        told["scale"] = plots.scale(likely)
    turned = [v for v in found.ai.get("verdicts", ()) if _contradicts(v)]
    told["lines"] = [
        f"By {v['principle']}, asked in the other order, it preferred the other response."
        for v in turned
    ]
    told["rationales"] = found.ai.get("rationales", ())
    return told | {"said": f"The AI {sides.get(found.label, 'sees no difference')}."}


def _contradicts(verdict: Mapping[str, Any]) -> bool:
    orders = verdict.get("orders") or ()
    return len(orders) == 2 and (orders[0] > 0.5) != (orders[1] > 0.5)
