"""Which principle an item meets: weighted rendezvous hashing, never a shared random stream.

Every principle draws its own lot for every item and round, from a hash of (seed, item, round, id),
and the best lots win. A principle that is added, removed or given another weight therefore moves
only the items that it wins or loses; one that is reworded moves none.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from rlaif.constitution.schema import Constitution, Principle, Wording
from rlaif.records import Prompt


def choose(
    constitution: Constitution,
    *,
    seed: int,
    item: str,
    round: int | str,
    k: int = 1,
    tags: Iterable[str] = (),
    wording: Wording | None = None,
) -> tuple[Principle, ...]:
    """Up to k different principles for one item in one round, the best lot first.

    Principles are drawn without replacement in proportion to their weights, among those that apply:
    weight above 0, `applies_to` empty or with one of the prompt's `tags`, and, if `wording` is
    given, a text for it. Fewer than k, and none at all, come back where no more apply.
    """
    held = frozenset(tags)
    lots = _Lots("principle", seed, item, round)
    scored = (
        (lots.draw(p.id) / p.weight, p.id, p)
        for p in constitution.principles
        if p.weight
        and (not p.applies_to or not held.isdisjoint(p.applies_to))
        and (wording is None or p.wordings(wording))
    )
    return tuple(principle for _, _, principle in heapq.nsmallest(k, scored))


class Law:
    """The principles that are for a judge: those with every one of the `wordings` asked for.

    They are drawn for the prompt, not for the pair (Bai et al. draw for each comparison; with two
    answers a prompt that is the same): its answers are compared under one law, so that their labels
    can be ranked against each other; a pointwise reading of an answer serves all of its pairs; and
    an edited principle still touches no more than the prompts that met it.
    """

    def __init__(
        self, constitution: Constitution, wordings: tuple[Wording, ...], *, k: int, seed: int,
        round: str = "prefer",
    ) -> None:  # fmt: skip
        fit = [p for p in constitution.principles if p.weight and all(map(p.wordings, wordings))]
        self._law = constitution.model_copy(update={"principles": tuple(fit)})
        self._k, self._seed, self._round = k, seed, round
        self._sometimes = [frozenset(p.applies_to) for p in fit if p.applies_to]

    def met(self, prompt: Prompt) -> tuple[tuple[Principle, ...], bool]:
        """Up to k principles (all, where k is 0), and whether no other one applies."""
        k = self._k or len(self._law.principles)
        found = choose(
            self._law, seed=self._seed, item=prompt.id, round=self._round, k=k, tags=prompt.tags
        )
        if len(found) < k or not self._k:
            return found, True
        not_here = sum(tags.isdisjoint(prompt.tags) for tags in self._sometimes)
        return found, len(self._law.principles) - not_here == k


def shown(names: Sequence[str], *, seed: int, item: str, k: int) -> list[int]:
    """The places of up to k worked examples for one item, in their order; a keyed hash of the
    names chooses, so that editing an example touches only the items that see it."""

    def lot(name: str) -> bytes:
        return blake2b(json.dumps(["shot", seed, item, name]).encode(), digest_size=8).digest()

    lots = ((lot(name), n) for n, name in enumerate(names))
    return sorted(n for _, n in heapq.nsmallest(k, lots))


def phrase(
    principle: Principle, wording: Wording, *, seed: int, item: str, round: int | str
) -> str:
    """One of a wording's paraphrases, chosen for one item and round by its place in the list.

    Editing a paraphrase moves only the items that met it; add new ones at the end.

    Raises:
        ValueError: the principle has no text for this wording.
    """
    texts = principle.wordings(wording)
    if not texts:
        raise ValueError(f"principle {principle.id!r} has no {wording!r} wording")
    if len(texts) == 1:
        return texts[0]
    lots = _Lots("phrase", seed, item, round)
    return texts[min(range(len(texts)), key=lambda n: lots.draw(f"{principle.id}/{wording}/{n}"))]


class _Lots:
    """Exponentially distributed lots, one for each name, for one item and round."""

    def __init__(self, *key: str | int) -> None:
        # JSON keeps ("a", "bc") apart from ("ab", "c") and round 1 apart from round "1".
        self._hash = blake2b(json.dumps(key).encode(), digest_size=8)

    def draw(self, name: str) -> float:
        hash = self._hash.copy()
        hash.update(name.encode())
        uniform = (int.from_bytes(hash.digest()) + 0.5) / 2**64
        return -math.log(uniform)
