"""`rlaif run`: constitution to a model that follows it."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change the config.")
@click.option("--fresh", multiple=True, metavar="STAGE", help="Make a stage anew.")
@click.option("--runs", default="runs", type=click.Path(path_type=Path), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the report's figures as JSON.")
def run(
    config: Path, changes: tuple[str, ...], fresh: tuple[str, ...], runs: Path, as_json: bool
) -> None:
    """Rebuild a model under a constitution, as CONFIG says, and write a report.

    Interrupted at any point, the same command goes on from there. A finished call is never paid
    twice; a finished stage is reused.
    """
    from rlaif.cli.report import show

    page = rebuild(config, changes, fresh, runs)
    show(page.parents[1], as_json=as_json)


def rebuild(
    config: Path, changes: tuple[str, ...] = (), fresh: tuple[str, ...] = (), runs: Path = Path()
) -> Path:
    """Run the pipeline as a Prefect flow; returns the report's page."""
    from rlaif.config import load
    from rlaif.pipeline import check

    check(load(config, changes))  # before Prefect takes its seconds to start
    flow = pipeline()
    with _stopped_by_hand():
        return flow(config_file=config, changes=list(changes), fresh=list(fresh), runs=runs)


@contextmanager
def _stopped_by_hand() -> Iterator[None]:
    """Ctrl-C reaches Prefect's own server, too; that it is gone must not hide what happened."""
    stopped: list[int] = []

    def stop(number: int, frame: Any) -> None:
        stopped.append(number)
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    except BaseException:
        if stopped:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def pipeline() -> Any:
    """The flow of `flows/pipeline.py`.

    Raises:
        ConfigError: Prefect is not installed.
    """
    from rlaif.errors import ConfigError
    from rlaif.shipped import folder

    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    if "PREFECT_API_URL" not in os.environ:  # the server is ours: if it is gone, so are we
        os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "1")
    sys.path.insert(0, str(folder("flows").parent))
    try:
        from flows.pipeline import pipeline
    except ModuleNotFoundError as error:
        if error.name != "prefect":
            raise
        remedy = "pip install 'rlaif[flows]', or see examples/without_prefect.py"
        raise ConfigError("Prefect is not installed", remedy=remedy) from None
    _leave_the_console_to_us()
    return pipeline


def _leave_the_console_to_us() -> None:
    """Prefect's log goes to its server; on the console, errors are shown once, with a remedy."""
    for name in [n for n in logging.root.manager.loggerDict if n.split(".")[0] == "prefect"]:
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            if isinstance(handler, logging.StreamHandler):
                logger.removeHandler(handler)
    logging.getLogger("prefect").propagate = False
