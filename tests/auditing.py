"""Audits to review in tests: invented pairs and critiques, and a live server of their ledger."""

from __future__ import annotations

import http.client
import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import uvicorn

from rlaif.audit.app.serving import application
from rlaif.audit.ledger import Ledger, opened
from rlaif.audit.records import Arm, Item, Kind, Plan, Unit

GUIDELINE = "Judge by the principle alone.\n\nA tie is a verdict; 0 is for items nobody can judge."
PREFER = {"id": "respect", "text": "Which response treats the person with more respect?"}
CRITIQUE = {"id": "respect", "text": "Point out where the response insults the person."}
SECRET = "CANARY-rationale"


def text(rng: random.Random, sentences: int) -> str:
    """Some plain sentences."""
    who = ("The council", "A neighbour", "My aunt", "Your dentist", "The library", "A friend")
    does = ("will tell you", "has asked", "often forgets", "could explain", "knows by heart")
    what = ("when the bus leaves.", "how bread is made.", "where the key is.", "what to plant.")
    chosen = (" ".join(rng.choice(part) for part in (who, does, what)) for _ in range(sentences))
    return " ".join(chosen)


def pair(i: int, **payload: Any) -> Item:
    """The i-th pair, with the AI's label."""
    rng = random.Random(i)
    target = rng.choice((0.1371, 0.8629))
    asked = f"How do I get along with my neighbour, part {i}?"
    shown = {
        "messages": [{"role": "user", "content": asked}],
        "a": text(rng, 6), "b": text(rng, 5), "principles": [PREFER],
    }  # fmt: skip
    said = {
        "label": "a" if target > 0.5 else "b", "target": target, "spread": 0.0,
        "verdicts": [{"principle": "respect", "target": target, "orders": [target, target]}],
        "rationales": [{"principle": "respect", "text": f"{SECRET} {i}"}],
    }  # fmt: skip
    return Item(f"pair-{i:05d}", "preference", "respect", shown | payload, said)


def critique(i: int, **payload: Any) -> Item:
    """The i-th response with a critique and, mostly, a revision."""
    rng = random.Random(i)
    before = text(rng, 5)
    after = before.replace("forgets", "remembers").replace("My aunt", "Your aunt") + " Take care."
    shown = {
        "messages": [{"role": "user", "content": f"What should I plant, part {i}?"}],
        "a": before, "principles": [CRITIQUE],
    }  # fmt: skip
    fault = i % 4 != 3
    said = {"label": "revised" if fault else "no_fault", "critique": f"{SECRET} {i}"}
    said |= {"b": after if fault else None}
    return Item(f"round-{i:05d}", "critique", "respect", shown | payload, said)


def fill(
    ledger: Ledger, n: int = 60, *, kind: Kind = "preference", arm: Arm = "gate", frame: int = 1000,
    reviewers: int = 1, items: list[Item] | None = None, title: str = "",
    guideline: str = GUIDELINE, repeats: int = 0,
) -> int:  # fmt: skip
    """A new audit of n invented items, of which the first `repeats` come back; its id."""
    make = pair if kind == "preference" else critique
    items = items or [make(i) for i in range(n)]
    plan = Plan(
        kind, "f" * 64, frame, {item.stratum: frame for item in items}, 7, guideline=guideline,
        reviewers=reviewers, title=title, constitution="",
        design={"retest": repeats / len(items)},
    )  # fmt: skip
    units = [Unit(item, arm, i, len(items) / frame, reviewers) for i, item in enumerate(items)]
    units += [Unit(item, "retest", 21, 0.0, reviewers) for item in items[:repeats]]
    return ledger.create(plan, units)


class Client:
    """A browser without a screen: one session, and exact control over the headers."""

    def __init__(self, url: str, link: str = "") -> None:
        self.host = urlsplit(url).netloc
        self.headers = {"Host": self.host, "Origin": f"http://{self.host}"}
        if link:
            token = link.split("token=")[1]
            status, _, headers = self.ask("POST", "/login", {"token": token})
            assert status == 303
            self.headers["Cookie"] = headers["set-cookie"].split(";")[0]
            found = re.search('name="csrf" content="(.+?)"', self.get("/")[1])
            assert found
            self.headers |= {"X-CSRF-Token": found[1], "HX-Request": "true"}

    def ask(
        self, method: str, path: str, fields: dict[str, Any] | None = None, **headers: str | None
    ) -> tuple[int, str, dict[str, str]]:
        """Status, body and headers; `headers` (_ for -) replace the usual ones, None leaves out."""
        given = self.headers | {name.replace("_", "-"): value for name, value in headers.items()}
        body = urlencode(fields, doseq=True) if fields is not None else None
        given.setdefault("Content-Type", "application/x-www-form-urlencoded")
        with closing(http.client.HTTPConnection(self.host, timeout=30)) as connection:
            connection.putrequest(method, path, skip_host=True)
            for name, value in given.items():
                if value is not None:
                    connection.putheader(name, value)
            if body is not None and "Content-Length" not in given:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body.encode() if body is not None else None)
            with connection.getresponse() as answer:
                text = answer.read().decode()
        return answer.status, text, {k.lower(): v for k, v in answer.getheaders()}

    def get(self, path: str) -> tuple[int, str]:
        """A page."""
        return self.ask("GET", path)[:2]

    def post(self, path: str, **fields: Any) -> str:
        """A form that is accepted."""
        status, text, _ = self.ask("POST", path, fields)
        assert status == 200, (status, text)
        return text

    def judge(self, audit: int, page: str, verdict: str, **fields: Any) -> str:
        """Answer the question on a page; the page that follows."""
        number, stage, nonce = asked(page)
        url = f"/audits/{audit}/items/{number}/verdict"
        return self.post(url, **({"stage": stage, "nonce": nonce, "verdict": verdict} | fields))


def asked(page: str) -> tuple[int, str, str]:
    """Number, stage and nonce of the question on a page."""
    found = re.search(
        'data-item="(.+?)".*?name="nonce" value="(.+?)".*?"stage" value="(.+?)"', page, re.S
    )
    assert found, page
    return int(found[1]), found[3], found[2]


@dataclass
class Live:
    """A server that is up: its address, its ledger, and links to log in with."""

    url: str
    ledger: Ledger

    def link(self, name: str, role: Any = None) -> str:
        """A reviewer's one-time link."""
        return f"{self.url}/login?token={self.ledger.invite(name, role)}"

    def client(self, name: str = "Anna", role: Any = None) -> Client:
        """A reviewer who is logged in."""
        return Client(self.url, self.link(name, role))


@contextmanager
def live(folder: Path, *, port: int = 0, allow_host: tuple[str, ...] = ()) -> Iterator[Live]:
    """A server in a thread of its own, on a free port."""
    ledger = opened(folder / "ledger.db")
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        port = listening.getsockname()[1]
        app = application(ledger, port=port, allow_host=allow_host)
        config = uvicorn.Config(app, log_level="warning", lifespan="off", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield Live(f"http://127.0.0.1:{port}", ledger)
        finally:
            server.should_exit = True
            thread.join(10)
            ledger.database.close()
