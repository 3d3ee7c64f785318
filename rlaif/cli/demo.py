"""`rlaif demo`: the whole story on this machine, with the embedded model."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--run", default="runs/demo", show_default=True, type=click.Path(path_type=Path))
@click.option("--prompts", default=150, show_default=True, help="Requests to answer.")
@click.option("--rounds", default=4, show_default=True, help="Rounds of critique and revision.")
@click.option("--cases", default=6, show_default=True, help="Cases a cell of the model's card.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def demo(run: Path, prompts: int, rounds: int, cases: int, as_json: bool) -> None:
    """Let the embedded model answer, critique and revise itself, and report what came of it.

    Calls are kept in the run's own store: a second run sends none.
    """
    import json

    from rlaif.cli.progress import Watched
    from rlaif.completions import Store
    from rlaif.engine import serving
    from rlaif.sandbox.demo import tell, write
    from rlaif.sandbox.seed_model import engine_config

    run.mkdir(parents=True, exist_ok=True)
    with Store(run / "completions.sqlite3") as store, serving(engine_config()) as engine:
        story = tell(Watched(engine, store), prompts=prompts, rounds=rounds, cases=cases)
        report = write(story, run)
    if as_json:
        click.echo(json.dumps(story.json(), indent=1))
        return
    for n in range(rounds + 1):
        click.echo(f"{'draft' if n == 0 else f'round {n}':<8} violations {story.violations(n)}")
    counts = engine.counts
    click.echo(f"{counts.sent} calls sent, {counts.cached} cached, in {story.seconds:.0f} s")
    click.echo(f"report: {report.resolve().as_uri()}")
