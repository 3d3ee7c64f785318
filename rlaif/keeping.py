"""The runs on a disk: how big they are, how far they came, who needs them; and their removal.

    rlaif runs list

A run needs another one when its config names a path inside it: a model, a reward model, prompts.
Nothing else is shared by path: finished calls live in the completions store.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rlaif.audit import ADDRESS
from rlaif.config.naming import record_of
from rlaif.constitution import load
from rlaif.errors import RlaifError, RunError
from rlaif.report import figures_of
from rlaif.runs import held, locked
from rlaif.shipped import model_name
from rlaif.stages import OPTIONAL, STAGES, base, stage_record


@dataclass(frozen=True, slots=True)
class KeptStage:
    """A stage of a run: `state` is done, begun or absent; sizes in bytes, time in seconds."""

    name: str
    state: str
    bytes: int = 0
    seconds: float | None = None
    finished: str = ""


@dataclass(frozen=True, slots=True)
class Kept:
    """A run on the disk.

    `state`: done, running (a process works in it), waiting (for its audit) or unfinished.
    `needed_by`: the runs whose config names a path inside it. `figures`: as report.json has them.
    """

    folder: Path
    state: str
    bytes: int
    constitution: str
    model: str
    stages: tuple[KeptStage, ...]
    needed_by: tuple[str, ...]
    config: dict[str, Any] = field(repr=False)
    figures: dict[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.name

    def json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {"name": self.name} | asdict(self) | {"folder": str(self.folder)}


def kept_in(root: Path) -> list[Path]:
    """The folders of the runs under `root`, by name."""
    return sorted(path.parent for path in root.glob("[!.]*/run.json"))


def place(name: str, root: Path) -> Path:
    """The folder of a run that a person named.

    Raises:
        RunError: there is no such run.
    """
    for folder in (root / name, Path(name)):
        if (folder / "run.json").is_file():
            return folder if folder.name.strip(".") else folder.resolve()
    known = ", ".join(path.name for path in kept_in(root)[:10])
    remedy = f"there are: {known}" if known else "`rlaif runs list --runs FOLDER` lists them"
    raise RunError(f"no run is called {name!r}", where=str(root), remedy=remedy)


def kept(folder: Path, root: Path) -> Kept:
    """What is known of a run; `root` is where others may depend on it.

    Raises:
        RunError: its run.json, or a finished stage, cannot be read.
    """
    config = record_of(folder)["config"]
    figures = figures_of(folder)
    stages = tuple(_stage(folder, name) for name in _stages(folder))
    return Kept(
        folder,
        _state(folder, figures),
        _bytes(folder),
        _law(folder),
        model_name(config.get("model", "")),
        stages,
        tuple(_needed_by(folder, root)),
        config,
        figures,
    )


def differences(runs: Sequence[Kept]) -> dict[str, list[Any]]:
    """The keys in which the configs of some runs differ, with the value of each run."""
    flat = [dict(_flat(run.config)) for run in runs]
    keys = sorted({key for config in flat for key in config} - {"name"})
    values = {key: [config.get(key) for config in flat] for key in keys}
    return {key: found for key, found in values.items() if any(v != found[0] for v in found)}


def remove(runs: Iterable[Kept]) -> None:
    """Remove the folders of some runs.

    Raises:
        RunError: a run that stays needs one of them, a process works in one, or people review one;
            then none is removed.
    """
    runs = list(runs)
    going = {run.name for run in runs}
    gone = {run.folder: run.folder.with_name(f".{run.name}.gone") for run in runs}
    for run in runs:
        if staying := [name for name in run.needed_by if name not in going]:
            raise RunError(
                f"{', '.join(staying)} depends on it",
                where=str(run.folder),
                remedy=f"remove it as well: rlaif runs rm {run.name} {' '.join(staying)}",
            )
        if held(run.folder / ADDRESS):
            raise RunError(
                "its review app is up, and people may be at work",
                where=str(run.folder),
                remedy="end `rlaif audit serve` with Ctrl-C first",
            )
    with ExitStack() as stack:
        for folder in gone:
            stack.enter_context(locked(folder))
        for folder, left in gone.items():  # each is whole, or not there
            shutil.rmtree(left, ignore_errors=True)  # of a removal that was interrupted
            folder.replace(left)
    for left in gone.values():
        shutil.rmtree(left)


def sweep(root: Path) -> list[Path]:
    """Remove what removals that were interrupted have left under `root`; which folders it was."""
    left = sorted(root.glob(".*.gone"))
    for folder in left:
        shutil.rmtree(folder)
    return left


# --- one run --------------------------------------------------------------------------------------


def _stages(folder: Path) -> list[str]:
    """Every stage of a run and each optional one that it has, in the order in which they run."""
    names = (path.name.removesuffix(".partial").lstrip(".") for path in folder.iterdir())
    more = {name for name in names if name in OPTIONAL or base(name) != name}
    return sorted({*STAGES, *more}, key=_turn)


def _turn(name: str) -> tuple[int, int, int]:
    """When a stage runs. Rounds alternate, policy-1 before preferences-2; the last is policy."""
    at = {stage: n for n, stage in enumerate(STAGES)}
    if name in OPTIONAL:
        return at["preferences"], 1, 0
    if base(name) == name:
        return at[name], 1 << 10 if name == "policy" else 0, 0
    n = int(name.rpartition("-")[2])
    return (at["policy"], n, 1) if base(name) == "policy" else (at["policy"], n, 0)


def _stage(folder: Path, name: str) -> KeptStage:
    done, partial = folder / name, folder / f".{name}.partial"
    if done.is_dir():
        record = stage_record(done) if name != "report" else {}
        seconds, finished = record.get("seconds"), record.get("finished", "")
        return KeptStage(name, "done", _bytes(done), seconds, finished)
    if partial.is_dir():
        return KeptStage(name, "begun", _bytes(partial))
    return KeptStage(name, "absent")


def _state(folder: Path, figures: dict[str, Any]) -> str:
    if held(folder / ".lock"):
        return "running"
    if (folder / "awaiting.json").is_file():
        return "waiting"
    return "unfinished" if figures["missing"] else "done"


def _law(folder: Path) -> str:
    """The law with its version, and of its digest enough to tell two texts of one version apart."""
    try:
        law = load(folder / "constitution.yaml")
    except RlaifError:
        return "-"
    return f"{law.id}@{law.version}+{law.digest[:8]}"


def _bytes(folder: Path) -> int:
    size = 0
    for at, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # a training removes checkpoints meanwhile
                size += Path(at, name).lstat().st_size
    return size


def _needed_by(folder: Path, root: Path) -> Iterator[str]:
    inside = folder.resolve()
    others = {other.resolve(): other for place in (folder.parent, root) for other in kept_in(place)}
    for resolved, other in sorted(others.items()):
        if resolved == inside:
            continue
        try:
            config = record_of(other)["config"]
        except RunError:
            continue
        named = [value for _, value in _flat(config) if isinstance(value, str)]
        if any(Path(value).is_absolute() and inside in Path(value).parents for value in named):
            yield other.name


def _flat(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a config, by dotted key."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{at}.{key}".lstrip("."))
    elif isinstance(value, list) and any(isinstance(inner, (dict, list)) for inner in value):
        for n, inner in enumerate(value):
            yield from _flat(inner, f"{at}.{n}")
    else:
        yield at, value
