"""How a person names a config: by its YAML file, or by the folder of a run that began.

    named(Path("mine.yaml"))        # or Path("runs/mine"): goes on as it stood

The folder of a run holds its config and its law as they stood, and its name is the run's name: a
folder that was copied or renamed is another run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlaif.config.loading import load, validated
from rlaif.config.run import RunConfig
from rlaif.documents import Mapping, Problem, Text, parse
from rlaif.errors import ConfigError, RunError

RECORD = "run.json"
"""In the folder of every run that began: what was asked, with which code, where."""


@dataclass(frozen=True)
class Named:
    """A config, and the folder of its run where it was named by that."""

    config: RunConfig
    folder: Path | None = None

    def root(self, runs: Path) -> Path:
        """The folder that holds its run; `runs` unless it was named by its folder."""
        return self.folder.parent if self.folder else runs


def named(path: Path, changes: Sequence[str] = ()) -> Named:
    """The config that `path` names, with `changes` as `--set` has them.

    Raises:
        ConfigError: it cannot be used; every problem with its place and its remedy.
    """
    path = path.expanduser()
    if not path.is_dir():
        return Named(load(path, changes))
    folder = path.absolute()
    try:
        record_of(folder)
    except RunError as error:
        remedy = "name a config file, or a run's folder such as runs/demo"
        what = f"not a run that began ({error.what})"
        raise ConfigError(what, where=error.where, remedy=remedy) from None
    return Named(_as_it_stood(folder, changes), folder)


def record_of(run: Path) -> dict[str, Any]:
    """A run's run.json: its `config`, code and machine.

    Raises:
        RunError: the folder is no run's, or its run.json is damaged.
    """
    path = run / RECORD
    try:
        record = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        what = "not a run's folder: it has no run.json"
        remedy = "name a folder that `rlaif run` made, such as runs/demo"
        raise RunError(what, where=str(run), remedy=remedy) from None
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from None
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise _unreadable(path, "it has no config")
    return record


def config_of(run: Path) -> RunConfig:
    """The config that a run began with.

    Raises:
        RunError: as `record_of`, or the config is that of another version.
    """
    try:
        return RunConfig.model_validate(record_of(run)["config"])
    except ValidationError as error:
        raise _unreadable(run / RECORD, f"its config is of another version: {error}") from None


def _unreadable(path: Path, why: str) -> RunError:
    remedy = "remove this file: `rlaif run CONFIG` writes it anew, and goes on"
    return RunError(f"run.json cannot be read ({why})", where=str(path), remedy=remedy)


def _as_it_stood(run: Path, changes: Sequence[str]) -> RunConfig:
    """The config of a run that began, from its run.json."""
    path, problems = run / RECORD, list[Problem]()
    record = parse(path.read_text("utf-8"), path, problems)
    kept = record.entries["config"] if record else None
    if isinstance(kept, Mapping):
        _move(kept, run)
        return validated(kept, run, changes, problems)
    return validated(None, run, changes, problems)


def _move(kept: Mapping, run: Path) -> None:
    """Make a config that was kept one for the folder where it is now."""
    engine, once = kept.entries.get("engine"), (kept.text("name"), "logs")  # written out, once
    if isinstance(engine, Mapping) and Path(engine.text("logs") or "").parts[-2:] == once:
        engine.entries["logs"] = Text(engine.mark, None)
    if (run / "constitution.yaml").is_file():
        kept.entries["constitution"] = Text(kept.mark, "constitution.yaml")
    kept.entries["name"] = Text(kept.mark, run.name)
