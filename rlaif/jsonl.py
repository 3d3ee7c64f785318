"""Rows of records in JSON lines, streamed in both directions.

with writing(folder / "pairs.jsonl") as write:
    write(pair)
for pair in rows(folder / "pairs.jsonl", Pair):
    ...
"""

from __future__ import annotations

import gzip
import zlib
from codecs import BOM_UTF8 as BOM
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from rlaif.errors import DataError

T = TypeVar("T")


def rows(path: Path, type: type[T], *, holding: bytes = b"") -> Iterator[T]:
    """The rows of a file (.gz too), one at a time, each checked against its type; lines without
    `holding` are not even decoded.

    Raises:
        DataError: the file is missing, or a line is not such a row; it says which line.
    """
    return (row for _, row in numbered(path, type, holding=holding))


def numbered(path: Path, type: type[T], *, holding: bytes = b"") -> Iterator[tuple[int, T]]:
    """`rows`, each with the number of its line, from 1."""
    import msgspec

    decoder = msgspec.json.Decoder(type)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip() and holding in line:
                    try:
                        yield number, decoder.decode(line.removeprefix(BOM))
                    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                        where, remedy = f"{path}:{number}", _remedy(number, line)
                        raise DataError(str(error), where=where, remedy=remedy) from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(str(error), where=str(path), remedy="check the file") from error


def _remedy(number: int, line: bytes) -> str:
    """What to do about a line that is no row."""
    if line.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        return "save the file as UTF-8; this is UTF-16"
    if number == 1 and (line.lstrip()[:1] == b"[" or line.strip() == b"{"):
        return "write one JSON object a line; `jq -c '.[]' FILE` does that to a list"
    return "correct or remove this line"


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
