"""`rlaif report`: what came of a run, as a page, in the terminal, or as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

SHARES = {
    "break a principle": "violations",
    "helpful": "helpfulness",
    "well formed": "well_formed",
}


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--open", "browse", is_flag=True, help="Open the page in a browser.")
def report(run: Path, as_json: bool, browse: bool) -> None:
    """Write the report of RUN, a run's folder such as runs/demo, and print its headline figures.

    A run that is not finished gets a report of what is there.
    """
    from rlaif.report import report as write

    page = write(run)
    show(run, as_json=as_json)
    if browse:
        click.launch(page.resolve().as_uri())


def show(run: Path, *, as_json: bool = False) -> None:
    """Print the figures of a run whose report is written, and where its model is."""
    import json

    text = (run / "report" / "report.json").read_text("utf-8")
    if as_json:
        click.echo(text, nl=False)
        return
    figures = json.loads(text)
    for line in _lines(figures):
        click.echo(line)
    click.echo("")
    if figures["model"]:
        click.echo(f"model: {figures['model']}")
    click.echo(f"report: {(run / 'report' / 'index.html').resolve().as_uri()}")


def show_so_far(stage: Path, *, as_json: bool = False) -> None:
    """Print what there is of a run that was to stop after a stage; as JSON, the figures as a report
    would have them, with what is missing."""
    import json

    from rlaif.report import figures_of

    run = stage.parent
    figures = figures_of(run)
    if as_json:
        click.echo(json.dumps(figures, indent=1))
        return
    click.echo(f"{stage.name}: {stage}")
    if figures["model"]:
        click.echo(f"model: {figures['model']}")
    click.echo("to go on: the same command without --until")


def _lines(figures: Mapping[str, Any]) -> Iterator[str]:
    from rlaif.intervals import in_percent

    models = ("seed", "finetuned", "policy")
    if "evaluation" not in figures["missing"]:
        yield (f"{'':22}" + "".join(f"{name:<24}" for name in models)).rstrip()
        for title, key in SHARES.items():
            shares = (in_percent(figures[key].get(name, {})) for name in models)
            yield (f"{title:<22}" + "".join(f"{share:<24}" for share in shares)).rstrip()
    yield f"{'helpfulness kept':<22}{_or_why(figures['helpfulness'].get('kept', {}))}"
    yield from _quality(figures)
    calls, seconds = figures["calls"], figures["seconds"]
    yield f"{calls['sent']:,} calls sent, {calls['cached']:,} cached, in {seconds['total']:,.0f} s"
    serious = [doubt["what"] for doubt in figures.get("distrust", []) if doubt["serious"]]
    if serious:
        yield "\nwhat to distrust most:"
        yield from (f"  {what}" for what in serious)


def _quality(figures: Mapping[str, Any]) -> Iterator[str]:
    for title, found in (("labels right", "labels"), ("reward model right", "reward")):
        accuracy, ece = figures[found]["accuracy"], figures[found]["ece"]
        error = "" if ece is None else f", calibration error {ece:.3f}"
        yield f"{title:<22}{_or_why(accuracy)}{error}"


def _or_why(share: Mapping[str, Any]) -> str:
    """A share, or why there is none."""
    from rlaif.intervals import in_percent

    return in_percent(share, missing=share.get("why", "not measured"))
