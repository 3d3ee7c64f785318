"""`rlaif run`: constitution to a model that follows it."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from rlaif.cli import options


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@options.changes
@options.fresh
@click.option("--until", default="report", metavar="STAGE", help="The last stage to make.")
@options.in_runs
@click.option("--audit-gate", is_flag=True, help="Train only on labels that people audited.")
@click.option("--json", "as_json", is_flag=True, help="Print the report's figures as JSON.")
def run(
    config: Path,
    changes: tuple[str, ...],
    fresh: tuple[str, ...],
    until: str,
    runs: Path,
    audit_gate: bool,
    as_json: bool,
) -> None:
    """Rebuild a model under a constitution, as CONFIG says, and write a report. The folder of a run
    that began goes on with its config and its constitution as they stood.

    Interrupted at any point, the same command goes on from there. A finished call is never paid
    twice; a finished stage is reused.
    """
    from rlaif.cli.report import show, show_so_far

    made = rebuild(config, changes, fresh, runs, until=until, audit_gate=audit_gate)
    if until == "report":
        show(made.parents[1], as_json=as_json)
    else:
        show_so_far(made, as_json=as_json)


def rebuild(
    config: Path,
    changes: tuple[str, ...] = (),
    fresh: tuple[str, ...] = (),
    runs: Path = Path(),
    *,
    until: str = "report",
    audit_gate: bool = False,
) -> Path:
    """Run the pipeline as a Prefect flow; returns the report's page, or the folder of the stage
    that was to be the last.

    Raises:
        Waiting: the labels are to be audited first.
    """
    given: dict[str, Any] = {"config_file": str(config), "runs": str(runs)}
    given["changes"] = list(changes)
    with _stopped_by_hand(), served() as ready:  # it starts while we read and import
        from flows.parameters import asked

        asked(given).check(until, fresh)
        flow = pipeline()
        ready()
        given |= {"fresh": list(fresh), "until": until, "audit_gate": audit_gate}
        ended = flow(return_state=True, **given)
        if ended.name == "AwaitingAudit":
            raise Waiting(ended.message)
        return ended.result()


class Waiting(click.ClickException):
    """Nothing is wrong: people are to judge the labels before anything is trained on them."""

    exit_code = 3

    def show(self, file: Any = None) -> None:
        click.echo(self.message, err=True)


@contextmanager
def _stopped_by_hand() -> Iterator[None]:
    """What Ctrl-C breaks on its way out must not hide that it was Ctrl-C."""
    stopped: list[int] = []

    def stop(number: int, frame: Any) -> None:
        stopped.append(number)
        logging.getLogger("prefect").setLevel(logging.CRITICAL)
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


@contextmanager
def served() -> Iterator[Callable[[], None]]:
    """Prefect's API: the one that is up, or a server of ours; the function waits for it."""
    _find_flows()
    from flows.server import Server, deliver, found, healthy, loopback_is_direct
    from rlaif.errors import ConfigError

    loopback_is_direct()
    if url := found():
        if not healthy(url):
            remedy = "start it, or unset PREFECT_API_URL: a server is then started for this run"
            raise ConfigError("Prefect's server does not answer", where=url, remedy=remedy)
        os.environ["PREFECT_API_URL"] = url
        yield lambda: None
        return
    server = Server(quick=True)
    own = {"PREFECT_API_URL": server.url, "RLAIF_ACCELERATOR": ""}  # nobody else asks this server
    os.environ.update(own)
    try:
        yield lambda: _wait_for(server)
    finally:
        deliver()
        server.stop()
        for name in own:
            del os.environ[name]


def _wait_for(server: Any) -> None:
    server.ready(lambda: click.echo("waiting for Prefect's server, which is starting …", err=True))


def _find_flows() -> None:
    from rlaif.errors import ConfigError
    from rlaif.shipped import folder

    if find_spec("prefect") is None:
        remedy = "pip install 'rlaif[flows]', or see examples/without_prefect.py"
        raise ConfigError("Prefect is not installed", remedy=remedy)
    sys.path.insert(0, str(folder("flows").parent))


def pipeline() -> Any:
    """The flow of `flows/pipeline.py`."""
    from flows.server import OURS, without_pandas

    for name, value in OURS.items():  # before Prefect reads them
        os.environ.setdefault(name, value)
    with without_pandas():
        from flows.pipeline import pipeline

    _leave_the_console_to_us()
    return pipeline


def _leave_the_console_to_us() -> None:
    """Prefect's log goes to its server; on the console, errors are shown once, with a remedy."""
    for name in [n for n in logging.root.manager.loggerDict if n.split(".")[0] == "prefect"]:
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            if isinstance(handler, logging.StreamHandler):
                logger.removeHandler(handler)
        if not logger.propagate or name == "prefect":
            logger.addHandler(logging.NullHandler())  # with no handler, Python shows it itself
    logging.getLogger("prefect").propagate = False
    logging.getLogger("EventsWorker").setLevel(logging.CRITICAL)  # its thread, by another name
