"""`rlaif cache`: look at the completions store, make it smaller, and take its rows elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from rlaif.completions import Record, Store, Summary

SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400}
ROWS = 1024  # rows of one Parquet row group

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
in_store = click.option(
    "--store",
    "where",
    metavar="PATH",
    help="The store: a file or a postgresql:// URL. [default: $RLAIF_STORE, else one in ~/.cache]",
)
of_model = click.option("--model", help="Only the rows of this model, named in full.")


class Age(click.ParamType):
    """A length of time such as 12h, 30d or 8w, in seconds."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, int):
            return value
        if not (found := re.fullmatch(r"(\d+)([hdw])", value)):
            self.fail(f"{value!r} is not a length of time; write 12h, 30d or 8w", param, ctx)
        return int(found[1]) * SECONDS[found[2]]


@click.group()
def cache() -> None:
    """Look after the completions store, where every model call is kept."""


@cache.command()
@in_store
@as_json
def info(where: str | None, as_json: bool) -> None:
    """Say what the store holds: rows, size, models, times, and what a rerun would save."""
    with _opened(where) as store:
        summaries, size = store.summaries(), store.size()
    if as_json:
        models = [
            asdict(s) | {"oldest": _day(s.oldest), "newest": _day(s.newest)} for s in summaries
        ]
        found = {"store": store.where, "bytes": size, **_total(summaries), "models": models}
        click.echo(json.dumps(found))
    else:
        _print_info(store.where, size, summaries)


@cache.command()
@in_store
@of_model
@click.option("--older-than", "age", type=Age(), help="Only rows written longer ago: 12h, 30d, 8w.")
@click.option("--all", "everything", is_flag=True, help="Every row.")
@click.option("--dry-run", is_flag=True, help="Only say how many rows that would be.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
def prune(
    where: str | None,
    model: str | None,
    age: int | None,
    everything: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Delete rows by model, by age or by both, and give their space back to the disk.

    A call that is asked again afterwards is paid again.
    """
    if everything == (model is not None or age is not None):
        raise click.UsageError("say which rows: --model, --older-than or both; or else --all")
    if as_json and not (yes or dry_run):
        raise click.UsageError("--json cannot ask: add --yes or --dry-run")
    which = {"model": model, "before": None if age is None else time.time() - age}
    with _opened(where) as store:
        before = store.size()
        rows = store.prune(**which, dry_run=dry_run or not yes)
        if rows and not yes and not dry_run:
            click.confirm(f"Delete {rows:,} rows of {store.where}?", abort=True, err=True)
            rows = store.prune(**which)
        freed = before - store.size()
    if as_json:
        click.echo(json.dumps({"rows": rows, "bytes_freed": freed, "dry_run": dry_run}))
    elif dry_run:
        click.echo(f"{rows:,} rows would be deleted")
    else:
        click.echo(f"{rows:,} rows deleted, {_megabytes(freed)} freed")


@cache.command()
@in_store
@of_model
@click.option(
    "--output", "-o", default="-", help="A .jsonl or .parquet file. [default: stdout, as JSONL]"
)
@as_json
def export(where: str | None, model: str | None, output: str, as_json: bool) -> None:
    """Write prompts and answers, in the order of writing: JSON Lines, or Parquet.

    With --json, a summary is printed when the rows go to a file.
    """
    if output != "-" and Path(output).suffix not in (".jsonl", ".ndjson", ".json", ".parquet"):
        raise click.UsageError("name a file that ends in .jsonl or .parquet")
    with _opened(where) as store:
        rows = map(_row, store.records(model))
        if output == "-":
            _write_jsonl(rows, sys.stdout)
            return
        with _replacing(Path(output)) as partial:
            written = (_to_parquet if output.endswith(".parquet") else _to_jsonl)(rows, partial)
    summary = json.dumps({"rows": written, "file": output})
    click.echo(summary if as_json else f"{written:,} rows written to {output}")


@contextlib.contextmanager
def _opened(where: str | None) -> Iterator[Store]:
    """A store that is already there; its errors end the command with their remedy."""
    from rlaif.completions import Store, default_path
    from rlaif.errors import StoreError

    where = where or default_path()
    path = Path(where)
    if "://" not in where and (not path.exists() or (path.is_file() and not path.stat().st_size)):
        raise click.ClickException(
            f"{where}: there is no completions store yet\n"
            "  remedy: a run makes one; name another with --store or RLAIF_STORE"
        )
    try:
        with Store(where) as store:
            yield store
    except StoreError as error:
        raise click.ClickException(str(error)) from error


def _total(summaries: list[Summary]) -> dict[str, Any]:
    return {
        "rows": sum(s.rows for s in summaries),
        "saved": {
            "calls": sum(s.rows for s in summaries),
            "prompt_tokens": sum(s.prompt_tokens for s in summaries),
            "completion_tokens": sum(s.completion_tokens for s in summaries),
        },
        "oldest": _day(min(s.oldest for s in summaries)) if summaries else None,
        "newest": _day(max(s.newest for s in summaries)) if summaries else None,
    }


def _print_info(where: str, size: int, summaries: list[Summary]) -> None:
    total = _total(summaries)
    click.echo(f"{where}: {total['rows']:,} rows, {_megabytes(size)}")
    if not summaries:
        return
    saved = total["saved"]
    click.echo(f"written from {total['oldest']} to {total['newest']}")
    click.echo(
        f"asked again, all of it would save {saved['calls']:,} calls, {saved['prompt_tokens']:,} "
        f"prompt tokens and {saved['completion_tokens']:,} completion tokens"
    )
    click.echo(f"\n{'rows':>12}  {'prompt':>14}  {'completion':>12}  {'newest':20}  model")
    for s in summaries:
        click.echo(
            f"{s.rows:12,}  {s.prompt_tokens:14,}  {s.completion_tokens:12,}  {_day(s.newest):20}  "
            f"{s.model or '(not given)'}"
        )


def _row(record: Record) -> dict[str, Any]:
    """A record as one flat row; `created` is in UTC."""
    call, answer = asdict(record.call), asdict(record.answer)
    head = {"key": record.key.hex(), "model": record.model, "created": _day(record.created)}
    return head | call | answer


def _write_jsonl(rows: Iterator[dict[str, Any]], file: TextIO) -> int:
    written = 0
    for row in rows:
        file.write(json.dumps(row) + "\n")
        written += 1
    return written


def _to_jsonl(rows: Iterator[dict[str, Any]], path: Path) -> int:
    with path.open("w", encoding="utf-8") as file:
        return _write_jsonl(rows, file)


def _to_parquet(rows: Iterator[dict[str, Any]], path: Path) -> int:
    import pyarrow as pa
    from pyarrow import parquet

    text, whole, real = pa.string(), pa.int64(), pa.float64()
    sampling = {
        "temperature": real,
        "top_p": real,
        "max_tokens": whole,
        "stop": pa.list_(text),
        "seed": whole,
    }
    columns: dict[str, Any] = {
        "key": text,
        "model": text,
        "created": text,
        "messages": pa.list_(pa.struct({"role": text, "content": text})),
        "sampling": pa.struct(sampling),
        "sample": whole,
        "labels": pa.list_(text),
        "text": text,
        "finish": text,
        "prompt_tokens": whole,
        "completion_tokens": whole,
        "logprobs": pa.list_(real),
    }
    schema, written = pa.schema(columns), 0
    with parquet.ParquetWriter(path, schema) as writer:
        while some := list(islice(rows, ROWS)):
            writer.write_table(pa.Table.from_pylist(some, schema=schema))
            written += len(some)
    return written


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file to write beside `path`, which it replaces only when it is whole."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except UnicodeEncodeError as error:
        raise click.ClickException(f"Parquet cannot hold {error}; export as .jsonl") from error
    except OSError as error:
        raise click.ClickException(f"{path}: cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"
