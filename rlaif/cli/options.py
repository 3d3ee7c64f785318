"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path

import click

changes = click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change the config. Paths start from its folder.",
)
fresh = click.option("--fresh", multiple=True, metavar="STAGE", help="Make a stage anew.")
in_runs = click.option(
    "--runs",
    default="runs",
    type=click.Path(path_type=Path),
    show_default=True,
    help="The folder that holds the runs.",
)
