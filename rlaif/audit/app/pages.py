"""The pages: templates, and what they say."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import jinja2
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from rlaif.audit.app.security import csrf
from rlaif.audit.app.shown import parts
from rlaif.audit.ledger import Ledger
from rlaif.audit.records import Audit, Guideline, Progress, Reviewer

HERE = Path(__file__).parent

SAID = {
    "left": "left is better", "right": "right is better", "tie": "equally good",
    "both_bad": "both bad", "cant": "can't judge", "skip": "skipped",
    "yes": "breaks the principle", "no": "keeps the principle", "unsure": "unsure",
    "correct": "critique correct", "partial": "critique partly correct",
    "wrong": "critique wrong", "missed_worse": "critique misses something worse",
    "accept": "revision accepted", "reject": "revision rejected", "edit": "revision edited",
}  # fmt: skip
"""Verdicts in words."""


class Templates:
    """The templates; a missing variable is an error, and everything is escaped."""

    def __init__(self) -> None:
        self.env = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self.env.filters["parts"] = parts
        files = sorted((HERE / "static").iterdir())
        self.version = hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:12]

    def render(self, name: str, **context: Any) -> str:
        given = {"me": None, "csrf": "", "partial": False, "progress": None, "audit": None}
        given |= {"said": "", "notice": "", "version": self.version}
        return self.env.get_template(f"{name}.html.j2").render(given | context)


LOGIN = "/login"


@dataclass
class Visit:
    """One request: who asks, what was sent with it, and how to answer."""

    request: Request
    ledger: Ledger
    templates: Templates
    me: Reviewer | None
    fields: Mapping[str, str]
    lists: Mapping[str, list[str]]

    @classmethod
    async def of(cls, request: Request) -> Visit:
        """The visit behind a request.

        Raises:
            HTTPException: it changes something, and does not carry the session's CSRF token, as all
                but a new log-in must.
        """
        state, app = request.state, request.app.state
        lists: dict[str, list[str]] = {}
        if request.method == "POST":
            body = (await request.body()).decode("utf-8", "replace")
            for name, value in parse_qsl(body, keep_blank_values=True, max_num_fields=100):
                lists.setdefault(name, []).append(value)
        fields = {name: values[-1] for name, values in lists.items()}
        if request.method == "POST" and state.me and request.url.path != LOGIN:
            given = request.headers.get("x-csrf-token") or fields.get("csrf", "")
            if not secrets.compare_digest(given.encode(), csrf(state.session).encode()):
                raise HTTPException(403, "This page is from an earlier session: reload it.")
        return cls(request, app.ledger, app.templates, state.me, fields, lists)

    @property
    def partial(self) -> bool:
        """Whether a page of ours asks, and wants to put the answer in place."""
        return self.request.headers.get("hx-request") == "true"

    @property
    def ui(self) -> str:
        return f"app-{self.templates.version}"

    @property
    def reviewer(self) -> Reviewer:
        """Whoever is logged in; the guard lets nobody else through."""
        if self.me is None:
            raise HTTPException(403, "You are not logged in: open your link again.")
        return self.me

    @cached_property
    def nonce(self) -> str:
        """The nonce that was sent, else a new one."""
        return self.fields.get("nonce", "")[:100] or secrets.token_hex(16)

    @property
    def active_ms(self) -> int:
        given = self.fields.get("active_ms", "")
        return min(int(given), 86_400_000) if given.isdecimal() and len(given) < 12 else 0

    def page(self, name: str, *, url: str = "", status: int = 200, **context: Any) -> Response:
        """A page; its content alone if a page of ours asks for it.

        After a form that was sent without JavaScript the browser is sent on to `url`.
        """
        if self.request.method == "POST" and url and not self.partial and status == 200:
            return RedirectResponse(url, 303)
        context |= {"me": self.me, "partial": self.partial, "url": url}
        context |= {"csrf": csrf(self.request.state.session) if self.me else ""}
        context |= {"reviewer": f"{self.ledger.name}-{self.me.id}" if self.me else ""}
        headers = {"X-Page-Url": url} if url else {}
        return HTMLResponse(self.templates.render(name, **context), status, headers)

    def message(self, title: str, *lines: str, status: int = 200, **context: Any) -> Response:
        """A page that says something."""
        given = {"title": title, "lines": lines, "again": None, "back": None}
        return self.page("message", status=status, **(given | context))


def titled(audit: Audit) -> dict[str, Any]:
    """An audit as templates name it."""
    kind = {"preference": "Preferences", "critique": "Critiques and revisions"}[audit.plan.kind]
    return {"id": audit.id, "title": audit.plan.title or kind, "kind": kind,
            "guideline": audit.guideline_sha}  # fmt: skip


def version(found: Guideline) -> dict[str, str]:
    """A version of a guideline as templates name it."""
    day = f"{datetime.fromtimestamp(found.created / 1000, UTC):%Y-%m-%d %H:%M} UTC"
    return {"sha": found.sha[:8], "by": found.by, "day": day, "text": found.text}


def forecast(progress: Progress) -> str:
    """What is left to do, in words."""
    if progress.state != "open":
        return "the gate has decided"
    if progress.left is None:
        return progress.waiting
    here = max(progress.target - progress.done, 0)
    if progress.left > here:
        return f"{here} left"
    items = f"about {progress.left} items"
    if progress.minutes is None:
        return f"{items} to a decision"
    return f"{items}, {max(round(progress.minutes), 1)} min to a decision"


def header(progress: Progress) -> dict[str, Any]:
    """The progress of a reviewer as the header shows it."""
    return {"done": progress.done, "target": progress.target, "said": forecast(progress)}
