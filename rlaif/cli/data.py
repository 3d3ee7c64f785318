"""`rlaif data`: look at prompts before a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rlaif.config.run import PromptsConfig

SHOWN = 5  # rejected rows of each reason


@click.group()
def data() -> None:
    """Look at prompts before a run."""


@data.command()
@click.argument("file", metavar="CONFIG_OR_FILE", type=click.Path(path_type=Path))
@click.option("--column", help="For a data file: the column of the prompt. [default: prompt]")
@click.option(
    "--format",
    type=click.Choice(["prompt", "transcript"]),
    help="For a data file: transcript drops the answer at the end; it reads lists of messages and "
    '"Human: ... Assistant: ...". [default: prompt]',
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(file: Path, column: str | None, format: str | None, as_json: bool) -> None:
    """Say what prompts a config (.yaml), a run's folder or a data file gives, and which rows give
    none, and why.

    Exits with 1 if they cannot be used.
    """
    from rlaif.errors import DataError
    from rlaif.prompts import Census, Rejected, screened
    from rlaif.prompts.census import Read
    from rlaif.prompts.sources import name

    config, seed = _asked(file, {"column": column, "format": format})
    census = Census([Read(name(source)) for source in config.sources])
    shown: dict[str, list[dict[str, Any]]] = {}
    problem = None
    try:
        for found in screened(config, census, seed=seed):
            if isinstance(found, Rejected) and len(shown.setdefault(found.reason, [])) < SHOWN:
                shown[found.reason].append({"where": found.where, "detail": found.detail})
    except DataError as error:
        problem = error
    counts = census.json()
    if as_json:
        ok = {"ok": problem is None, "problem": None if problem is None else str(problem)}
        click.echo(json.dumps(ok | counts | {"examples_rejected": shown}, indent=2))
    elif counts["rows"]:
        _print(counts, shown)
    if problem:
        if not as_json:
            raise problem
        raise SystemExit(1)


def _asked(file: Path, options: Mapping[str, str | None]) -> tuple[PromptsConfig, int]:
    """The sources of a run's config and its seed; or a data file as the only source."""
    from pydantic import ValidationError

    from rlaif.config import named
    from rlaif.config.run import PromptsConfig
    from rlaif.errors import ConfigError

    given = {name: value for name, value in options.items() if value is not None}
    if file.suffix in (".yaml", ".yml") or file.is_dir():
        if given:
            raise click.UsageError(f"--{next(iter(given))} is for a data file; edit the config")
        config = named(file).config
        return config.prompts, config.seed
    try:
        return PromptsConfig.model_validate({"sources": [{"path": file, **given}]}), 0
    except ValidationError as error:
        what = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(what, where=str(file), remedy="check the path") from None


def _print(counts: dict[str, Any], shown: Mapping[str, list[dict[str, Any]]]) -> None:
    click.echo(f"{'rows':>9} {'prompts':>9} {'train':>9} {'heldout':>9} {'rejected':>9}")
    for source in (*counts["sources"], {"name": "all", **counts}):
        figures = [source[key] for key in ("rows", "prompts", "train", "heldout")]
        cells = [*figures, sum(source["rejected"].values())]
        click.echo(" ".join(f"{n:9,}" for n in cells) + f"  {source['name']}")
    if counts["chars"]:
        lengths = (f"{name} {n:,}" for name, n in counts["chars"].items())
        click.echo(f"\ncharacters  {', '.join(lengths)}")
    for what, key in (("user turns", "turns"), ("tags", "tags")):
        if counts[key]:
            click.echo(f"{what:11} {', '.join(f'{k}: {n:,}' for k, n in counts[key].items())}")
    for reason, rows in shown.items():
        click.echo(f"\n{counts['rejected'][reason]:,} rejected: {reason}")
        for row in rows:
            click.echo(f"  {row['where']}: {row['detail']}")
