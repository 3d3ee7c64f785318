"""`rlaif demo`: the whole pipeline on this machine, with the embedded model."""

from __future__ import annotations

from pathlib import Path

import click

from rlaif.cli import options


@click.command()
@click.option("--ppo", is_flag=True, help="Train the policy by PPO in place of DPO.")
@options.changes
@options.fresh
@options.in_runs
@click.option("--json", "as_json", is_flag=True, help="Print the report's figures as JSON.")
def demo(
    ppo: bool, changes: tuple[str, ...], fresh: tuple[str, ...], runs: Path, as_json: bool
) -> None:
    """Rebuild the embedded model under the constitution of its world, and report what came of it.

    This is `rlaif run` with the config that ships as rlaif/sandbox/demo.yaml (demo_ppo.yaml).
    """
    from rlaif.cli.report import show
    from rlaif.cli.run import rebuild
    from rlaif.shipped import SEED_MODEL

    config = SEED_MODEL.with_name("demo_ppo.yaml" if ppo else "demo.yaml")
    page = rebuild(config, changes, fresh, runs)
    show(page.parents[1], as_json=as_json)
