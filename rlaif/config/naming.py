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

from rlaif.config.loading import load
from rlaif.config.run import RunConfig
from rlaif.errors import ConfigError

SNAPSHOT = "config.yaml"
"""In the folder of a run that was named by it: its config and its law as they stood."""


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
    return Named(load(_snapshot(folder), changes), folder)


def _snapshot(run: Path) -> Path:
    """A config file for a run that began, from its run.json."""
    try:
        kept = json.loads((run / "run.json").read_text("utf-8"))["config"]
    except (OSError, ValueError, KeyError) as error:
        remedy = "name a config file, or a run's folder such as runs/demo"
        what = f"not a run that began ({error})"
        raise ConfigError(what, where=str(run), remedy=remedy) from None
    path = run / SNAPSHOT
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(_moved(kept, run), indent=1) + "\n", "utf-8")
    return draft.replace(path)


def _moved(kept: dict[str, Any], run: Path) -> dict[str, Any]:
    """A config that was kept, for the folder where it is now."""
    logs = kept.get("engine", {}).get("logs")
    if logs and Path(logs).parts[-2:] == (kept.get("name"), "logs"):  # written out, once
        kept["engine"]["logs"] = None
    if (run / "constitution.yaml").is_file():
        kept["constitution"] = "constitution.yaml"
    return kept | {"name": run.name}
