"""`rlaif runs`: the runs on this disk: what they hold, how they compare, and their removal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlaif.cli.options import in_runs
from rlaif.cli.tables import table

if TYPE_CHECKING:
    from rlaif.keeping import Kept

_JSON = click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
MODELS = ("seed", "finetuned", "policy")


@click.group()
def runs() -> None:
    """List, show, compare and remove runs.

    A run is a folder under --runs; a NAME is one of them, or a path to one elsewhere.
    """


@runs.command("list")
@in_runs
@_JSON
def list_(runs: Path, as_json: bool) -> None:
    """All runs, with state, size and what the policy came to."""
    from rlaif.errors import RlaifError
    from rlaif.keeping import kept, kept_in

    found, folders = [], kept_in(runs)
    for folder in folders:
        try:
            found.append(kept(folder, runs))
        except RlaifError as error:  # the others are no less there
            click.echo(str(error), err=True)
    if as_json:
        click.echo(json.dumps([run.json() for run in found], indent=1))
    elif found:
        click.echo(_listed(found))
    elif not folders:
        click.echo(f"no runs in {runs}; `rlaif demo` makes one", err=True)
    if folders and not found:
        raise SystemExit(1)


@runs.command()
@click.argument("name")
@in_runs
@_JSON
def show(name: str, runs: Path, as_json: bool) -> None:
    """One run: its stages with their sizes, its figures, and who depends on it."""
    from rlaif.keeping import kept, place

    run = kept(place(name, runs), runs)
    if as_json:
        click.echo(json.dumps(run.json(), indent=1))
        return
    click.echo(f"{run.folder}: {run.state}, {_size(run.bytes)}")
    click.echo(f"{run.constitution}; model {run.model}")
    rows = [(s.name, s.state, _size(s.bytes), _seconds(s.seconds), s.finished) for s in run.stages]
    click.echo(table([("stage", "state", "size", "time", "finished"), *rows]))
    for title, key in (("break a principle", "violations"), ("helpful", "helpfulness")):
        shares = "  ".join(f"{model} {_share(run.figures, key, model)}" for model in MODELS)
        click.echo(f"{title:<20}{shares}")
    if run.needed_by:
        click.echo("needed by " + ", ".join(run.needed_by))


@runs.command()
@click.argument("names", nargs=-1, required=True)
@in_runs
@_JSON
def compare(names: tuple[str, ...], runs: Path, as_json: bool) -> None:
    """Some runs side by side: their figures, and where their configs differ."""
    from rlaif.keeping import differences, kept, place

    found = [kept(place(name, runs), runs) for name in names]
    differ = differences(found)
    if as_json:
        told = {"runs": [run.json() for run in found], "config": differ}
        click.echo(json.dumps(told, indent=1))
        return
    rows = [("", *(run.name for run in found)), *_figures(found)]
    rows += [(key, *map(_plain, values)) for key, values in differ.items()]
    click.echo(table(rows))


@runs.command()
@click.argument("names", nargs=-1, required=True)
@in_runs
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
@_JSON
def rm(names: tuple[str, ...], runs: Path, yes: bool, as_json: bool) -> None:
    """Remove runs; their finished calls stay in the completions store.

    A run that another run depends on, that a process works in, or that people review is refused.
    """
    from rlaif.audit import LEDGER
    from rlaif.keeping import kept, place, remove, sweep

    for folder in sweep(runs):
        click.echo(f"removed {folder}, left by a removal that was interrupted", err=True)
    found = [kept(place(name, runs), runs) for name in names]
    if not yes:
        for run in found:
            audited = ", with what people said in its audit" * (run.folder / LEDGER).is_file()
            click.echo(f"{run.folder}: {run.state}, {_size(run.bytes)}{audited}", err=True)
        click.confirm("remove for good?", abort=True, err=True)
    remove(found)
    freed = sum(run.bytes for run in found)
    if as_json:
        click.echo(json.dumps({"removed": [run.name for run in found], "bytes": freed}))
    else:
        click.echo(f"removed {', '.join(run.name for run in found)}: {_size(freed)}")


# --- showing --------------------------------------------------------------------------------------


def _listed(found: Sequence[Kept]) -> str:
    head = ("run", "state", "size", "constitution", "violations", "helpful", "labels", "calls")
    rows = [
        (
            run.name, run.state, _size(run.bytes), run.constitution,
            _share(run.figures, "violations", "policy"),
            _share(run.figures, "helpfulness", "policy"),
            _number(run.figures.get("labels", {}).get("pairs_made")),
            _number(run.figures.get("calls", {}).get("answered")),
        )
        for run in found
    ]  # fmt: skip
    return table([head, *rows])


def _figures(found: Sequence[Kept]) -> Iterator[tuple[str, ...]]:
    yield ("state", *(run.state for run in found))
    yield ("size", *(_size(run.bytes) for run in found))
    yield ("constitution", *(run.constitution for run in found))
    yield ("answers read by", *(run.figures.get("by", "-") for run in found))
    for title, key in (("break a principle", "violations"), ("helpful", "helpfulness")):
        for model in MODELS:
            yield (f"{title}, {model}", *(_share(run.figures, key, model) for run in found))
    yield ("labels right", *(_share(run.figures, "labels", "accuracy") for run in found))
    yield ("calls answered", *(_number(run.figures["calls"]["answered"]) for run in found))
    yield ("stages took", *(_seconds(run.figures["seconds"]["total"]) for run in found))


def _share(figures: Any, *keys: str) -> str:
    from rlaif.intervals import in_percent

    for key in keys:
        figures = figures.get(key, {}) if isinstance(figures, dict) else {}
    return in_percent(figures or {}, missing="-")


def _size(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:,.0f} s"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
