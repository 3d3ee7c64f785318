"""Stages of a run: their names, their records, and whether one is made from the same as another.

A finished stage has a stage.json: what it was made from (its config section and a digest of each
input) and what came out of it (a hash of each file).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlaif.config.section import Section
from rlaif.documents import did_you_mean
from rlaif.errors import ConfigError, RunError

STAGES = (
    "prompts",
    "critique",
    "finetune",
    "preferences",
    "reward",
    "policy",
    "evaluation",
    "report",
)
"""In the order in which they run."""

OPTIONAL = ("audit",)
"""Stages that a run has only where its config asks for them."""

NO_MATTER = {"launch", "save_every", "overlay", "report_to"}
"""Options, wherever in a section, that say how a stage is run and not what it makes."""

_RECORDED = {"made_from", "outputs", "digest", "metrics", "seconds", "finished"}  # in stage.json


def base(name: str) -> str:
    """The stage that a round's folder is of: policy-2 is policy."""
    stem, _, number = name.rpartition("-")
    return stem if stem in STAGES and number.isdigit() else name


def check_name(name: str, *, where: str) -> None:
    """See that a stage is called so.

    Raises:
        ConfigError: none is.
    """
    names = (*STAGES, *OPTIONAL)
    if name not in names:
        remedy = did_you_mean(name, names) or f"one of {', '.join(names)}"
        raise ConfigError(f"no stage is called {name!r}", where=where, remedy=remedy)


def stage_record(folder: Path) -> dict[str, Any]:
    """A finished stage's stage.json: made_from, outputs, digest, metrics, seconds.

    Raises:
        RunError: the stage is not there, or damaged.
    """
    path, remedy = folder / "stage.json", f"run it again with --fresh {base(folder.name)}"
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"not a finished stage ({error})", where=str(path), remedy=remedy) from error
    if not isinstance(record, dict) or not record.keys() >= _RECORDED:
        what = "not a finished stage (this is no record of one)"
        raise RunError(what, where=str(path), remedy=remedy)
    return record


def digest(path: Path) -> str:
    """SHA-256 of a file; of a stage's folder, of what came out of it; of another folder, of its
    files."""
    if path.is_file():
        return _file_digest(path)
    if (path / "stage.json").is_file():
        return stage_record(path)["digest"]
    return digest_of(outputs(path))


def outputs(folder: Path) -> dict[str, str]:
    """SHA-256 of each file in a folder, but for logs, by its path there."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".log")
    return {str(p.relative_to(folder)): _file_digest(p) for p in files}


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(content: object) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def made_from(
    seed: int, section: Section | None, inputs: Mapping[str, Path | str]
) -> dict[str, Any]:
    """What a stage is made from, as its record says it: an input that is a path by its content."""
    digests = {
        name: given if isinstance(given, str) else digest(given)
        for name, given in sorted(inputs.items())
    }
    return {"seed": seed, "section": _dumped(section), "inputs": digests}


def differences(
    before: dict[str, Any], now: dict[str, Any], section: Section | None
) -> Iterator[str]:
    """Dotted names of what differs between two `made_from`; `section` is the one of `now`."""
    said = _dumped(section, exclude_defaults=True)
    return _differences(comparable(before), now, now | {"section": said})


def _dumped(section: Section | None, *, exclude_defaults: bool = False) -> dict[str, Any]:
    if section is None:
        return {}
    return _mattering(section.model_dump(mode="json", exclude_defaults=exclude_defaults))


def comparable(made_from: dict[str, Any]) -> dict[str, Any]:
    """A record of what a stage was made from, also one of an earlier version, as it counts now."""
    return made_from | {"section": _mattering(made_from["section"])}


def _mattering(value: Any) -> Any:
    """A dumped section without the options that don't matter."""
    if isinstance(value, dict):
        return {key: _mattering(inner) for key, inner in value.items() if key not in NO_MATTER}
    return [_mattering(inner) for inner in value] if isinstance(value, list) else value


def _differences(before: Any, now: Any, said: Any, at: str = "") -> Iterator[str]:
    """Dotted names of what differs between two records.

    `said` is `now` without the options that are as their defaults. Such a one that the earlier
    record does not know came with a later version, and makes no difference.
    """
    if isinstance(before, dict) and isinstance(now, dict):
        said = said if isinstance(said, dict) else {}
        for key in sorted(before.keys() | said.keys()):
            parts = before.get(key), now.get(key), said.get(key)
            yield from _differences(*parts, f"{at}.{key}".lstrip("."))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        inner = said if isinstance(said, list) else [None] * len(now)
        for n, parts in enumerate(zip(before, now, inner, strict=True)):
            yield from _differences(*parts, f"{at}.{n}")
    elif before != now:
        yield at.removeprefix("section.").removeprefix("inputs.")
