"""Completions in a Postgres database, for teams: the same tables and the same promises as SQLite's.

Needs psycopg 3 (`pip install 'psycopg[binary]'`). How durable a commit is, is the server's setting
(`synchronous_commit`, on by default: as safe as SQLite's).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from rlaif.completions.table import (
    ANSWER,
    SCHEMA,
    Put,
    Record,
    Summary,
    blocks,
    shown,
    to_answer,
    to_columns,
    to_records,
)
from rlaif.errors import StoreError
from rlaif.records import Answer

try:
    import psycopg
except ImportError as error:
    raise StoreError(
        "a postgresql:// store needs psycopg, which is not installed",
        remedy="pip install 'psycopg[binary]', or name a file instead",
    ) from error

LOCK = 0x524C4149  # "RLAI": the advisory lock under which the tables are made
IDLE = 60.0  # seconds after which servers and firewalls may have cut an unused connection

TABLES = """
CREATE TABLE rlaif_schema (version integer NOT NULL);
CREATE TABLE rlaif_blocks (
    id bigserial PRIMARY KEY, model text NOT NULL, created double precision NOT NULL,
    calls bytea NOT NULL
);
ALTER TABLE rlaif_blocks ALTER calls SET STORAGE EXTERNAL;  -- compressed already
CREATE TABLE rlaif_answers (
    key bytea PRIMARY KEY, block bigint NOT NULL, slot integer NOT NULL,
    text bytea NOT NULL, finish text NOT NULL,
    prompt_tokens bigint NOT NULL, completion_tokens bigint NOT NULL, logprobs bytea
);
"""
INSERT = f"""
INSERT INTO rlaif_answers (key, block, slot, {ANSWER})
SELECT * FROM unnest(%s::bytea[], %s::bigint[], %s::integer[], %s::bytea[], %s::text[],
                     %s::bigint[], %s::bigint[], %s::bytea[])
ON CONFLICT (key) DO NOTHING RETURNING block
"""
RECORD = f"""
SELECT key, {ANSWER}, model, created, block, slot
FROM rlaif_answers JOIN rlaif_blocks ON id = block
"""


class PostgresTable:
    """The tables in one database, created if need be, and a pool of connections to it."""

    def __init__(self, url: str) -> None:
        self._url, self._where = url, shown(url)
        self._idle: list[tuple[float, psycopg.Connection]] = []  # since when
        try:
            with self._connection() as connection, connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
                self._create(connection)
        except StoreError:
            self.close()
            raise

    def insert(self, puts: Mapping[bytes, Put]) -> None:
        """Commit these rows in one transaction; a key already there keeps its row.

        All processes insert in key order, so that two with the same keys never deadlock.
        """
        now, ready = time.time(), list(blocks(puts))
        sql = "INSERT INTO rlaif_blocks (model, created, calls) VALUES (%s, %s, %s) RETURNING id"
        with self._connection() as connection, connection.transaction():
            rows, numbers = [], set()
            for model, calls, answers in ready:
                (number,) = _one(connection, sql, (model, now, calls))
                numbers.add(number)
                for slot, (key, answer) in enumerate(answers):
                    rows.append((key, number, slot, *to_columns(answer)))
            columns = [list(column) for column in zip(*sorted(rows), strict=True)]
            used = {number for (number,) in connection.execute(INSERT, columns)}
            unused = list(numbers - used)
            connection.execute("DELETE FROM rlaif_blocks WHERE id = ANY(%s)", (unused,))

    def select(self, keys: Collection[bytes]) -> dict[bytes, Answer]:
        """The answers known for `keys`."""
        sql = f"SELECT key, {ANSWER} FROM rlaif_answers WHERE key = ANY(%s::bytea[])"
        with self._connection() as connection:
            rows = connection.execute(sql, (list(keys),), binary=True).fetchall()
        return {key: to_answer(*columns) for key, *columns in rows}

    def between(self, low: bytes, high: bytes, limit: int) -> list[Record]:
        """Up to `limit` records whose key lies in [low, high], in key order."""
        sql = f"{RECORD} WHERE key BETWEEN %s AND %s ORDER BY key LIMIT %s"
        with self._connection() as connection, connection.transaction():
            rows = connection.execute(sql, (low, high, limit), binary=True)
            return list(_records(connection, rows))

    def records(self, model: str | None) -> Iterator[Record]:
        """Every record (of one model), in the order of writing, as things stood at the start."""
        sql = f"{RECORD} WHERE %(model)s::text IS NULL OR model = %(model)s ORDER BY block, slot"
        with self._connection() as connection, connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            with connection.cursor("records", binary=True) as rows:
                yield from _records(connection, rows.execute(sql, {"model": model}))

    def summaries(self) -> list[Summary]:
        """One summary for each model, largest first."""
        sql = """SELECT model, count(*), sum(prompt_tokens)::bigint, sum(completion_tokens)::bigint,
                 min(created), max(created) FROM rlaif_answers JOIN rlaif_blocks ON id = block
                 GROUP BY model ORDER BY 2 DESC"""
        with self._connection() as connection:
            return [Summary(*row) for row in connection.execute(sql)]

    def size(self) -> int:
        """Bytes of the tables and their indexes."""
        sizes = [f"pg_total_relation_size('rlaif_{table}')" for table in ("blocks", "answers")]
        with self._connection() as connection:
            return _one(connection, f"SELECT {' + '.join(sizes)}")[0]

    def prune(self, model: str | None, before: float | None, dry_run: bool) -> int:
        """Delete the rows of `model` written before a time; how many they are (or would be)."""
        which = """FROM rlaif_blocks WHERE (%(model)s::text IS NULL OR model = %(model)s)
                   AND (%(before)s::float8 IS NULL OR created < %(before)s)"""
        count = f"SELECT count(*) FROM rlaif_answers WHERE block IN (SELECT id {which})"
        # in one statement: what others write meanwhile keeps its prompts
        delete = f"""WITH gone AS (DELETE {which} RETURNING id)
                     DELETE FROM rlaif_answers WHERE block IN (SELECT id FROM gone)"""
        values = {"model": model, "before": before}
        with self._connection() as connection:
            if dry_run:
                return _one(connection, count, values)[0]
            return connection.execute(delete, values).rowcount

    def vacuum(self) -> None:
        """Let the space of deleted rows be used again (the server keeps the files' size)."""
        with self._connection() as connection:
            connection.execute("VACUUM rlaif_answers, rlaif_blocks")

    def close(self) -> None:
        """Close every connection."""
        while self._idle:
            self._idle.pop()[1].close()

    @contextlib.contextmanager
    def _connection(self) -> Iterator[psycopg.Connection]:
        """Lend a connection to one thread; psycopg's errors come out as StoreError."""
        connection = None
        try:
            connection = self._lent()
            yield connection
        except (psycopg.Error, ValueError) as error:
            remedy = "see that the server is up and the URL right, then flush or run again"
            raise StoreError(str(error).strip(), where=self._where, remedy=remedy) from error
        finally:
            if connection is not None and not connection.closed:
                self._idle.append((time.monotonic(), connection))

    def _lent(self) -> psycopg.Connection:
        """A connection that was used of late, or a new one: what idles during a training is cut."""
        with contextlib.suppress(IndexError):
            while True:
                since, connection = self._idle.pop()
                if time.monotonic() - since < IDLE:
                    return connection
                connection.close()
        return psycopg.connect(self._url, autocommit=True, connect_timeout=10)

    def _create(self, connection: psycopg.Connection) -> None:
        """Make the tables if there are none; StoreError if they are newer than this program.

        Tables that are there are not touched: that would wait for whoever reads or writes them.
        """
        if not _one(connection, "SELECT to_regclass('rlaif_schema')")[0]:
            connection.execute(TABLES)
            connection.execute("INSERT INTO rlaif_schema VALUES (%s)", (SCHEMA,))
        (version,) = _one(connection, "SELECT max(version) FROM rlaif_schema")
        if version > SCHEMA:
            what = f"the store was made by a newer rlaif (schema {version}, this one has {SCHEMA})"
            raise StoreError(what, where=self._where, remedy="upgrade rlaif, or name another store")


def _one(connection: psycopg.Connection, sql: Any, values: Any = None) -> Any:
    """The only row of a query that always has one."""
    return connection.execute(sql, values).fetchone()


def _records(connection: psycopg.Connection, rows: psycopg.Cursor) -> Iterator[Record]:
    sql = "SELECT calls FROM rlaif_blocks WHERE id = %s"
    return to_records(rows, lambda block: _one(connection, sql, (block,))[0])
