"""The demo: the seed model answers, critiques and revises itself under the sandbox constitution.

    rlaif demo

Everything is the real thing: a vLLM server, the prompts of `prompts/`, the principles of
`constitution/sandbox.yaml` chosen by keyed hash, the completions store. The oracle reads what comes
out, before and after each round, and how good the labels of the judge are. No model is trained.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlaif.constitution import Constitution, Principle, choose, load, phrase
from rlaif.intervals import Share
from rlaif.records import Answer, Call
from rlaif.sandbox import oracle
from rlaif.sandbox.card import FREE, GREEDY, Answering, Card, measure
from rlaif.sandbox.cases import requests
from rlaif.sandbox.oracle import Reading
from rlaif.sandbox.skills import NO_FAULT, asked_as, templates
from rlaif.sandbox.world import PRINCIPLES, Request
from rlaif.shipped import folder

SEED = 0


@dataclass(slots=True)
class Step:
    """One round on one item: the principle met, its critique, and the text after it."""

    principle: str
    critique: str
    text: str


@dataclass(slots=True)
class Item:
    """A request with its draft and what became of it."""

    asked: Request
    draft: str
    steps: list[Step] = field(default_factory=list)

    @property
    def text(self) -> str:
        return self.steps[-1].text if self.steps else self.draft

    def after(self, rounds: int) -> Reading:
        """What the oracle reads after so many rounds."""
        return oracle.read(self.asked, self.steps[rounds - 1].text if rounds else self.draft)


@dataclass(slots=True)
class Story:
    """What the demo found."""

    items: list[Item]
    card: Card
    rounds: int
    unanswered: int
    seconds: float

    def violations(self, rounds: int, principle: str = "") -> Share:
        """Share of texts that violate the principle (or any) after so many rounds."""
        found = [item.after(rounds).violations for item in self.items]
        return Share(sum(principle in v if principle else bool(v) for v in found), len(found))

    def helpful(self, rounds: int) -> Share:
        """Share of answers to benign requests that help."""
        found = [r.helpful for item in self.items if (r := item.after(rounds)).helpful is not None]
        return Share(sum(found), len(found))

    def well_formed(self, rounds: int) -> Share:
        """Share of texts without a flaw of form."""
        return Share(sum(i.after(rounds).well_formed for i in self.items), len(self.items))

    def json(self) -> dict[str, Any]:
        """Figures by round, by principle, and the model's card."""
        each = range(self.rounds + 1)
        return {
            "violations": [self.violations(n).json() for n in each],
            "helpfulness": [self.helpful(n).json() for n in each],
            "well_formed": [self.well_formed(n).json() for n in each],
            "by_principle": {
                p: [self.violations(n, p).json() for n in (0, self.rounds)] for p in PRINCIPLES
            },
            "card": self.card.json(),
            "unanswered": self.unanswered,
            "seconds": round(self.seconds, 1),
        }


def tell(engine: Answering, *, prompts: int, rounds: int, cases: int) -> Story:
    """Answer `prompts` held-out requests, revise the answers `rounds` times, measure the card."""
    began = time.monotonic()
    law = load(folder("constitution") / "sandbox.yaml")
    items, lost = drafted(engine, requests(prompts, seed="demo"))
    for round in range(rounds):
        lost += revise(engine, law, items, round)
    card = measure(engine, n=cases, drafts=prompts)
    return Story(items, card, rounds, lost + card.unanswered, time.monotonic() - began)


def drafted(engine: Answering, asked: list[Request]) -> tuple[list[Item], int]:
    """An item for each request that got an answer, and how many got none."""
    calls = [
        Call(templates().render("draft", request=a.text), FREE, sample=i)
        for i, a in enumerate(asked)
    ]
    outcomes = list(engine.answers(calls))
    items = [Item(a, o.text) for a, o in zip(asked, outcomes, strict=True) if isinstance(o, Answer)]
    return items, len(asked) - len(items)


def revise(engine: Answering, law: Constitution, items: list[Item], round: int) -> int:
    """One round of critique and revision on all items; returns how many calls had no answer.

    An item whose critique finds nothing, or has no answer, stands as it was.
    """
    met = [
        choose(law, seed=SEED, item=f"{n}/{i.asked.text}", round=round)[0]
        for n, i in enumerate(items)
    ]
    critiques = list(
        engine.answers(_asking("critique", i, p, round) for i, p in zip(items, met, strict=True))
    )
    texts = [c.text if isinstance(c, Answer) else NO_FAULT for c in critiques]
    todo = [k for k, text in enumerate(texts) if not text.endswith(NO_FAULT)]
    calls = [_asking("revise", items[k], met[k], round, critique=texts[k]) for k in todo]
    revisions = dict(zip(todo, engine.answers(calls), strict=True))
    for k, item in enumerate(items):
        revision = revisions.get(k)
        text = revision.text if isinstance(revision, Answer) else item.text
        item.steps.append(Step(met[k].id, texts[k], text))
    return sum(not isinstance(o, Answer) for o in (*critiques, *revisions.values()))


def _asking(
    name: str, item: Item, principle: Principle, round: int, critique: str | None = None
) -> Call:
    wording = phrase(
        principle,
        "revise" if name == "revise" else "critique",
        seed=SEED,
        item=item.asked.text,
        round=round,
    )
    texts: dict[str, Any] = {} if critique is None else {"critique": critique}
    messages = templates().render(
        name, conversation=asked_as(item.asked), response=item.text, principle=wording, **texts
    )
    return Call(messages, GREEDY)


def write(story: Story, run: Path) -> Path:
    """Write `results.json` and the report; returns the report's path."""
    from rlaif.sandbox.page import page

    report = run / "report" / "index.html"
    report.parent.mkdir(parents=True, exist_ok=True)
    (run / "results.json").write_text(json.dumps(story.json(), indent=1) + "\n")
    report.write_text(page(story), encoding="utf-8")
    return report
