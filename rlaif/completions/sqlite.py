"""Completions in one SQLite file, in WAL mode, shared by threads and processes.

Durability: every commit syncs the write-ahead log (synchronous=FULL), so what is committed survives
`kill -9` and a power cut. Batches make that cheap.

sqlite3 lets go of the GIL at every step of a statement, and a writer that does so for each row
waits for it up to 5 ms each time while the engine is busy. So a block of rows goes in as one
statement.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from rlaif.completions.table import (
    ANSWER,
    SCHEMA,
    Put,
    Record,
    Summary,
    blocks,
    to_answer,
    to_columns,
    to_records,
)
from rlaif.errors import StoreError
from rlaif.records import Answer

log = logging.getLogger(__name__)

APPLICATION = 0x524C4149  # "RLAI", the file's application_id
BUSY = 30.0  # seconds to wait for another process's lock
KEYS = 500  # keys in one SELECT

TABLES = f"""
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {SCHEMA};
CREATE TABLE blocks (  -- up to 256 prompts, compressed together (calls.py)
    id INTEGER PRIMARY KEY, model TEXT NOT NULL, created REAL NOT NULL, calls BLOB NOT NULL
);
CREATE TABLE answers (
    key BLOB NOT NULL UNIQUE, block INTEGER NOT NULL, slot INTEGER NOT NULL,
    text BLOB NOT NULL, finish TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, logprobs BLOB
);
"""
RECORD = f"""SELECT key, {ANSWER}, model, created, block, slot
             FROM answers CROSS JOIN blocks ON id = block"""  # CROSS: answers in the outer loop
SUMMARY = """model, count(*), sum(prompt_tokens), sum(completion_tokens), min(created), max(created)
             FROM answers CROSS JOIN blocks ON id = block"""
PRUNED = "SELECT id FROM blocks WHERE model = ifnull(?, model) AND created < ifnull(?, 9e99)"

ELSEWHERE = "name another with --store or RLAIF_STORE"
PROBLEMS = {  # primary result code: what is wrong, and what to do about it
    sqlite3.SQLITE_FULL: ("the disk is full", "free some space, then flush or run again"),
    sqlite3.SQLITE_BUSY: (
        f"another process has kept the store locked for {BUSY:.0f} s",
        f"wait for it or stop it, then run again; or {ELSEWHERE}",
    ),
    sqlite3.SQLITE_READONLY: ("the store cannot be written", f"make it writable, or {ELSEWHERE}"),
    sqlite3.SQLITE_CANTOPEN: (
        "the store cannot be opened",
        f"see that file and folder are readable and writable, or {ELSEWHERE}",
    ),
    sqlite3.SQLITE_NOTADB: ("this is not a completions store", f"move it away, or {ELSEWHERE}"),
    sqlite3.SQLITE_CORRUPT: (
        "the store is damaged",
        "move it away; `sqlite3 FILE .recover` saves what can be read",
    ),
    sqlite3.SQLITE_IOERR: (
        "the disk failed",
        f"see the system's log; network drives will not do: {ELSEWHERE}",
    ),
}


class SqliteTable:
    """The tables of one file, created if need be, and a pool of connections to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._idle: list[sqlite3.Connection] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            remedy = f"see that the folder can be made, or {ELSEWHERE}"
            raise StoreError(str(error), where=str(path), remedy=remedy) from error
        try:
            with self._connection() as connection:
                self._create(connection)
        except StoreError:
            self.close()
            raise

    def insert(self, puts: Mapping[bytes, Put]) -> None:
        """Commit these rows in one transaction; a key already there keeps its row."""
        now, ready = time.time(), list(blocks(puts))  # compressed before others have to wait
        with self._connection() as connection, _transaction(connection):
            for model, calls, rows in ready:
                _insert_block(connection, (model, now, calls), rows)

    def select(self, keys: Collection[bytes]) -> dict[bytes, Answer]:
        """The answers known for `keys`."""
        wanted = list(keys)
        found: dict[bytes, Answer] = {}
        with self._connection() as connection:
            for start in range(0, len(wanted), KEYS):
                some = wanted[start : start + KEYS]
                marks = ",".join("?" * len(some))
                sql = f"SELECT key, {ANSWER} FROM answers WHERE key IN ({marks})"
                for key, *columns in connection.execute(sql, some).fetchall():
                    found[key] = to_answer(*columns)
        return found

    def between(self, low: bytes, high: bytes, limit: int) -> list[Record]:
        """Up to `limit` records whose key lies in [low, high], in key order."""
        sql = f"{RECORD} WHERE key BETWEEN ? AND ? ORDER BY key LIMIT ?"
        with self._connection() as connection:
            return list(_records(connection, connection.execute(sql, (low, high, limit))))

    def records(self, model: str | None) -> Iterator[Record]:
        """Every record (of one model), in the order of writing."""
        sql = f"{RECORD} WHERE model = ifnull(?, model) ORDER BY answers.rowid"
        with self._connection() as connection:
            yield from _records(connection, connection.execute(sql, (model,)))

    def summaries(self) -> list[Summary]:
        """One summary for each model, largest first."""
        sql = f"SELECT {SUMMARY} GROUP BY model ORDER BY 2 DESC"
        with self._connection() as connection:
            return [Summary(*row) for row in connection.execute(sql)]

    def size(self) -> int:
        """Bytes of the file and its write-ahead log."""
        files = (self.path, self.path.with_name(self.path.name + "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def prune(self, model: str | None, before: float | None, dry_run: bool) -> int:
        """Delete the rows of `model` written before a time; how many they are (or would be)."""
        rows, which = f"FROM answers WHERE block IN ({PRUNED})", (model, before)
        with self._connection() as connection, _transaction(connection):
            (count,) = connection.execute(f"SELECT count(*) {rows}", which).fetchone()
            if not dry_run:
                connection.execute(f"DELETE {rows}", which)
                connection.execute(f"DELETE FROM blocks WHERE id IN ({PRUNED})", which)
        return count

    def vacuum(self) -> None:
        """Give the space of deleted rows back to the disk, unless the store is in use."""
        with self._connection() as connection:
            try:
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL):
                    raise
                log.warning("%s: space is reused, but not given back: %s", self.path, error)

    def close(self) -> None:
        """Close every connection; the last one to leave folds the log into the file."""
        while self._idle:
            self._idle.pop().close()

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection to one thread; sqlite's errors come out as StoreError."""
        connection = None
        try:
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self._connect()
            yield connection
        except (sqlite3.Error, ValueError) as error:  # ValueError: a block that cannot be read
            raise self._problem(error) from error
        finally:
            if connection is not None:
                self._idle.append(connection)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path,
            timeout=BUSY,
            isolation_level=None,  # transactions are explicit
            check_same_thread=False,  # lent to one thread at a time
            cached_statements=16,
        )
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA cache_size = -65536")  # kB, at most: the index of a million rows
        connection.execute("PRAGMA wal_autocheckpoint = 16384")  # pages of 4 kB
        connection.execute("PRAGMA journal_size_limit = 67108864").fetchall()
        return connection

    def _create(self, connection: sqlite3.Connection) -> None:
        """Make the tables if the file is empty; StoreError if it is someone else's, or newer."""
        with _transaction(connection, "DEFERRED"):  # one view of a file that others may be making
            if self._is_ready(connection):
                return
        _set_wal(connection)
        with _transaction(connection):
            if not self._is_ready(connection):  # else another process was faster
                for statement in TABLES.split(";"):
                    connection.execute(statement)

    def _is_ready(self, connection: sqlite3.Connection) -> bool:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application != APPLICATION and (tables or application or version):
            what, remedy = PROBLEMS[sqlite3.SQLITE_NOTADB]
            raise StoreError(what, where=str(self.path), remedy=remedy)
        if version > SCHEMA:
            what = f"the store was made by a newer rlaif (schema {version}, this one has {SCHEMA})"
            raise StoreError(what, where=str(self.path), remedy=f"upgrade rlaif, or {ELSEWHERE}")
        return application == APPLICATION

    def _problem(self, error: Exception) -> StoreError:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        what, remedy = PROBLEMS.get(code, ("the store failed", f"see the error, or {ELSEWHERE}"))
        return StoreError(f"{what} ({error})", where=str(self.path), remedy=remedy)


def _insert_block(
    connection: sqlite3.Connection,
    block: tuple[str, float, bytes],
    rows: list[tuple[bytes, Answer]],
) -> None:
    """One block of prompts and its answers; nothing at all if every key is already there."""
    sql = "INSERT INTO blocks (model, created, calls) VALUES (?, ?, ?)"
    number = connection.execute(sql, block).lastrowid
    values: list[object] = []
    for slot, (key, answer) in enumerate(rows):
        values += (key, number, slot, *to_columns(answer))
    marks = ",".join(["(?,?,?,?,?,?,?,?)"] * len(rows))
    sql = f"INSERT INTO answers VALUES {marks} ON CONFLICT (key) DO NOTHING"
    if not connection.execute(sql, values).rowcount:
        connection.execute("DELETE FROM blocks WHERE id = ?", (number,))


def _records(connection: sqlite3.Connection, rows: sqlite3.Cursor) -> Iterator[Record]:
    sql = "SELECT calls FROM blocks WHERE id = ?"
    return to_records(rows, lambda block: connection.execute(sql, (block,)).fetchone()[0])


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk may have rolled back by itself
            connection.execute("ROLLBACK")
        raise


def _set_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL; this one pragma does not wait for locks by itself."""
    deadline = time.monotonic() + BUSY
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
