"""An audit for other tools: CSV, JSONL, Parquet, Argilla, Label Studio, TRL, and the overlay.

JSONL and Parquet are lossless. In CSV, what a spreadsheet would run as a formula gets a `'` before
it. Argilla and Label Studio get the items with people's verdicts and nothing that the AI said, so
that they can be reviewed blind there, too: of a critique, the answer before it and `violated`.

    rlaif audit export runs/mine --form csv --out verdicts.csv
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rlaif.audit.figures import counting
from rlaif.audit.folding import Fold
from rlaif.audit.ledger import Ledger
from rlaif.audit.overlay import overrides, softened
from rlaif.audit.records import Decision, Item, Unit
from rlaif.errors import DataError
from rlaif.jsonl import writing

FORMS = ("csv", "jsonl", "parquet", "argilla", "labelstudio", "trl", "overlay")
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\0")
COLUMNS = (
    "audit", "number", "item", "kind", "arm", "stratum", "pi", "reviewer", "act", "stage",
    "verdict", "left", "text", "active_ms", "extra", "blind", "source", "created", "seq",
    "supersedes", "nonce", "ai_label", "ai_target", "prompt", "a", "b",
)  # fmt: skip


def export(
    ledger: Ledger, audit: int, form: str, out: Path, *, soften: bool = False
) -> tuple[int, str]:
    """Write an audit in one of `FORMS`; how many rows, and the SHA-256 of the file.

    Raises:
        DataError: the form is unknown, or the file is there already: exports are not changed.
    """
    if form not in FORMS:
        raise DataError(f"no form is called {form!r}", remedy=f"one of {', '.join(FORMS)}")
    if out.exists():
        raise DataError("the file is there already", where=str(out), remedy="name another")
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.partial")
    made = _rows(ledger, audit, form, soften)
    n = _WRITERS[form](draft, made)
    draft.replace(out)
    with out.open("rb") as file:
        sha = hashlib.file_digest(file, "sha256").hexdigest()
    ledger.record_export(audit, form, sha, n)
    return n, sha


def plain(text: Any) -> Any:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{text}" if isinstance(text, str) and text.startswith((*FORMULA, "'")) else text


# --- what is written ------------------------------------------------------------------------------


def _rows(ledger: Ledger, audit: int, form: str, soften: bool) -> Iterator[Any]:
    if form == "overlay":
        with ledger.folded(audit) as fold:
            found = list(overrides(fold))
            found += softened(_errors(fold), fold.audit.plan.labels) if soften else []
        yield from found
    elif form == "trl":
        yield from _preferred(ledger, audit)
    elif form in ("argilla", "labelstudio"):
        shape = _argilla if form == "argilla" else _labelstudio
        names = _names(ledger)
        for number, unit in _once(ledger, audit):
            said = _standing(ledger.decisions(audit, number))
            shown = [row for row in said if row.stage != "better"]  # asked only where it revised
            yield shape(unit.item, number, [(names[row.reviewer], row) for row in shown])
    else:
        yield from _decisions(ledger, audit)


def _decisions(ledger: Ledger, audit: int) -> Iterator[dict[str, Any]]:
    names = _names(ledger)
    for number, unit in ledger.items(audit):
        item = unit.item
        for row in ledger.decisions(audit, number):
            yield {
                "audit": audit, "number": number, "item": item.id, "kind": item.kind,
                "arm": unit.arm, "stratum": item.stratum, "pi": unit.pi,
                "reviewer": names[row.reviewer],
                **{k: getattr(row, k) for k in ("act", "stage", "verdict", "left", "text",
                                                "active_ms", "extra", "blind", "source", "created",
                                                "seq", "supersedes", "nonce")},
                "ai_label": item.label, "ai_target": item.ai.get("target"),
                **_texts(item),
            }  # fmt: skip


def _preferred(ledger: Ledger, audit: int) -> Iterator[dict[str, Any]]:
    """Pairs on which people took a side, as TRL's preference trainers read them."""
    with ledger.folded(audit) as fold:
        decided = {row.pair: row.verdict for row in overrides(fold) if row.verdict in ("a", "b")}
    for _, unit in _once(ledger, audit):
        if side := decided.get(unit.item.id):
            a, b = unit.item.payload["a"], unit.item.payload["b"]
            chosen, rejected = (a, b) if side == "a" else (b, a)
            yield {
                "prompt": list(unit.item.payload["messages"]),
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": rejected}],
            }


def _once(ledger: Ledger, audit: int) -> Iterator[tuple[int, Unit]]:
    """The items without those that came back."""
    return ((number, unit) for number, unit in ledger.items(audit) if unit.arm != "retest")


def _argilla(item: Item, number: int, said: list[tuple[str, Decision]]) -> dict[str, Any]:
    return {
        "id": item.id,
        "fields": _blind(item) | {"principles": _principles(item)},
        "metadata": {"number": number, "kind": item.kind, "stratum": item.stratum},
        "responses": [
            {"question_name": row.stage, "value": row.verdict, "user": name} for name, row in said
        ],
        "suggestions": [],
    }


def _labelstudio(item: Item, number: int, said: list[tuple[str, Decision]]) -> dict[str, Any]:
    data = _blind(item) | {"principles": _principles(item), "item": item.id, "number": number}
    return {
        "id": number,
        "data": data | {"kind": item.kind},
        "annotations": [
            {
                "completed_by": {"email": name},
                "result": [{
                    "from_name": row.stage, "to_name": "responses", "type": "choices",
                    "value": {"choices": [row.verdict]},
                }],
            }
            for name, row in said
        ],
    }  # fmt: skip


def _texts(item: Item) -> dict[str, Any]:
    turns = [f"{m['role']}: {m['content']}" for m in item.payload["messages"]]
    b = item.payload.get("b") or item.ai.get("b") or ""
    return {"prompt": "\n\n".join(turns), "a": item.payload["a"], "b": b}


def _blind(item: Item) -> dict[str, Any]:
    """The texts without the AI's revision: whether there is one is its verdict."""
    texts = _texts(item)
    if item.kind == "critique":
        del texts["b"]
    return texts


def _principles(item: Item) -> str:
    return "\n".join(f"{p['id']}: {p['text']}" for p in item.payload.get("principles", ()))


def _standing(rows: list[Decision]) -> list[Decision]:
    """The blind verdicts that count: a person's latest on each question, one given here if any."""
    undone = {row.supersedes for row in rows if row.act == "undo"}
    said = [
        row for row in rows
        if row.act == "verdict" and row.blind != "no" and not row.extra and row.seq not in undone
    ]  # fmt: skip
    said.sort(key=lambda row: row.blind == "yes")
    return list({(row.reviewer, row.stage): row for row in said}.values())


def _names(ledger: Ledger) -> dict[int, str]:
    return {reviewer.id: reviewer.name for reviewer in ledger.reviewers()}


def _errors(fold: Fold) -> dict[str, tuple[float, int]]:
    """How far people contradict the AI, by stratum, shrunk: what `--soften` softens by."""
    from rlaif.audit.estimates import shrunk

    strata = {name: units for name, units in counting(fold).items() if units}
    names, judged = list(strata), list[list[float]]()
    for name in names:
        scores = (unit.agreement for unit in strata[name])
        judged.append([1 - x for x in scores if x is not None])
    rates = shrunk([sum(xs) for xs in judged], [len(xs) for xs in judged])
    return {
        name: (rate, len(xs))
        for name, rate, xs in zip(names, rates, judged, strict=True)
        if rate is not None
    }


# --- how it is written ----------------------------------------------------------------------------


def _csv(path: Path, made: Iterable[dict[str, Any]]) -> int:
    n = 0
    with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for n, row in enumerate(made, 1):  # noqa: B007  the last number is the count
            writer.writerow({name: plain(row[name]) for name in COLUMNS})
    return n


def _jsonl(path: Path, made: Iterable[Any]) -> int:
    n = 0
    with writing(path) as write:
        for n, row in enumerate(made, 1):  # noqa: B007
            write(row)
    return n


def _json(path: Path, made: Iterable[Any]) -> int:
    found = list(made)
    path.write_text(json.dumps(found, indent=1), "utf-8")
    return len(found)


def _parquet(path: Path, made: Iterable[dict[str, Any]]) -> int:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        remedy = "pip install pyarrow, or take --form jsonl"
        raise DataError("Parquet needs pyarrow, which is not installed", remedy=remedy) from error
    found = list(made)
    columns = {name: [row[name] for row in found] for name in COLUMNS}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return len(found)


_WRITERS = {
    "csv": _csv, "jsonl": _jsonl, "parquet": _parquet, "argilla": _json, "labelstudio": _json,
    "trl": _jsonl, "overlay": _jsonl,
}  # fmt: skip
