"""Examples for the page: the first of each kind in the data, good and bad, with word diffs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

from rlaif.jsonl import rows
from rlaif.records import Chain, Message, Sampled, Step

LONGEST = 1500  # characters of a text that the page shows
CHANCE = 3
LOOKED_AT = 5000  # rows that examples are chosen from
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

Runs = list[tuple[str, str]]
"""Runs of words: ("same" | "out" | "in", text)."""


@dataclass(frozen=True)
class Compared:
    """The start model's and the trained model's answer to one held-out prompt."""

    prompt: tuple[Message, ...]
    before: str
    after: str
    changes: Runs
    faults_before: tuple[str, ...]
    faults_after: tuple[str, ...]
    kind: str


@dataclass(frozen=True)
class Revised:
    """A draft, what each round made of it, and the words that changed in all."""

    prompt: tuple[Message, ...]
    id: str
    changes: Runs
    steps: tuple[tuple[Step, Runs], ...]


KINDS = {"fixed": 4, "still at fault": 2, "newly at fault": 2, "no fault in either": 1}
"""How many of each kind are shown; the first ones, so that nobody picks."""


def compared(samples: Path, trained: str) -> list[Compared]:
    """Some prompts with both answers, by kind."""
    left, found = dict(KINDS), []
    for _, group in groupby(islice(rows(samples, Sampled), LOOKED_AT), lambda s: s.prompt.id):
        first: dict[str, Sampled] = {}
        for sampled in group:
            first.setdefault(sampled.model, sampled)
        before, after = first.get("seed"), first.get(trained)
        if not (before and after and _read(before) and _read(after)):
            continue
        kind = _kind(faults(before), faults(after))
        if left[kind]:
            left[kind] -= 1
            found.append(_compared(before, after, kind))
        if not any(left.values()):
            break
    order = list(KINDS)
    return sorted(found, key=lambda example: order.index(example.kind))


def revised(chains: Path, n: int = 4) -> list[Revised]:
    """The first drafts that a revision changed; of those, the first `n`."""
    found = []
    for chain in islice(rows(chains, Chain), LOOKED_AT):
        if not chain.unanswered and chain.final != chain.draft:
            found.append(_revised(chain))
        if len(found) == n:
            break
    return found


def _read(sampled: Sampled) -> bool:
    """Whether the oracle, or the judge under every principle, said what is at fault."""
    return bool(sampled.truth or (sampled.violates and not sampled.unread))


def faults(sampled: Sampled) -> tuple[str, ...]:
    """The principles that an answer violates: by the oracle if it spoke, else by the judge."""
    if sampled.truth:
        return tuple(sampled.truth.get("violations", ()))
    return tuple(sorted(id for id, p in sampled.violates.items() if p > 0.5))


def word_diff(before: str, after: str) -> Runs:
    """What stayed, what went and what came, word by word, white space as it was.

    Fewer than three words in a row between two changes stayed by chance: they count as changed.
    """
    old, new = _words(before), _words(after)
    bare = [[word.strip() for word in words] for words in (old, new)]
    runs: Runs = []
    out, into = [], []
    blocks = difflib.SequenceMatcher(None, *bare, autojunk=False).get_matching_blocks()
    at, to = 0, 0
    for a, b, n in blocks:
        out, into = out + old[at:a], into + new[to:b]
        at, to = a + n, b + n
        if n < CHANCE and (out or into) and (at < len(old) or to < len(new)):
            out, into = out + old[a:at], into + new[b:to]
            continue
        runs += _changed(out, into)
        out, into = [], []
        runs += [("same", "".join(new[b:to]))] if n else []
    return runs + _changed(out, into)


def shown(text: str) -> str:
    """A text as a page may show it: no unseen characters, and cut with a note where it is long."""
    text = _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", text)
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]} … ({len(text) - LONGEST:,} more characters)"


def _changed(out: list[str], into: list[str]) -> Runs:
    runs = ("out", "".join(out)), ("in", "".join(into))
    return [run for run in runs if run[1]]


def _words(text: str) -> list[str]:
    return re.findall(r"\S+\s*|\s+", text)


def _kind(before: tuple[str, ...], after: tuple[str, ...]) -> str:
    if before:
        return "still at fault" if after else "fixed"
    return "newly at fault" if after else "no fault in either"


def _compared(before: Sampled, after: Sampled, kind: str) -> Compared:
    texts = shown(before.text), shown(after.text)
    return Compared(
        before.prompt.messages, *texts, word_diff(*texts), faults(before), faults(after), kind
    )


def _revised(chain: Chain) -> Revised:
    return Revised(
        chain.prompt.messages,
        chain.prompt.id,
        word_diff(shown(chain.draft), shown(chain.final)),
        tuple(_steps(chain)),
    )


def _steps(chain: Chain) -> Iterator[tuple[Step, Runs]]:
    text = chain.draft
    for step in chain.steps:
        yield step, word_diff(shown(text), shown(step.revision))
        text = step.revision
