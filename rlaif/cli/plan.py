"""`rlaif plan`: what a run would cost, before it starts."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rlaif.cli import options
from rlaif.cli.tables import table

if TYPE_CHECKING:
    from rlaif.planning import Plan


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@options.changes
@options.in_runs
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(config: Path, changes: tuple[str, ...], runs: Path, as_json: bool) -> None:
    """Say which stages and calls of a run are done, and which are to be paid. Nothing is started.
    CONFIG is a config file, or the folder of a run that began.

    Calls that depend on answers still to come are counted as "at most". Tokens and seconds are
    estimated from the runs of the same models under --runs; where there are none, nothing is said.
    """
    from rlaif.checking import check
    from rlaif.completions import default_path
    from rlaif.config import named
    from rlaif.planning import plan

    found = named(config, changes)
    root, stood = found.root(runs), found.folder is not None
    check(found.config, standing=root / found.config.name if stood else None)
    made = plan(found.config, root=root, store=default_path(), as_it_stood=stood)
    click.echo(json.dumps(made.json(), indent=1) if as_json else _table(made))
    if made.fresh and not as_json:
        click.echo(f"\n{_refused(made.fresh, config, changes, runs)}")


def _refused(stage: str, config: Path, changes: Sequence[str], runs: Path) -> str:
    """What `rlaif run` would refuse, and the command that it does not."""
    words = ["rlaif", "run", str(config)]
    for change in changes:
        words += ["--set", change]
    words += ["--runs", str(runs)] if str(runs) != "runs" else []
    return (
        f"`rlaif run` refuses: {stage} is there, made from something else. This makes it anew, and "
        f"what follows from it:\n  {shlex.join([*words, '--fresh', stage])}"
    )


def _table(made: Plan) -> str:
    rows: list[tuple[str, ...]] = [
        ("stage", "state", "cached", "new", "at most", "tokens", "seconds")
    ]
    for s in made.stages:
        known = (s.cached, s.new, s.at_most) if s.state != "done" else (None,) * 3
        rows.append((s.stage, s.state, *map(_number, (*known, s.tokens, s.seconds))))
    rows.append(("total", "", *_total(made)))
    return table(rows, left=2)


def _total(made: Plan) -> Iterator[str]:
    total = made.total
    for key in ("cached", "new", "at_most", "tokens", "seconds"):
        yield ("at least " if key in total["at_least"] else "") + _number(total[key])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
