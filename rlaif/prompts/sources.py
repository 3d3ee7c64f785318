"""Where prompts come from: JSONL and Parquet files and datasets on the hub, read row by row."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from rlaif import jsonl
from rlaif.config.run import SourceConfig
from rlaif.errors import DataError

JSONL = (".jsonl", ".ndjson", ".json")
Row = dict[str, Any]


def name(source: SourceConfig) -> str:
    """The source's name without its folder, for what is written down."""
    return source.path.name if source.path else str(source.hub)


def numbered(source: SourceConfig) -> Iterator[tuple[int, Row]]:
    """The rows of a source, each with its number: of the line in JSONL, else of the row, from 1.

    Raises:
        DataError: it cannot be read; for JSONL it says which line.
    """
    if source.path is None:
        return enumerate(_hub(source), 1)
    if source.path.suffix == ".parquet":
        used = (source.column, source.id_column, source.tags_column, source.split_column)
        return enumerate(_parquet(source.path, used), 1)
    if source.path.name.removesuffix(".gz").endswith(JSONL):
        return jsonl.numbered(source.path, Row)
    remedy = f"save it as {', '.join(JSONL)} (.gz too) with one JSON object a line, or as .parquet"
    raise DataError("this is no kind of file that is read", where=str(source.path), remedy=remedy)


def _parquet(path: Path, used: Collection[str | None]) -> Iterator[Row]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            wanted = [name for name in names if name in used]
            others = dict.fromkeys(name for name in names if name not in wanted)
            for batch in file.iter_batches(batch_size=1024, columns=wanted):
                for row in batch.to_pylist():
                    yield others | row
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(str(error), where=str(path), remedy="check the file") from error


def _hub(source: SourceConfig) -> Iterator[Row]:
    """A dataset streamed from the hub; `name@revision` pins it."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    named, _, revision = str(source.hub).partition("@")
    try:
        yield from load_dataset(
            named, split=source.hub_split, revision=revision or None, streaming=True
        )
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        what = str(error).strip() or type(error).__name__
        remedy = "check the name, its split and the network; a private one needs HF_TOKEN"
        raise DataError(what, where=f"{source.hub} ({source.hub_split})", remedy=remedy) from error
