"""What changed in meaning between two constitutions, by digest and word by word."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field

from rlaif.constitution.schema import WORDINGS, Constitution, Principle


@dataclass(frozen=True, slots=True)
class Changes:
    """Principle ids by what became of them; `renamed` and `moved` say the same as before.

    `moved` principles are chosen for other items than before: their weight or `applies_to` differs.
    `retagged` ones are asked as before, and counted elsewhere: their `tags` differ.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    renamed: dict[str, str] = field(default_factory=dict)
    reworded: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    retagged: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    examples: bool = False

    def __bool__(self) -> bool:
        ids = (self.added, self.removed, self.renamed, self.reworded, self.moved, self.retagged)
        return any(ids) or self.examples


def compare(old: Constitution, new: Constitution) -> Changes:
    """What became of each principle from `old` to `new`, told by id and digest."""
    before = {principle.id: principle for principle in old.principles}
    after = {principle.id: principle for principle in new.principles}
    lost = {p.digest: id for id, p in before.items() if id not in after}
    new_ids = [id for id in after if id not in before]
    renamed = {was: id for id in new_ids if (was := lost.get(after[id].digest))}
    kept = [id for id in before if id in after]
    reworded = tuple(id for id in kept if before[id].digest != after[id].digest)
    moved = tuple(id for id in kept if _chance(before[id]) != _chance(after[id]))
    retagged = tuple(id for id in kept if set(before[id].tags) != set(after[id].tags))
    return Changes(
        added=tuple(id for id in new_ids if id not in renamed.values()),
        removed=tuple(id for id in before if id not in after and id not in renamed),
        renamed=renamed,
        reworded=reworded,
        moved=moved,
        retagged=retagged,
        unchanged=tuple(id for id in kept if id not in {*reworded, *moved, *retagged}),
        examples=old.examples != new.examples,
    )


@dataclass(frozen=True, slots=True)
class Span:
    """Words that two texts share (sign 0), or that only the old (-1) or the new one (+1) has."""

    sign: int
    text: str


def words(old: str, new: str) -> tuple[Span, ...]:
    """A word-level diff; the spans of sign 0 and -1 join to `old`, those of 0 and +1 to `new`."""
    a, b = re.findall(r"\s*\S+|\s+$", old), re.findall(r"\s*\S+|\s+$", new)
    spans = []
    for _, i, j, k, m in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if a[i:j] == b[k:m]:
            spans.append(Span(0, "".join(a[i:j])))
            continue
        spans += [Span(-1, "".join(a[i:j]))] if j > i else []
        spans += [Span(+1, "".join(b[k:m]))] if m > k else []
    return tuple(spans)


def rewordings(old: Principle, new: Principle) -> dict[str, tuple[Span, ...]]:
    """The word-level diff of each wording that differs; paraphrases are one to a line."""
    return {
        name: words("\n".join(old.wordings(name)), "\n".join(new.wordings(name)))
        for name in WORDINGS
        if old.wordings(name) != new.wordings(name)
    }


def _chance(principle: Principle) -> tuple[float, frozenset[str]]:
    return principle.weight, frozenset(principle.applies_to)
