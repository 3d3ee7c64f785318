"""Texts as a page may show them: hidden characters named, the words in which two texts differ, and
principles in words.

Nothing here makes HTML; templates escape what they get.
"""

from __future__ import annotations

import re
import time
import unicodedata
from functools import lru_cache
from itertools import groupby
from pathlib import Path

from diff_match_patch import diff_match_patch

from rlaif.constitution import loads

HIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e"
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e007f]"
)
SHORT = {
    "\u00ad": "SHY", "\u061c": "ALM", "\u200b": "ZWSP", "\u200c": "ZWNJ", "\u200d": "ZWJ",
    "\u200e": "LRM", "\u200f": "RLM", "\u202a": "LRE", "\u202b": "RLE", "\u202c": "PDF",
    "\u202d": "LRO", "\u202e": "RLO", "\u2060": "WJ", "\u2066": "LRI", "\u2067": "RLI",
    "\u2068": "FSI", "\u2069": "PDI", "\ufeff": "BOM",
}  # fmt: skip
BUDGET = 0.015  # seconds for one diff; what is not compared by then counts as changed
LONGEST = 40_000  # characters of a change whose words are compared; beyond it, sentences are

Runs = list[tuple[str, str]]
"""Runs of text: ("same" | "out" | "in" | "differs", text)."""

_SENTENCE = re.compile(r"[^.!?\n]*[.!?\n]+\s*|[^.!?\n]+")
_WORD = re.compile(r"\s*\S+|\s+")
_SURROGATES, _BLOCK = 0xD800, 0x800


@lru_cache(maxsize=16)
def worded(law: str, kind: str, names: tuple[str, ...]) -> list[tuple[str, str]]:
    """Some principles of a law, a constitution as YAML, each with what is asked by it."""
    if not law:
        return []
    wording = "prefer" if kind == "preference" else "critique"
    found = [p for p in loads(law, Path("constitution.yaml")).principles if p.id in names]
    texts = (p.wordings(wording) or p.critique or p.prefer for p in found)
    return [(p.id, said[0]) for p, said in zip(found, texts, strict=True) if said]


def parts(text: str) -> list[tuple[str, str]]:
    """A text in pieces: (name, label) where a hidden character stands, else ("", piece).

    A row of the same hidden character is one piece.
    """
    found, at = [], 0
    for match in HIDDEN.finditer(text):
        if match.start() > at:
            found.append(("", text[at : match.start()]))
        found.append((match.group(), ""))
        at = match.end()
    if at < len(text):
        found.append(("", text[at:]))
    return [piece for hidden, group in groupby(found) for piece in _piece(hidden, len(list(group)))]


def _piece(found: tuple[str, str], times: int) -> list[tuple[str, str]]:
    if found[1]:
        return [found] * times
    code = f"U+{ord(found[0]):04X}"
    label = SHORT.get(found[0], code)
    name = f"{code} {unicodedata.name(found[0], 'control character')}"
    return [(name, label if times == 1 else f"{label} ×{times}")]  # noqa: RUF001


@lru_cache(maxsize=64)
def changes(before: str, after: str) -> Runs:
    """What stayed, what went and what came.

    Sentences are compared first, then the words of those that changed, for at most `BUDGET` seconds
    in all; a sentence that was not reached by then counts as changed as a whole.
    """
    deadline = time.time() + BUDGET
    runs: Runs = []
    out = into = ""
    for kind, text in [*_compared(_SENTENCE, before, after, deadline), ("same", "")]:
        if kind == "same":
            runs += _words(out, into, deadline)
            out = into = ""
            runs += [(kind, text)] if text else []
        else:
            out, into = (out + text, into) if kind == "out" else (out, into + text)
    return runs


def differing(left: str, right: str) -> tuple[Runs, Runs]:
    """Two texts, each with the words that the other lacks marked the same way."""
    runs = changes(left, right)

    def side(mine: str) -> Runs:
        seen = [(kind, text) for kind, text in runs if kind in ("same", mine)]
        return [("same" if kind == "same" else "differs", text) for kind, text in seen]

    return side("out"), side("in")


def _words(out: str, into: str, deadline: float) -> Runs:
    if out and into and len(out) + len(into) < LONGEST and time.time() < deadline:
        return _compared(_WORD, out, into, deadline)
    return [run for run in (("out", out), ("in", into)) if run[1]]


def _compared(unit: re.Pattern[str], before: str, after: str, deadline: float) -> Runs:
    """The runs of two texts by units, each unit standing for one character in the comparison."""
    numbers: dict[str, int] = {}
    old, new = unit.findall(before), unit.findall(after)
    one, two = ("".join(_character(numbers, piece) for piece in pieces) for pieces in (old, new))
    differ = diff_match_patch()
    found = differ.diff_main(one, two, False, deadline)
    if time.time() < deadline:
        differ.diff_cleanupSemantic(found)
    runs, at, to = [], 0, 0
    for kind, units in found:
        n = len(units)
        if kind < 0:
            runs.append(("out", "".join(old[at : at + n])))
        else:
            runs.append(("in" if kind else "same", "".join(new[to : to + n])))
        at, to = at + n * (kind <= 0), to + n * (kind >= 0)
    return runs


def _character(numbers: dict[str, int], piece: str) -> str:
    """One for each word; how much white space there is before it makes no difference."""
    bare = piece.strip()
    number = numbers.setdefault(f" {bare}" if piece[0].isspace() else bare, len(numbers) + 1)
    return chr(number if number < _SURROGATES else number + _BLOCK)
