"""The ledger's tables, and the database that they live in: a SQLite file, or PostgreSQL by URL.

What people said (`decision`, `adjudication`, `gate_event`) is never changed nor removed: triggers
abort it. These rows share one numbering and one chain of hashes (chain.py). `slot` alone changes
while people review: it says who has which item, and can be told from the rest.
"""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    insert,
    inspect,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from rlaif.audit.errors import AuditError
from rlaif.completions.table import shown

SCHEMA = 1
BUSY = 30.0  # seconds to wait for another process's lock
LOCK = 0x524C4155  # "RLAU": the advisory lock under which PostgreSQL's tables are made

metadata = MetaData()


def _table(name: str, *parts: Any) -> Table:
    return Table(name, metadata, *parts)


def _id() -> Column[Any]:
    return Column("id", Integer, primary_key=True)


def _text(name: str, **how: Any) -> Column[Any]:
    return Column(name, Text, nullable=False, **how)


def _number(name: str, to: str = "", **how: Any) -> Column[Any]:
    keys = [ForeignKey(to)] if to else []
    return Column(name, BigInteger if not to else Integer, *keys, nullable=False, **how)


ledger = _table("audit_ledger", _id(), _number("schema"), _number("seq"), _text("head"))
"""One row: the last number and hash of the chain. Whoever adds to the chain holds its lock."""

constitution = _table("constitution_version", Column("sha", Text, primary_key=True), _text("yaml"))
guideline = _table("guideline_version", Column("sha", Text, primary_key=True), _text("text"))

reviewer = _table(
    "reviewer", _id(), _text("name", unique=True), _text("role"), _number("active"),
    _number("created"),
)  # fmt: skip
token = _table(
    "reviewer_token", Column("hash", Text, primary_key=True), _number("reviewer", "reviewer.id"),
    _text("kind"), _number("until"),
)  # fmt: skip

item = _table(
    "item", _id(), _text("sha", unique=True), _text("name"), _text("kind"), _text("stratum"),
    _text("label"), Column("target", Float), Column("consistent", Integer), _number("longer"),
    _text("payload"), _text("ai"),
)  # fmt: skip
"""`longer`: characters of a less those of b. `consistent`: both orders agree; null: one order."""

audit = _table(
    "audit", _id(), _text("kind"), _text("title"), _text("labels"), _text("frame_sha"),
    _number("frame_size"), _number("seed"), Column("tau", Float, nullable=False),
    Column("alpha", Float, nullable=False), _number("cap"), _number("reviewers"), _text("strata"),
    _text("design"), _text("sizes"), _text("guideline_sha"), _text("constitution_sha"),
    _number("units"), _text("sha"), _number("created"),
)  # fmt: skip

unit = _table(
    "unit", _id(), _number("audit", "audit.id"), _number("number"), _number("item", "item.id"),
    _text("arm"), _number("order"), _text("stratum"), Column("pi", Float, nullable=False),
    _number("reviews"),
    UniqueConstraint("audit", "number"), UniqueConstraint("audit", "item"),
    Index("unit_order", "audit", "arm", "order"),
)  # fmt: skip
"""`order`: within the arm; of a repeat (arm `retest`), the number of the unit that it repeats."""

slot = _table(
    "slot", _id(), _number("audit", "audit.id"), _number("unit", "unit.id"), _number("number"),
    _text("arm"), _number("k"), Column("reviewer", Integer, ForeignKey("reviewer.id")),
    _text("state"), _number("lease"), _text("left"), _number("turn"), _number("taken"),
    _number("revealed"),
    UniqueConstraint("unit", "k"), UniqueConstraint("unit", "reviewer"),
    Index("slot_next", "audit", "state", "number"),
    Index("slot_mine", "reviewer", "audit", "state"),
)  # fmt: skip
"""`state`: open, claimed, decided, skipped, lapsed or closed. `turn` counts what was taken back,
by an undo or after a lapse."""

decision = _table(
    "decision", Column("seq", Integer, primary_key=True, autoincrement=False),
    _number("audit", "audit.id"), _number("number"), _number("unit", "unit.id"), _number("slot"),
    _number("reviewer", "reviewer.id"), _text("act"), _text("stage"), _text("verdict"),
    _text("left"), _text("text"), Column("supersedes", Integer), _text("nonce", unique=True),
    _number("active_ms"), _number("extra"), _text("blind"), _text("source"),
    _text("guideline_sha"), _text("constitution_sha"), _text("ui"), _number("created"),
    _text("prev"), _text("hash"),
    Index("decision_audit", "audit", "seq"), Index("decision_unit", "unit", "seq"),
    Index("decision_reviewer", "reviewer", "audit", "seq"),
)  # fmt: skip

adjudication = _table(
    "adjudication", Column("seq", Integer, primary_key=True, autoincrement=False),
    _number("audit", "audit.id"), _number("number"), _number("unit", "unit.id"),
    _number("reviewer", "reviewer.id"), _text("verdict"), _text("text"),
    _text("nonce", unique=True), _number("created"), _text("prev"), _text("hash"),
    Index("adjudication_audit", "audit", "seq"),
)  # fmt: skip

gate_event = _table(
    "gate_event", Column("seq", Integer, primary_key=True, autoincrement=False),
    _number("audit", "audit.id"), _text("state"), _text("figures"), _text("by"), _text("text"),
    _number("created"), _text("prev"), _text("hash"),
    Index("gate_event_audit", "audit", "seq"),
)  # fmt: skip

export_event = _table(
    "export_event", _id(), _number("audit", "audit.id"), _text("form"), _text("sha"),
    _number("rows"), _text("head"), _number("created"),
)  # fmt: skip

CHAINED = {"decision": decision, "adjudication": adjudication, "gate_event": gate_event}
FROZEN = (*CHAINED, "item", "unit", "guideline_version", "constitution_version", "export_event")

_PG_FUNCTION = """
CREATE OR REPLACE FUNCTION rlaif_append_only() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'this table is append-only'; END $$
"""


def _triggers(dialect: str) -> Iterator[str]:
    if dialect != "sqlite":
        yield _PG_FUNCTION
    for name in FROZEN:
        if dialect == "sqlite":
            for act in ("update", "delete"):
                yield (
                    f"CREATE TRIGGER {name}_no_{act} BEFORE {act} ON {name} "
                    f"BEGIN SELECT raise(ABORT, '{name} is append-only'); END"
                )
        else:
            yield (
                f"CREATE TRIGGER {name}_frozen BEFORE UPDATE OR DELETE OR TRUNCATE ON {name} "
                "FOR EACH STATEMENT EXECUTE FUNCTION rlaif_append_only()"
            )


class Database:
    """The tables in one database, made if need be, and connections to it."""

    def __init__(self, where: str | Path) -> None:
        self.where = shown(str(where))  # without a password
        self._file = None if "://" in str(where) else Path(where)
        self._writers = threading.Lock()
        with self._explained():
            self._engine = _engine(where)
        try:
            self._create()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state of things and writes nothing."""
        with self._explained(), self._engine.connect() as connection:
            if connection.dialect.name != "sqlite":
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is on the disk when the block ends; one at a time with SQLite."""
        with self._explained(), self._turn(), self._engine.connect() as connection:
            connection = connection.execution_options(rlaif_write=True)
            with connection.begin():
                yield connection

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def _create(self) -> None:
        with self.reading() as at:
            there = inspect(at).has_table("audit_ledger")
        if not there:
            with self.writing() as at:
                _make(at)
        with self.reading() as at:
            schema = at.execute(select(ledger.c.schema)).scalar_one()
        if schema > SCHEMA:
            what = f"the ledger was made by a newer rlaif (schema {schema}, this one has {SCHEMA})"
            raise AuditError(what, where=self.where, remedy="upgrade rlaif")

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """With SQLite, a writer's turn: it has no queue of its own, so a busy one may starve."""
        if self._file is None:
            yield
            return
        with self._writers, self._file.with_name(f".{self._file.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # given back when the file is closed
            yield

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except AuditError:
            raise
        except (SQLAlchemyError, OSError) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            raise AuditError(
                f"the ledger failed: {str(cause).strip()}",
                where=self.where,
                remedy="see that the disk has room, and the file or the server can be reached; "
                "what was acknowledged is safe",
            ) from error


def _make(at: Connection) -> None:
    if at.dialect.name != "sqlite":
        at.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
    if not inspect(at).has_table("audit_ledger"):  # another may have been quicker
        metadata.create_all(at)
        for trigger in _triggers(at.dialect.name):
            at.exec_driver_sql(trigger)
        at.execute(insert(ledger).values(id=1, schema=SCHEMA, seq=0, head=""))


def _engine(where: str | Path) -> Engine:
    if "://" in str(where):
        return _postgres(str(where))
    path = Path(where)
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(f"sqlite:///{path}", pool_size=16, max_overflow=16,
                           connect_args={"timeout": BUSY, "check_same_thread": False})  # fmt: skip
    event.listen(engine, "connect", _prepared)
    event.listen(engine, "begin", _begun)
    return engine


def _postgres(where: str) -> Engine:
    scheme, _, rest = where.partition("://")
    try:
        if scheme not in ("postgresql", "postgres", "postgresql+psycopg"):
            raise ValueError(scheme)
        url = make_url(f"postgresql+psycopg://{rest}")
        return create_engine(url, pool_size=16, max_overflow=16, pool_pre_ping=True)
    except (ValueError, ArgumentError):  # what it says may hold a piece of the password
        remedy = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, or a file"
        what = "this is no URL of a PostgreSQL database"
        raise AuditError(what, where=shown(where), remedy=remedy) from None
    except ImportError as error:
        remedy = "pip install 'psycopg[binary]', or name a file instead"
        what = "a postgresql:// ledger needs psycopg, which is not installed"
        raise AuditError(what, where=shown(where), remedy=remedy) from error


def _prepared(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # transactions are begun below, not by the driver
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begun(connection: Connection) -> None:
    writes = connection.get_execution_options().get("rlaif_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
