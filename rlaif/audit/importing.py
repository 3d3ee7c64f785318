"""Verdicts that people gave in other tools, into the ledger.

They keep their source and are marked `blind: unknown`, so the gate leaves them out; overlays have
them, of people who judged nothing of the item here. Importing a file again adds nothing.

    rlaif audit import runs/mine verdicts.jsonl --source prodigy
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from rlaif.audit.chain import digest
from rlaif.audit.errors import AuditError
from rlaif.audit.exporting import FORMULA
from rlaif.audit.ledger import Ledger
from rlaif.audit.verdicts import Imported
from rlaif.errors import DataError
from rlaif.jsonl import rows

T = TypeVar("T")
READ = ("csv", "jsonl", "parquet", "argilla", "labelstudio")
SUFFIXES = {".csv": "csv", ".parquet": "parquet"}
WORDS = {
    "left": "a",
    "right": "b",
    "both-bad": "both_bad",
    "0": "cant",
    "1": "a",
    "2": "b",
    "3": "tie",
    "4": "both_bad",
}
REMEDY = (
    "each row needs `item` (or `number`), `reviewer` and `verdict`; `stage` and `text` may follow"
)


def import_file(
    ledger: Ledger, audit: int, path: Path, form: str | None = None, source: str | None = None
) -> tuple[int, int]:
    """Add the verdicts of a file in one of `READ`; how many are new, and how many were there.

    Where they are not named, the form is that of the file's suffix and the source is its name.
    Of an export's rows, those that count where they were given are read: no repeats, nothing late
    or taken back, no answer after the reveal. The last one for a person and question is added. Rows
    of items that are not in the audit are errors, and then nothing is added.

    Raises:
        DataError: the form is unknown, or the file or a row cannot be used; it says which.
    """
    form = form or SUFFIXES.get(path.suffix, "jsonl")
    source = source or path.name
    if form not in READ:
        raise DataError(f"no form is called {form!r}", remedy=f"one of {', '.join(READ)}")
    items = [(n, unit.item) for n, unit in ledger.items(audit) if unit.arm != "retest"]
    numbers = {item.id: n for n, item in items}
    first = {item.id: _first(item.kind) for _, item in items}
    found = dict[str, Imported]()
    for where, row in _standing(path, form):
        one = _imported(row, numbers, first, source, where)
        found[one.nonce] = one
    try:
        return ledger.record_import(audit, found.values(), source)
    except AuditError as error:
        raise DataError(error.what, where=str(path), remedy=error.remedy) from error


def _standing(path: Path, form: str) -> list[tuple[str, dict[str, Any]]]:
    """The rows that count, with their places; imported ones first, so that others replace them."""
    found = [(f"{path}, row {n}", row) for n, row in enumerate(_READERS[form](path), 1)]
    undone = {_undone(row, where) for where, row in found if row.get("act") == "undo"}
    standing = [
        (where, row) for where, row in found
        if row.get("act") in (None, "", "verdict") and row.get("arm") != "retest"
        and row.get("blind") != "no" and str(row.get("extra")).lower() not in ("true", "1")
        and str(row.get("seq")) not in undone
    ]  # fmt: skip
    return sorted(standing, key=lambda one: one[1].get("blind") == "yes")


def _undone(row: dict[str, Any], where: str) -> str:
    if row.get("supersedes") in (None, ""):
        what = "this row takes a verdict back, but does not say which (`supersedes`)"
        raise DataError(what, where=where, remedy="export the audit again, with this version")
    return str(row["supersedes"])


def _imported(
    row: dict[str, Any], numbers: dict[str, int], first: dict[str, str], source: str, where: str
) -> Imported:
    names = {number: name for name, number in numbers.items()}
    item = str(row.get("item") or names.get(_whole(row.get("number")), ""))
    if item not in numbers or not row.get("reviewer") or row.get("verdict") in (None, ""):
        raise DataError("this is no verdict on an item of the audit", where=where, remedy=REMEDY)
    stage = str(row.get("stage") or first[item])
    verdict = str(row["verdict"]).strip().lower()
    told = [source, item, str(row["reviewer"]), stage]
    return Imported(
        numbers[item], str(row["reviewer"]), stage, WORDS.get(verdict, verdict),
        f"import-{digest(told)[:32]}", str(row.get("text") or ""),
    )  # fmt: skip


def _first(kind: str) -> str:
    return "prefer" if kind == "preference" else "violated"


def _whole(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return 0


# --- readers --------------------------------------------------------------------------------------


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    table = csv.DictReader(io.StringIO(_text(path), newline=""))
    try:
        for row in table:
            yield {k: _back(v) for k, v in row.items() if isinstance(k, str)}
    except csv.Error as error:
        where = f"{path}:{table.line_num}"
        raise DataError(str(error), where=where, remedy="correct or remove this line") from None


def _back(text: str | None) -> str:
    """A cell without the mark that kept a spreadsheet from running it."""
    text = text or ""
    return text[1:] if text.startswith("'") and text[1:2] in (*FORMULA, "'") else text


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise _unread(path, error) from error
    except UnicodeDecodeError as error:
        where = f"{path}:{error.object.count(10, 0, error.start) + 1}"
        raise DataError("this is not UTF-8", where=where, remedy="save it as UTF-8") from None


def _unread(path: Path, error: Exception) -> DataError:
    what = f"the file cannot be read ({getattr(error, 'strerror', None) or error})"
    return DataError(what, where=str(path), remedy="check its path and its form")


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    return rows(path, dict[str, Any])


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        remedy = "pip install pyarrow, or bring a CSV or JSONL file"
        raise DataError("Parquet needs pyarrow, which is not installed", remedy=remedy) from error
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise _unread(path, error) from error


@dataclass
class _Response:
    question_name: str
    value: Any
    user: Any = None
    user_id: Any = None


@dataclass
class _Record:
    """What Argilla says of an item."""

    id: str | int
    responses: list[_Response] | None = None


def _argilla(path: Path) -> Iterator[dict[str, Any]]:
    for record in _read(path, _Record):
        for response in record.responses or ():
            user = response.user or response.user_id or "argilla"
            yield {
                "item": record.id, "reviewer": str(user), "stage": response.question_name,
                "verdict": response.value,
            }  # fmt: skip


@dataclass
class _Value:
    selected: str | None = None
    choices: list[str] | None = None


@dataclass
class _Result:
    value: _Value = field(default_factory=_Value)
    from_name: str | None = None


@dataclass
class _Annotation:
    result: list[_Result] | None = None
    completed_by: Any = None
    was_cancelled: bool = False


@dataclass
class _Task:
    """What Label Studio says of an item."""

    data: dict[str, Any]
    annotations: list[_Annotation] | None = None


def _labelstudio(path: Path) -> Iterator[dict[str, Any]]:
    for task in _read(path, _Task):
        for annotation in task.annotations or ():
            if annotation.was_cancelled:
                continue
            by = annotation.completed_by or "label studio"
            name = by.get("email") or by.get("id") if isinstance(by, dict) else by
            for result in annotation.result or ():
                said = result.value.selected or (result.value.choices or [None])[0]
                yield {
                    "item": task.data.get("item"), "number": task.data.get("number"),
                    "reviewer": str(name), "stage": result.from_name, "verdict": said,
                }  # fmt: skip


def _read(path: Path, type: type[T]) -> list[T]:
    """The objects in a list of JSON."""
    try:
        return msgspec.json.decode(_text(path), type=list[type])
    except msgspec.MsgspecError as error:
        remedy = "export it anew, or name another form"
        raise DataError(str(error), where=str(path), remedy=remedy) from None


_READERS = {
    "csv": _csv, "jsonl": _jsonl, "parquet": _parquet, "argilla": _argilla,
    "labelstudio": _labelstudio,
}  # fmt: skip
