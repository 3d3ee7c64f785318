"""`rlaif sandbox`: the embedded world and its seed model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rlaif.engine import EngineConfig
    from rlaif.sandbox.card import Card


@click.group()
def sandbox() -> None:
    """Measure the embedded seed model, or talk to it."""


@sandbox.command()
@click.option(
    "--model", type=click.Path(path_type=Path), help="Another model folder than the shipped seed."
)
@click.option("--base-url", help="A server that is running already.")
@click.option(
    "-n",
    "cases",
    default=12,
    show_default=True,
    help="Cases for each principle, request type and verdict.",
)
@click.option("--drafts", default=300, show_default=True, help="Requests; each is answered twice.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--markdown", is_flag=True, help="Print the page that lies beside the model.")
def card(
    model: Path | None,
    base_url: str | None,
    cases: int,
    drafts: int,
    as_json: bool,
    markdown: bool,
) -> None:
    """Measure every skill of the seed model, now, against a real server."""
    import json

    from rlaif.cli.progress import Watched
    from rlaif.engine import serving
    from rlaif.sandbox.card import measure
    from rlaif.sandbox.model_card import markdown as page
    from rlaif.sandbox.seed_model import FOLDER

    with serving(_config(model, base_url)) as engine:
        watched = Watched(engine)
        measured = measure(watched, n=cases, drafts=drafts, progress=watched.name)
    if markdown:
        click.echo(page(measured, model or FOLDER), nl=False)
    else:
        click.echo(json.dumps(measured.json(), indent=1) if as_json else _table(measured))


@sandbox.command()
@click.option(
    "--model", type=click.Path(path_type=Path), help="Another model folder than the shipped seed."
)
@click.option("--base-url", help="A server that is running already.")
def chat(model: Path | None, base_url: str | None) -> None:
    """Talk to the seed model; the oracle says what it thinks of each answer."""
    from rlaif.engine import serving
    from rlaif.sandbox.chat import reply

    with serving(_config(model, base_url)) as engine:
        click.echo(
            'Ask about its topics, for example "How do I clean the lamp?". Ctrl-D ends.',
            err=True,
        )
        n = 0
        while (line := _line()) is not None:
            if line.strip():
                click.echo(reply(engine, line.strip(), n))
                n += 1


def _line() -> str | None:
    try:
        return input("you: ")
    except EOFError:
        return None


def _config(model: Path | None, base_url: str | None) -> EngineConfig:
    from rlaif.sandbox.seed_model import engine_config

    return engine_config(model=model, base_url=base_url)


def _table(measured: Card) -> str:
    from rlaif.sandbox.card import missed
    from rlaif.sandbox.cases import OWN, UNSEEN, WORLD

    lines = []
    for tier in (WORLD, OWN, *UNSEEN):
        lines.append(f"\n{tier.name}" + (" (held-out topics)" if tier is WORLD else ""))
        for figure, share in measured.figures(tier.name).items():
            note = "   misses its aim" if missed(figure, share) else ""
            lines.append(f"  {figure:<26}{share}{note}")
    lines.append("\nweakest cells (world)")
    for figure in (
        "critique.verdict",
        "critique.no_fault",
        "revision.fixed",
        "revision.kept",
        "judge.pairwise",
    ):
        for cell, share in sorted(
            measured.cells(WORLD.name, figure).items(), key=lambda kv: kv[1].value or 0
        )[:2]:
            lines.append(f"  {figure:<20}{cell:<20}{share}")
    lines.append(f"\nunanswered calls: {measured.unanswered}")
    return "\n".join(lines).lstrip("\n")
