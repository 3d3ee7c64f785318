"""Many calls in one go: cached ones from the store, the rest asked, all in the order they came.

Calls are taken from their iterator in parts, in the caller's thread, and only so many parts ahead
that memory stays flat for a million calls. An answer is put into the store the moment it arrives;
what is unanswered is never stored, so that the next run asks again.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import (
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from threading import Thread
from typing import Any, Protocol

from rlaif.engine.counts import Counts
from rlaif.records import Answer, Call, Outcome

WIDTH = 128
PART = 256
"""Calls that are taken from their iterator together."""

Progress = Callable[[int], object]
"""Told how many calls have just been finished; it may be called from another thread."""


class Store(Protocol):
    """What is used of `rlaif.completions.Store`; `put` returns at once and takes any thread."""

    def get_many(self, keys: list[bytes], /) -> Mapping[bytes, Answer]: ...
    def put(self, key: bytes, call: Call, answer: Answer, model: str = "", /) -> object: ...
    def flush(self) -> object: ...


@dataclass(slots=True)
class _Chunk:
    """Calls that were read together; `left` of its outcomes are still to come."""

    calls: list[Call]
    keys: list[bytes]
    cached: Mapping[bytes, Answer]
    outcomes: list[Any] = field(default_factory=list)
    left: int = 0
    done: asyncio.Future[None] | None = None


@dataclass(slots=True)
class _Job:
    """One question to the model, and the places that wait for its outcome."""

    call: Call
    key: bytes | None
    places: list[tuple[_Chunk, int]]


@dataclass(slots=True)
class Bulk:
    """One pass over many calls with one engine; `totals` are added to when it ends."""

    ask: Callable[[Call, Counts], Coroutine[Any, Any, Outcome]]
    identity: Callable[[], str]
    totals: tuple[Counts, ...]
    store: Store | None = None
    progress: Progress | None = None
    needed: Callable[[], object] = lambda: None  # told before the first call that is really asked
    width: int = WIDTH  # calls that may be asked at once
    _counts: Counts = field(default_factory=Counts)
    _asked: dict[bytes, _Job] = field(default_factory=dict)
    _late: dict[bytes, Answer] = field(default_factory=dict)  # what a lookup may have missed
    _queue: asyncio.Queue[_Job] = field(default_factory=asyncio.Queue)
    _workers: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def _ahead(self) -> int:
        """Calls that may be under way, or done and not yet handed out."""
        return 8 * self.width + 1024

    def answers(
        self, calls: Iterable[Call], close: Callable[[], Coroutine[Any, Any, None]]
    ) -> Iterator[Outcome]:
        """The outcome of each call, in order."""
        for outcomes in self.by_part(in_parts(calls), close):
            yield from outcomes

    def by_part(
        self, parts: Iterable[list[Call]], close: Callable[[], Coroutine[Any, Any, None]]
    ) -> Iterator[list[Outcome]]:
        """The outcomes of the calls of each part, in order; the requests run on an event loop in a
        thread of their own."""
        with self._recorded(), _loop_in_thread(close) as loop:
            pending: deque[Callable[[], list[Outcome]]] = deque()
            for chunk in self._chunks(parts):
                pending.append(asyncio.run_coroutine_threadsafe(self._finish(chunk), loop).result)
                while len(pending) * PART > self._ahead:
                    yield pending.popleft()()
            while pending:
                yield pending.popleft()()

    def _chunks(self, parts: Iterable[list[Call]]) -> Iterator[_Chunk]:
        for part in parts:
            keys = _keys(self.identity(), part) if self.store else []
            cached = self.store.get_many(keys) if self.store else {}
            if any(key not in cached for key in keys) if self.store else part:
                self.needed()
            yield _Chunk(part, keys, cached)

    async def _finish(self, chunk: _Chunk) -> list[Outcome]:
        """The outcomes of a chunk: those in the store, and the rest from the workers."""
        keys = chunk.keys or [None] * len(chunk.calls)
        chunk.outcomes = [
            chunk.cached.get(key) or self._late.get(key) if key else None for key in keys
        ]
        missing = [i for i, outcome in enumerate(chunk.outcomes) if outcome is None]
        self._spared(len(chunk.calls) - len(missing))
        if missing:
            chunk.left, chunk.done = len(missing), asyncio.get_running_loop().create_future()
            for i in missing:
                self._enqueue(chunk.calls[i], keys[i], (chunk, i))
            await chunk.done
        return chunk.outcomes

    def _enqueue(self, call: Call, key: bytes | None, place: tuple[_Chunk, int]) -> None:
        """Queue a call; one that equals a call under way only waits for its outcome."""
        if key and (job := self._asked.get(key)):
            job.places.append(place)
            self._spared(1)
            return
        job = _Job(call, key, [place])
        if key:
            self._asked[key] = job
        self._queue.put_nowait(job)
        if len(self._workers) < self.width:
            self._workers.append(asyncio.create_task(self._work()))

    async def _work(self) -> None:
        """Take jobs off the queue, one after the other, for as long as the pass lasts."""
        while True:
            job = await self._queue.get()
            try:
                outcome = await self.ask(job.call, self._counts)
                if self.store and job.key and isinstance(outcome, Answer):
                    self.store.put(job.key, job.call, outcome, self.identity())
                    self._late[job.key] = outcome
                    if len(self._late) > self._ahead + PART:  # no more were under way at a lookup
                        del self._late[next(iter(self._late))]
            except Exception as error:
                for chunk, _ in job.places:
                    if chunk.done and not chunk.done.done():
                        chunk.done.set_exception(error)
                continue
            if job.key:
                del self._asked[job.key]
            for chunk, i in job.places:
                chunk.outcomes[i] = outcome
                chunk.left -= 1
                if not chunk.left and chunk.done and not chunk.done.done():
                    chunk.done.set_result(None)
            if self.progress:
                self.progress(1)

    def _spared(self, calls: int) -> None:
        self._counts.cached += calls
        if calls and self.progress:
            self.progress(calls)

    @contextmanager
    def _recorded(self) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self._counts.seconds = time.monotonic() - start
            for total in self.totals:
                total.merge(self._counts)
            if self.store:
                self.store.flush()


def in_parts(calls: Iterable[Call]) -> Iterator[list[Call]]:
    """The calls by `PART`."""
    rest = iter(calls)
    while part := list(islice(rest, PART)):
        yield part


def _keys(identity: str, calls: list[Call]) -> list[bytes]:
    from rlaif.completions import key

    return [key(identity, call) for call in calls]


@contextmanager
def _loop_in_thread(
    close: Callable[[], Coroutine[Any, Any, None]],
) -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop in a daemon thread; at the end its tasks are cancelled and `close` is run."""
    loop = _new_loop()
    thread = Thread(target=loop.run_forever, name="rlaif-engine", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(_wind_up(close), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _wind_up(close: Callable[[], Awaitable[None]]) -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await close()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
