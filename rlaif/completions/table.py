"""What the store needs of a database, and the nouns that pass between them."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol, cast

from rlaif.completions.calls import BLOCK, decode, encode, pack, unpack
from rlaif.records import Answer, Call

SCHEMA = 1  # version of the tables below, in every database

# Columns of an answer as they lie in a table. `text` is UTF-8 bytes, because a text column holds
# neither NUL (Postgres) nor lone surrogates; `logprobs` are little-endian doubles, exact.
ANSWER: Final = "text, finish, prompt_tokens, completion_tokens, logprobs"
Columns = tuple[bytes, str, int, int, bytes | None]


class Put(NamedTuple):
    """One answer on its way to the table."""

    model: str
    call: Call
    answer: Answer


@dataclass(frozen=True, slots=True)
class Record:
    """A row in full: enough to show the exact prompt behind an answer."""

    key: bytes
    model: str
    created: float  # seconds since 1970, UTC: when it was written
    call: Call
    answer: Answer


@dataclass(frozen=True, slots=True)
class Summary:
    """What the store holds of one model. A rerun of all of it would pay none of these tokens."""

    model: str
    rows: int
    prompt_tokens: int
    completion_tokens: int
    oldest: float  # seconds since 1970, UTC
    newest: float


class Table(Protocol):
    """A database of completions. Every method is thread safe and raises only StoreError."""

    def insert(self, puts: Mapping[bytes, Put]) -> None:
        """Commit these rows, durably and all or none; a key already there keeps its row."""
        ...

    def select(self, keys: Collection[bytes]) -> dict[bytes, Answer]:
        """The answers known for `keys`."""
        ...

    def between(self, low: bytes, high: bytes, limit: int) -> list[Record]:
        """Up to `limit` records whose key lies in [low, high], in key order."""
        ...

    def records(self, model: str | None) -> Iterator[Record]:
        """Every record (of one model), in the order of writing."""
        ...

    def summaries(self) -> list[Summary]:
        """One summary for each model, largest first."""
        ...

    def size(self) -> int:
        """Bytes on disk."""
        ...

    def prune(self, model: str | None, before: float | None, dry_run: bool) -> int:
        """Delete the rows of `model` written before a time; how many they are (or would be)."""
        ...

    def vacuum(self) -> None:
        """Give the space of deleted rows back to the disk."""
        ...

    def close(self) -> None: ...


def shown(where: str) -> str:
    """A path as it is, or a URL without its password, for messages."""
    hidden = re.sub(r"(?<=://)([^:/@?]*):.*@", r"\1:***@", where)
    return re.sub(r"(?<=password=)[^&]*", "***", hidden) if "://" in where else where


def blocks(puts: Mapping[bytes, Put]) -> Iterator[tuple[str, bytes, list[tuple[bytes, Answer]]]]:
    """Cut `puts` into blocks of one model each: model, packed calls, and key and answer by slot.

    A block has one model and one time, so pruning by either removes prompts with their answers.
    """
    models: dict[str, list[bytes]] = {}
    for key, put in puts.items():
        models.setdefault(put.model, []).append(key)
    for model, keys in models.items():
        for start in range(0, len(keys), BLOCK):
            chunk = keys[start : start + BLOCK]
            calls = pack([encode(model, puts[key].call) for key in chunk])
            yield model, calls, [(key, puts[key].answer) for key in chunk]


def to_records(rows: Iterable[Any], block_of: Callable[[int], bytes]) -> Iterator[Record]:
    """The records of `RECORD`'s rows; a block is read once for all its neighbours."""
    last, calls = None, []
    for key, *columns, model, created, block, slot in rows:
        if block != last:
            last, calls = block, unpack(block_of(block))
        yield Record(key, model, created, decode(calls[slot])[1], to_answer(*columns))


def to_columns(answer: Answer) -> Columns:
    """An answer as the columns of `ANSWER`."""
    logprobs = answer.logprobs
    return (
        answer.text.encode("utf-8", "surrogatepass"),
        answer.finish,
        answer.prompt_tokens,
        answer.completion_tokens,
        struct.pack(f"<{len(logprobs)}d", *logprobs) if logprobs else None,
    )


def to_answer(text: bytes, finish: str, prompt: int, completion: int, logprobs: Any) -> Answer:
    """The answer that `to_columns` was given."""
    numbers = struct.unpack(f"<{len(logprobs) // 8}d", logprobs) if logprobs else ()
    said = text.decode("utf-8", "surrogatepass")
    return Answer(said, cast(Any, finish), prompt, completion, numbers)
