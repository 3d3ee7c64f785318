"""The models of a run: each is served only when it is asked something that the store doesn't know.

with Models(store, at_once=1) as models:
    judge = models.model(config)
    for outcome in judge.answers(calls, "labels"):      # starts a server now, or never
        ...
    models.make_room()                                  # before training: the GPU is free
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import cached_property, partial
from itertools import islice
from typing import Self, TypeVar

from rlaif.config.engine import EngineConfig
from rlaif.engine.bulk import PART, WIDTH, Bulk, Progress, Store, in_parts
from rlaif.engine.client import Engine
from rlaif.engine.counts import Counts
from rlaif.engine.model import check_servable, identity
from rlaif.engine.scripted import ScriptedEngine
from rlaif.engine.server import serving
from rlaif.errors import EngineError
from rlaif.records import Call, Outcome, Reason, Unanswered

log = logging.getLogger(__name__)

NEARLY_ALL = 0.9  # share of calls without an answer that is an error
FEW = 20  # calls, below which all that the model was asked so far counts
MANY = 1000  # calls without a single answer are enough to know
UNITS = 16 * PART  # that are asked together, at most

Unit = TypeVar("Unit")

Watch = Callable[[str, int | None], AbstractContextManager[Progress]]
"""Shows the progress of a batch: told what it is and how many calls it has, if that is known."""


def _unwatched(what: str, total: int | None) -> AbstractContextManager[Progress]:
    return nullcontext(lambda n: None)


class Model:
    """One model as the stages see it: questions in, outcomes out, in order.

    Batches of two models may not be open at once where only one can be served at a time.
    """

    def __init__(
        self,
        start: Callable[[], Engine | ScriptedEngine],
        identity: Callable[[], str],
        store: Store | None = None,
        watch: Watch = _unwatched,
        total: Counts | None = None,
        width: int = WIDTH,
    ) -> None:
        self._width = width
        self._start, self._identify = start, identity
        self._store, self._watch = store, watch
        self.counts, self._total = Counts(), total or Counts()
        self._outcomes = Counts()  # as they were handed out: equal calls and stored ones, too
        self._warned: set[Reason] = set()

    @classmethod
    def of(cls, engine: Engine | ScriptedEngine, store: Store | None = None) -> Model:
        """A model whose engine is there already."""
        return cls(lambda: engine, lambda: engine.identity, store)

    @cached_property
    def identity(self) -> str:
        """What the completions store knows the model by."""
        return self._identify()

    def answers(
        self, calls: Iterable[Call], what: str = "", total: int | None = None
    ) -> Iterator[Outcome]:
        """The outcome of each call, in order; `what` and `total` are for the progress bar.

        Raises:
            EngineError: the servers are gone, or (nearly) no call has an answer. Then something is
                wrong that can be fixed, and a stage without answers would hide it.
        """
        for outcomes in self._by_part(in_parts(calls), what, total):
            yield from outcomes

    def each(
        self,
        units: Iterable[tuple[Unit, list[Call]]],
        what: str = "",
        total: int | None = None,
    ) -> Iterator[tuple[Unit, list[Outcome]]]:
        """Each unit with the outcomes of its calls, in order, however many units there are."""
        waiting: deque[list[tuple[Unit, int]]] = deque()

        def parts() -> Iterator[list[Call]]:
            for portion in _portions(units):
                waiting.append([(unit, len(calls)) for unit, calls in portion])
                yield [call for _, calls in portion for call in calls]

        for outcomes in self._by_part(parts(), what, total):
            rest = iter(outcomes)
            for unit, n in waiting.popleft():
                yield unit, list(islice(rest, n))

    def _by_part(
        self, parts: Iterable[list[Call]], what: str, total: int | None
    ) -> Iterator[list[Outcome]]:
        """The outcomes of each part; every outcome is counted, and nearly none are an error."""
        engine: list[Engine | ScriptedEngine] = []

        def needed() -> None:
            if not engine:
                engine.append(self._start())

        async def close() -> None:
            for started in engine:
                await started.aclose()

        totals = (self.counts, self._total)
        with self._watch(what, total) as progress:
            bulk = Bulk(
                ask=lambda call, counts: engine[0].ask(call, counts),
                identity=lambda: self.identity,
                totals=totals,
                store=self._store,
                progress=progress,
                needed=needed,
                width=self._width,
            )
            counts = Counts()
            for outcomes in bulk.by_part(parts, close):
                for outcome in outcomes:
                    counts.add(outcome)
                    if isinstance(outcome, Unanswered):
                        self._warn(what, outcome)
                        if counts.calls == MANY and not counts.answered:
                            _check_answered(counts, what)
                yield outcomes
        self._outcomes.merge(counts)
        _check_answered(self._outcomes if counts.calls < FEW else counts, what)

    def _warn(self, what: str, lost: Unanswered) -> None:
        """Once for each reason."""
        if lost.reason not in self._warned and lost.reason is not Reason.PLANNED:
            self._warned.add(lost.reason)
            log.warning("%s: a call has no answer (%s): %s", what, lost.reason, lost.detail)


def _portions(
    units: Iterable[tuple[Unit, list[Call]]],
) -> Iterator[list[tuple[Unit, list[Call]]]]:
    """Units that are asked together: as many as have `PART` calls, for not all have one."""
    portion: list[tuple[Unit, list[Call]]] = []
    calls = 0
    for unit in units:
        portion.append(unit)
        calls += len(unit[1])
        if calls >= PART or len(portion) >= UNITS:
            yield portion
            portion, calls = [], 0
    if portion:
        yield portion


def _check_answered(outcomes: Counts, what: str) -> None:
    lost = outcomes.unanswered - Counter({Reason.PLANNED: outcomes.unanswered[Reason.PLANNED]})
    if not lost or lost.total() < NEARLY_ALL * outcomes.calls:
        return
    reasons = ", ".join(f"{n:,} {reason}" for reason, n in lost.most_common())
    raise EngineError(
        f"{lost.total():,} of {outcomes.calls:,} calls have no answer ({reasons}). One of them: "
        f"{outcomes.said[lost.most_common(1)[0][0]]}",
        where=what,
        remedy="fix what that says, at the server or in the config; then run again: finished "
        "calls are kept",
    )


class Models:
    """Serves models on demand, `at_once` of ours at a time; the one asked longest ago gives way."""

    def __init__(self, store: Store | None, *, at_once: int = 1, watch: Watch = _unwatched) -> None:
        self.store, self.at_once, self.watch = store, at_once, watch
        self.counts = Counts()
        self._up: dict[EngineConfig, tuple[ExitStack, Engine]] = {}  # oldest use first

    def model(self, config: EngineConfig) -> Model:
        """The model of this config; nothing is started yet, but a folder is checked.

        Raises:
            ConfigError: the folder cannot be served.
        """
        if not config.base_urls:
            check_servable(config)
        start = partial(self.engine, config)
        known_by, width = partial(identity, config), config.max_in_flight
        return Model(start, known_by, self.store, self.watch, self.counts, width)

    def engine(self, config: EngineConfig) -> Engine:
        """The engine of a model, its server started if it is not up."""
        found = self._up.pop(config, None)
        if found is None:
            ours = [c for c in self._up if not c.base_urls]
            for oldest in ours[: max(len(ours) + 1 - self.at_once, 0)]:
                self._up.pop(oldest)[0].close()
            stack = ExitStack()
            found = stack, stack.enter_context(serving(config))
        self._up[config] = found
        return found[1]

    def make_room(self) -> None:
        """Before a training: stop our servers, unless there is room for several at once."""
        if self.at_once == 1:
            self.stop()

    def stop(self) -> None:
        """Stop every server that is up; the next question starts it again."""
        while self._up:
            self._up.popitem()[1][0].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
