"""Progress bars for long work: each batch of calls with its rate and time left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from rlaif.progress import bar

if TYPE_CHECKING:
    from rlaif.records import Call, Outcome


class Watched:
    """An engine whose batches are watched, and kept in `store` if there is one."""

    def __init__(self, engine: Any, store: Any = None) -> None:
        self.engine, self.store, self.stage = engine, store, ""

    def answers(self, calls: Iterable[Call]) -> Iterator[Outcome]:
        """The outcome of each call, in order, behind a bar that says `stage`."""
        asked = list(calls)
        with bar(self.stage, len(asked)) as progress:
            yield from self.engine.answers(asked, store=self.store, progress=progress)

    def name(self, stage: str) -> None:
        """Say what the next batches are for."""
        self.stage = stage
