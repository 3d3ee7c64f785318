"""The `rlaif` command: parses, calls, prints. Each sub-command is imported when it is used.

    rlaif --help

This is the only place that sets up logging and that turns errors into messages: an `RlaifError`
is shown with its remedy and without a traceback (RLAIF_DEBUG=1 shows that too), exit code 1.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper

import click

from rlaif import __version__
from rlaif.errors import RlaifError

COMMANDS = {  # name: (module:attribute, what `rlaif --help` says of it)
    "demo": ("rlaif.cli.demo:demo", "The whole story on this machine, with the embedded model."),
    "run": ("rlaif.cli.run:run", "Rebuild a model under a constitution."),
    "plan": ("rlaif.cli.plan:plan", "Say what a run would cost, before it starts."),
    "runs": ("rlaif.cli.runs:runs", "List, show, compare and remove runs."),
    "audit": ("rlaif.cli.audit:audit", "Let people judge whether the labels can be trusted."),
    "report": ("rlaif.cli.report:report", "Say what came of a run: a page, and its figures."),
    "trace": ("rlaif.cli.trace:trace", "Show everything behind one label or revision."),
    "constitution": (
        "rlaif.cli.constitution:constitution",
        "Check, show and compare constitutions.",
    ),
    "data": ("rlaif.cli.data:data", "Check the prompts that a run would use."),
    "cache": ("rlaif.cli.cache:cache", "Look into, prune or export the store of completions."),
    "sandbox": ("rlaif.cli.sandbox:sandbox", "The embedded world and its model: chat, card."),
}

STOPPED = "Stopped. Nothing is lost: the same command goes on from the calls that are finished."
LINES = 40  # of an error; a screen holds no more
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Lazy(click.Group):
    """A group that knows its commands by name, and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        return getattr(import_module(module), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, short) for name, (_, short) in COMMANDS.items()])


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rlaif")
@click.option(
    "-v", "--verbose", count=True, help="Log what is done; -vv in detail, -vvv libraries too."
)
@click.option("-q", "--quiet", is_flag=True, help="Log errors only.")
def root(verbose: int, quiet: bool) -> None:
    """Constitutional AI and RLAIF: edit a YAML constitution, rebuild a model that follows it."""
    _log(verbose, quiet)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # what a terminal cannot show is a question mark
    try:
        code = root.main(argv, prog_name="rlaif", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        return _stopped(error)
    except BrokenPipeError:
        return _reader_left()
    except (RlaifError, OSError) as error:  # such as a full disk
        if os.environ.get("RLAIF_DEBUG") == "1":
            raise
        click.echo(f"error: {_screenful(str(error))}", err=True)
        try:
            sys.stdout.flush()
        except OSError:  # it is what we print to
            return _reader_left()
        return 1


def _log(verbose: int, quiet: bool) -> None:
    ours = [logging.WARNING, logging.INFO, logging.DEBUG][min(verbose, 2)]
    others = logging.DEBUG if verbose > 2 else logging.WARNING
    logging.basicConfig(level=others, format="%(levelname).1s %(name)s: %(message)s")
    logging.getLogger("rlaif").setLevel(ours)
    if quiet:
        logging.disable(logging.WARNING)


def _screenful(message: str) -> str:
    """A message as a terminal may show it: what it quotes may be long, or hold control codes."""
    lines = _UNPRINTABLE.sub("�", message).splitlines()
    if len(lines) <= LINES:
        return "\n".join(lines)
    head, tail = lines[:10], lines[10 - LINES + 1 :]
    between = f"  … {len(lines) - LINES + 1} lines left out; RLAIF_DEBUG=1 shows them"
    return "\n".join([*head, between, *tail])


def _stopped(error: BaseException) -> int:
    """Ctrl-C exits as shells expect, 130; an answer of "no" to a question is an ordinary 1."""
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__cause__, KeyboardInterrupt):
        click.echo(STOPPED, err=True)
        return 130
    click.echo("Aborted.", err=True)
    return 1


def _reader_left() -> int:
    """`rlaif … | head`: nobody reads on, so silence the flush at exit; 1 as click has it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
