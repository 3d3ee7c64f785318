"""The store itself: a queue in front of a table, and the one thread that writes it.

`put` only queues. The writer takes whatever has gathered, commits it, and comes back for what
gathered meanwhile (group commit): the busier the engine, the larger the batches. What is queued is
bounded in bytes; beyond that, `put` waits for the disk.

A row is acknowledged once `flush` (or `close`) returns. SQLite then has it in its write-ahead log,
synced to the disk: it survives `kill -9` and a power cut. Rows not yet flushed are committed within
`linger` seconds anyway; a crash before that costs their calls again, and nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType

from rlaif.completions.sqlite import SqliteTable
from rlaif.completions.table import Put, Record, Summary, Table, shown
from rlaif.errors import StoreError
from rlaif.records import Answer, Call

OVERHEAD = 1024  # bytes that a queued row takes beside its text


class Store:
    """Answers by key, in one SQLite file (a path) or a Postgres database (`postgresql://…`).

    Thread safe, and safe with other processes on the same store. The first answer to a key stays.
    `linger`: seconds that a row waits for company; `limit`: bytes queued before `put` waits (as
    much again may be in the writer's hands). Raises StoreError when the store cannot be opened.
    """

    def __init__(
        self, path_or_url: str | Path, *, linger: float = 0.05, limit: int = 32 * 2**20
    ) -> None:
        self.where = shown(str(path_or_url))  # without a password
        self._table = _table(str(path_or_url))
        self._linger, self._limit = linger, limit
        self._changed = threading.Condition(threading.Lock())
        self._queued: dict[bytes, Put] = {}  # guarded by _changed, like all below
        self._writing: dict[bytes, Put] = {}
        self._bytes = 0  # queued
        self._accepted = self._committed = 0  # rows since the store was opened
        self._hurry = self._closing = self._closed = False
        self._error: StoreError | None = None
        self._writer = threading.Thread(target=self._write, name="rlaif-completions", daemon=True)
        self._writer.start()

    def get_many(self, keys: Collection[bytes]) -> dict[bytes, Answer]:
        """The answers known for `keys`, those still queued included."""
        with self._changed:  # before the table: a row leaves the queue only once it is in there
            waiting = {k: p for k in keys if (p := self._queued.get(k) or self._writing.get(k))}
        found = {k: put.answer for k, put in waiting.items()} if waiting else {}
        found.update(self._table.select(keys))  # first write wins
        return found

    def put(self, key: bytes, call: Call, answer: Answer, model: str = "") -> None:
        """Queue an answer; `model` is the identity that went into the key, for `rlaif trace`.

        Waits only while `limit` bytes are queued. Raises StoreError, and takes nothing, if rows
        put earlier could not be written; those stay queued, and `flush` tries them again.
        """
        with self._changed:
            while self._bytes >= self._limit and not self._error:
                self._changed.wait()
            self._check()
            if key in self._queued or key in self._writing:
                return
            if not self._queued:
                self._changed.notify_all()
            self._queued[key] = Put(model, call, answer)
            self._accepted += 1
            self._bytes += OVERHEAD + len(answer.text)
            self._bytes += sum([len(message.content) for message in call.messages])

    def flush(self) -> None:
        """Return once every row put so far is durably committed; StoreError if it cannot be."""
        with self._changed:
            if self._closed:
                raise self._failure("the store is closed")
            target, self._error = self._accepted, None
            self._hurry = self._committed < target
            self._changed.notify_all()
            while self._committed < target and not self._error:
                self._changed.wait()
            self._check()

    def lookup(self, key: bytes) -> Record | None:
        """The full record behind a key: the exact prompt, its model, its answer and its time."""
        self.flush()
        return next(iter(self._table.between(key, key, 1)), None)

    def find(self, prefix: str, limit: int = 10) -> list[Record]:
        """Up to `limit` records whose key in hex starts with `prefix`; StoreError if not hex."""
        self.flush()
        try:
            low, high = (bytes.fromhex(prefix.ljust(64, digit)) for digit in "0f")
        except ValueError:
            what = f"{prefix!r} is not the start of a key"
            raise StoreError(what, where=self.where, remedy="give up to 64 hex digits") from None
        return self._table.between(low, high, limit)

    def records(self, model: str | None = None) -> Iterator[Record]:
        """Every record (of one model), in the order of writing, in constant memory."""
        self.flush()
        return self._table.records(model)

    def summaries(self) -> list[Summary]:
        """What the store holds, by model, largest first."""
        self.flush()
        return self._table.summaries()

    def size(self) -> int:
        """Bytes on disk."""
        self.flush()
        return self._table.size()

    def prune(
        self, *, model: str | None = None, before: float | None = None, dry_run: bool = False
    ) -> int:
        """Delete rows of `model`, written before `before` (seconds since 1970); how many.

        Both conditions must hold; None is no condition. The space is given back to the disk.
        """
        self.flush()
        rows = self._table.prune(model, before, dry_run)
        if rows and not dry_run:
            self._table.vacuum()
        return rows

    def close(self) -> None:
        """Flush, then let go. StoreError says how many answers could not be written, if any."""
        if self._closed:
            return
        try:
            self.flush()
        finally:
            with self._changed:
                self._closing = self._closed = True
                self._changed.notify_all()
            self._writer.join()
            self._table.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check(self) -> None:
        """Raise what keeps rows from being taken (with _changed held)."""
        if self._closed:
            raise self._failure("the store is closed")
        if error := self._error:
            waiting = len(self._queued) + len(self._writing)
            what = f"{error.what}; {waiting} answers are waiting to be written"
            raise StoreError(what, where=error.where, remedy=error.remedy) from error

    def _failure(self, what: str) -> StoreError:
        return StoreError(what, where=self.where, remedy="open it again: Store(path)")

    def _write(self) -> None:
        """The writer's life: take what has gathered, commit it, tell who waits."""
        while self._take():
            error = self._commit()
            with self._changed:
                self._error = error
                if error is None:
                    self._committed += len(self._writing)
                    self._writing = {}
                self._changed.notify_all()

    def _take(self) -> bool:
        """Wait for rows and move them to `_writing`; False when the store closes."""
        with self._changed:
            while not self._closing and (self._error or not (self._queued or self._writing)):
                self._changed.wait()
            if not self._closing and not self._hurry and not self._writing:
                self._changed.wait_for(self._should_write, self._linger)
            if not self._writing:  # else the last commit failed: the same rows again
                self._writing, self._queued, self._bytes = self._queued, {}, 0
                self._hurry = False
                self._changed.notify_all()
            return not self._closing

    def _should_write(self) -> bool:
        return self._hurry or self._closing or self._bytes >= self._limit // 2

    def _commit(self) -> StoreError | None:
        try:
            self._table.insert(self._writing)
        except StoreError as error:
            return error
        except Exception as error:  # a row that cannot be encoded, no memory: never lost in silence
            what = f"the writer failed: {error!r}"
            return StoreError(what, where=self.where, remedy="report this with its traceback")
        return None


def _table(where: str) -> Table:
    if where.startswith(("postgresql://", "postgres://")):
        from rlaif.completions.postgres import PostgresTable

        return PostgresTable(where)
    if "://" in where:
        what = "a store is a file, or a database by a URL that begins with postgresql://"
        raise StoreError(what, where=shown(where), remedy="write postgresql://USER@HOST/NAME")
    return SqliteTable(Path(where))
