"""Verdicts that people gave in other tools, into the ledger.

They keep their source and are marked `blind: unknown`, so the gate leaves them out; overlays have
them, of people who judged nothing of the item here. Importing a file again adds nothing.

    rlaif audit import runs/mine verdicts.jsonl --source prodigy
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlaif.audit.chain import digest
from rlaif.audit.errors import AuditError
from rlaif.audit.exporting import FORMULA
from rlaif.audit.ledger import Ledger
from rlaif.audit.verdicts import Imported
from rlaif.errors import DataError

READ = ("csv", "jsonl", "parquet", "argilla", "labelstudio")
WORDS = {
    "left": "a",
    "right": "b",
    "both-bad": "both_bad",
    "0": "cant",
    "1": "a",
    "2": "b",
    "3": "tie",
}
REMEDY = (
    "each row needs `item` (or `number`), `reviewer` and `verdict`; `stage` and `text` may follow"
)


def import_file(ledger: Ledger, audit: int, path: Path, form: str, source: str) -> tuple[int, int]:
    """Add the verdicts of a file in one of `READ`; how many are new, and how many were there.

    Rows of other acts than verdicts, and of items that are not in the audit, are errors, and then
    nothing is added.

    Raises:
        DataError: the form is unknown or a row cannot be used; it says which.
    """
    if form not in READ:
        raise DataError(f"no form is called {form!r}", remedy=f"one of {', '.join(READ)}")
    items = [(n, unit.item) for n, unit in ledger.items(audit) if unit.arm != "retest"]
    numbers = {item.id: n for n, item in items}
    first = {item.id: _first(item.kind) for _, item in items}
    found = []
    for n, row in enumerate(_READERS[form](path), 1):
        if row.get("act") not in (None, "", "verdict") or row.get("arm") == "retest":
            continue
        found.append(_imported(row, numbers, first, source, f"{path}, row {n}"))
    try:
        return ledger.record_import(audit, found, source)
    except AuditError as error:
        raise DataError(error.what, where=str(path), remedy=error.remedy) from error


def _imported(
    row: dict[str, Any], numbers: dict[str, int], first: dict[str, str], source: str, where: str
) -> Imported:
    names = {number: name for name, number in numbers.items()}
    item = str(row.get("item") or names.get(_whole(row.get("number")), ""))
    if item not in numbers or not row.get("reviewer") or not row.get("verdict"):
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
    except (TypeError, ValueError):
        return 0


# --- readers --------------------------------------------------------------------------------------


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            yield {k: _back(v) for k, v in row.items() if isinstance(k, str)}


def _back(text: str | None) -> str:
    """A cell without the mark that kept a spreadsheet from running it."""
    text = text or ""
    return text[1:] if text.startswith("'") and text[1:2] in (*FORMULA, "'") else text


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for n, line in enumerate(file, 1):
            if line.strip():
                yield _object(line, f"{path}:{n}")


def _object(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(str(error), where=where, remedy="correct or remove this line") from None


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet

    for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
        yield from batch.to_pylist()


def _argilla(path: Path) -> Iterator[dict[str, Any]]:
    for record in _object(path.read_text("utf-8"), str(path)):
        for response in record.get("responses") or ():
            user = response.get("user") or response.get("user_id") or "argilla"
            yield {
                "item": record["id"], "reviewer": str(user), "stage": response["question_name"],
                "verdict": response["value"],
            }  # fmt: skip


def _labelstudio(path: Path) -> Iterator[dict[str, Any]]:
    for task in _object(path.read_text("utf-8"), str(path)):
        for annotation in task.get("annotations") or ():
            if annotation.get("was_cancelled"):
                continue
            by = annotation.get("completed_by") or "label studio"
            name = by.get("email") or by.get("id") if isinstance(by, dict) else by
            for result in annotation.get("result") or ():
                value = result.get("value", {})
                said = value.get("selected") or (value.get("choices") or [None])[0]
                yield {
                    "item": task["data"].get("item"), "number": task["data"].get("number"),
                    "reviewer": str(name), "stage": result.get("from_name"), "verdict": said,
                }  # fmt: skip


_READERS = {
    "csv": _csv, "jsonl": _jsonl, "parquet": _parquet, "argilla": _argilla,
    "labelstudio": _labelstudio,
}  # fmt: skip
