"""The demo's report: one self-contained HTML page, light and dark."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from rlaif.intervals import Share
from rlaif.sandbox.card import missed
from rlaif.sandbox.cases import OWN, UNSEEN, WORLD
from rlaif.sandbox.skills import NO_FAULT
from rlaif.sandbox.world import PRINCIPLES

if TYPE_CHECKING:
    from rlaif.sandbox.demo import Item, Story

EXAMPLES = 12


def page(story: Story) -> str:
    """The report as HTML; every text of the model's is escaped."""
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters["percent"] = _percent
    tiers = [(t.name, story.card.figures(t.name)) for t in (WORLD, OWN, *UNSEEN)]
    changed = [i for i in story.items if any(not s.critique.endswith(NO_FAULT) for s in i.steps)]
    return env.get_template("page.html.j2").render(
        story=story,
        rounds=range(story.rounds + 1),
        principles=PRINCIPLES,
        tiers=tiers,
        missed=missed,
        examples=[(item, _changes(item)) for item in changed[:EXAMPLES]],
    )


def _percent(share: Share) -> str:
    return "none" if share.value is None else f"{100 * share.value:.1f}%"


def _changes(item: Item) -> list[tuple[str, str]]:
    """The draft and the last revision as runs of words: ("same" | "out" | "in", text)."""
    old, new = item.draft.split(), item.text.split()
    runs: list[tuple[str, str]] = []
    for op, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if op == "equal":
            runs.append(("same", " ".join(old[a:b])))
            continue
        if b > a:
            runs.append(("out", " ".join(old[a:b])))
        if d > c:
            runs.append(("in", " ".join(new[c:d])))
    return runs
