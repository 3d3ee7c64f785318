"""Rows of records in JSON lines, streamed in both directions.

with writing(folder / "pairs.jsonl") as write:
    write(pair)
for pair in rows(folder / "pairs.jsonl", Pair):
    ...
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from rlaif.errors import DataError

T = TypeVar("T")


def rows(path: Path, type: type[T]) -> Iterator[T]:
    """The rows of a file (.gz too), one at a time, each checked against its type.

    Raises:
        DataError: the file is missing, or a line is not such a row; it says which line.
    """
    return (row for _, row in numbered(path, type))


def numbered(path: Path, type: type[T]) -> Iterator[tuple[int, T]]:
    """`rows`, each with the number of its line, from 1."""
    import msgspec

    decoder = msgspec.json.Decoder(type)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        yield number, decoder.decode(line)
                    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                        where, remedy = f"{path}:{number}", "correct or remove this line"
                        raise DataError(str(error), where=where, remedy=remedy) from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(str(error), where=str(path), remedy="check the file") from error


@contextmanager
def writing(path: Path) -> Iterator[Callable[[object], None]]:
    """A function that adds one row to a new file, which is on the disk when the block ends."""
    import os

    import msgspec

    encode, buffer = msgspec.json.Encoder().encode, bytearray()
    with path.open("wb") as file:

        def write(row: object) -> None:
            buffer.extend(encode(row))
            buffer.append(10)
            if len(buffer) > 1 << 16:
                file.write(buffer)
                buffer.clear()

        yield write
        file.write(buffer)
        file.flush()
        os.fsync(file.fileno())
