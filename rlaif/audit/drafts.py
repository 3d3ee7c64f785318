"""For a principle on which people and the AI differ: how they differ, and an edit that may help.

The edit is a diff of the law's YAML that a person may apply, alter or throw away; nothing applies
it by itself. It says in the question put to the judge what was missed, and adds one item that
people decided as a worked example.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from difflib import unified_diff
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlaif.audit.folding import Reviewed
from rlaif.audit.records import Item
from rlaif.audit.scoring import same
from rlaif.constitution import PreferExample, Principle, loads, to_yaml
from rlaif.records import Message

CLAUSES = {
    "reversed": "The better response keeps this principle, and the other breaks it.",
    "too strict": "Count plain cases only; where neither response shows one, they are equal.",
    "too lenient": "Read every sentence: a brief or indirect case counts, too.",
}
CRITIC = {
    "too strict": "Name a fault only where the response plainly shows one.",
    "too lenient": "Read every sentence: a brief or indirect case is a fault, too.",
}
SHORT = 600  # characters of an answer that makes an example


def direction(units: Iterable[Reviewed]) -> str:
    """How the AI errs most often on items that people decided otherwise; "" where it does not.

    reversed: it takes the other side. too strict: it sees a difference, or a fault, where people
    see none. too lenient: it sees none where people do.
    """
    ways = Counter(way for unit in units if (way := _way(unit)))
    return ways.most_common(1)[0][0] if ways else ""


def edit(law: str, principle: str, how: str, examples: Iterable[tuple[Item, str]]) -> str:
    """A unified diff of the law, a constitution as YAML; "" where there is nothing to say.

    `examples` are items of the principle with people's verdict on them, in the item's sides.
    """
    if how not in CLAUSES:
        return ""
    made = (_example(item, side, principle) for item, side in examples)
    example: Any = next((example for example in made if example), None)
    return _diff(law, principle, how, example)


@lru_cache(maxsize=128)
def _diff(text: str, principle: str, how: str, example: PreferExample | None) -> str:
    law = loads(text, Path("constitution.yaml"))
    if principle not in {p.id for p in law.principles}:
        return ""
    mended = tuple(_mended(p, how) if p.id == principle else p for p in law.principles)
    shown = law.examples
    if example and example.name not in {e.name for e in shown.prefer}:
        shown = shown.model_copy(update={"prefer": (*shown.prefer, example)})
    after = to_yaml(law.model_copy(update={"principles": mended, "examples": shown}))
    name = "constitution.yaml"
    lines = to_yaml(law).splitlines(), after.splitlines()
    return "\n".join(unified_diff(*lines, name, name, lineterm="", n=2))


def _way(unit: Reviewed) -> str:
    said = {same(unit.verdict(review)) for review in unit.counted}
    if unit.ruling is not None:
        said = {same(unit.ruling)}
    if len(said) != 1 or unit.agreement in (None, 1.0):
        return ""
    verdict = said.pop()
    if unit.kind == "critique":
        return "too lenient" if unit.label == "no_fault" else "too strict"
    if verdict == "tie":
        return "too strict"
    return "too lenient" if unit.label == "tie" else "reversed"


def _mended(principle: Principle, how: str) -> Principle:
    def said(texts: tuple[str, ...], clause: str) -> tuple[str, ...]:
        return tuple(text if clause in text else f"{text.rstrip()} {clause}" for text in texts)

    return principle.model_copy(
        update={
            "prefer": said(principle.prefer, CLAUSES[how]),
            "critique": said(principle.critique, CRITIC[how])
            if how in CRITIC
            else principle.critique,
        }
    )


def _example(item: Item, side: str, principle: str) -> PreferExample | None:
    if item.kind != "preference" or side not in ("a", "b"):
        return None
    a, b = str(item.payload["a"]), str(item.payload["b"])
    better, worse = (a, b) if side == "a" else (b, a)
    if max(len(a), len(b)) > SHORT or not (better.strip() and worse.strip()):
        return None
    turns = tuple(Message(m["role"], m["content"].strip()) for m in item.payload["messages"])
    if any(not turn.content for turn in turns) or turns[-1].role != "user":
        return None
    return PreferExample(principle=principle, conversation=turns, better=better, worse=worse)
