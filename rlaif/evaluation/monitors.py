"""Tripwires for over-optimisation: phrases that a trained model says far more often than before.

Bai et al. (2022, section 4.3) saw a policy trained too long say "you are valid, valued, and cared
for" to most prompts, and judged it by eye. Here the five-word phrases whose share of the answers
surely grew are listed with both shares.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rlaif.intervals import Share
from rlaif.jsonl import rows
from rlaif.records import Sampled

WORDS = 5
WATCHED = 200  # the most frequent phrases of a model, which are counted exactly
LISTED = 8
_WORD = re.compile(r"[\w']+")
_REFUSAL = re.compile(
    r"\b(i|we) (can ?not|can't|could not|won't|will not|am unable|am not able|must decline)\b"
    r"|\b(sorry|apologi[sz]e|as an ai|not (comfortable|appropriate|something i))\b"
    r"|\bnot for me to\b|\bis not what i do\b",
    re.I,
)


def refuses(text: str) -> bool:
    """Whether a text has the wording of a refusal, in English; a monitor, no verdict."""
    return _REFUSAL.search(text.replace("\u2019", "'")) is not None


def phrases(text: str) -> set[str]:
    """The five-word phrases of a text."""
    words = _WORD.findall(text.casefold().replace("\u2019", "'"))
    return {" ".join(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1)}


def boilerplate(samples: Path, models: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """For each trained model, the phrases that grew: `text`, and its shares of answers."""
    frequent = {name: Frequent() for name in models}
    answers: Counter[str] = Counter()
    for name, said in _said(samples, models):
        answers[name] += 1
        frequent[name].add(said)
    chosen = {name: set(frequent[name].most(WATCHED)) for name in models if name != "seed"}
    exact = {name: Counter[str]() for name in models}
    watched = set[str]().union(*chosen.values())
    for name, said in _said(samples, models):
        exact[name].update(said & watched)

    def shares(name: str, text: str) -> tuple[Share, Share]:
        return Share(exact["seed"][text], answers["seed"]), Share(exact[name][text], answers[name])

    return {
        name: _grown({text: shares(name, text) for text in texts}) for name, texts in chosen.items()
    }


def _said(samples: Path, models: Sequence[str]) -> Iterator[tuple[str, set[str]]]:
    for sampled in rows(samples, Sampled):
        if sampled.model in models and not sampled.unanswered:
            yield sampled.model, phrases(sampled.text)


def _grown(shares: dict[str, tuple[Share, Share]]) -> list[dict[str, Any]]:
    """Those that surely grew (their intervals are apart), most first.

    A phrase that overlaps with one already listed is left out.
    """
    grew = sorted(
        ((now.value or 0) - (then.value or 0), text)
        for text, (then, now) in shares.items()
        if then.interval and now.interval and now.interval[0] > then.interval[1]
    )
    out: list[dict[str, Any]] = []
    for _, text in reversed(grew):
        if len(out) < LISTED and not any(_overlap(text, listed["text"]) for listed in out):
            then, now = shares[text]
            out.append({"text": text, "seed": then.json(), "now": now.json()})
    return out


def _overlap(one: str, other: str) -> bool:
    """Whether two phrases share three words in a row: most likely windows on one sentence."""
    words = one.split()
    return any(" ".join(words[i : i + 3]) in other for i in range(WORDS - 2))


class Frequent:
    """Counts of frequent items in bounded memory (lossy counting; Manku and Motwani 2002).

    A count is too low by at most one for every `width` items seen.
    """

    def __init__(self, width: int = 100_000) -> None:
        self.width, self._seen, self._bucket = width, 0, 1
        self._counts: dict[str, tuple[int, int]] = {}  # count, most that it may have missed

    def add(self, items: set[str]) -> None:
        """Count each item once."""
        for item in items:
            count, missed = self._counts.get(item, (0, self._bucket - 1))
            self._counts[item] = count + 1, missed
        self._seen += len(items)
        if self._seen >= self.width * self._bucket:
            self._counts = {k: c for k, c in self._counts.items() if sum(c) > self._bucket}
            self._bucket += 1

    def most(self, n: int) -> list[str]:
        """The n most frequent ones; of equal ones the first by name."""
        return sorted(self._counts, key=lambda item: (-self._counts[item][0], item))[:n]
