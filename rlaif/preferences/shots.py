"""Worked preferences from the constitution, shown before the real question.

Which ones a prompt sees is a keyed hash, so that editing one touches only the prompts that see it;
on which side the better answer stands alternates among them, from a side that the hash chooses as
well, so that they teach no taste for a place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from itertools import cycle, islice

from rlaif.config.run import PreferencesConfig
from rlaif.constitution import Constitution, PreferExample, shown
from rlaif.errors import ConfigError
from rlaif.records import Message

Worked = Callable[[PreferExample, bool, str], Sequence[Message] | None]
"""An example as a dialogue, turned round or not, known by a name; None where it does not fit."""


class Shots:
    """The examples of a constitution as dialogues, each turned both ways."""

    def __init__(
        self, config: PreferencesConfig, constitution: Constitution, seed: int, worked: Worked
    ) -> None:
        self._k, self._seed = config.examples, seed
        self._both: list[tuple[str, tuple[Sequence[Message], Sequence[Message]]]] = []
        for example in constitution.examples.prefer if self._k else ():
            straight, turned = (worked(example, flip, example.name) for flip in (False, True))
            if straight and turned:
                self._both.append((example.name, (straight, turned)))
        if self._k and not self._both:
            raise ConfigError(
                "the constitution has no worked preference that can be shown",
                where="preferences.examples",
                remedy="set it to 0, or add such to `examples: prefer:` in the constitution",
            )

    def of(self, item: str) -> list[Sequence[Message]]:
        """The dialogues that a prompt sees, in the order of the constitution."""
        if not self._both:
            return []
        names = [name for name, _ in self._both]
        chosen = shown(names, seed=self._seed, item=item, k=self._k)
        return [self._both[n][1][side] for side, n in zip(self._sides(item), chosen, strict=False)]

    def _sides(self, item: str) -> Iterator[int]:
        """0 and 1 in turn, from either."""
        lot = blake2b(json.dumps(["side", self._seed, item]).encode(), digest_size=1).digest()
        return islice(cycle((0, 1)), lot[0] & 1, None)
