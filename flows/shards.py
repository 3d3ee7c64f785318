"""Shards: the calls of a stage made side by side, before the stage itself runs from the store.

A stage is one task that streams its prompts. To spread it, each shard is a mapped task that runs
the same stage on a part of the prompts in a scratch folder, and leaves nothing but finished calls
in the completions store. Questions are chosen by the hash of an item, never by its place, so that
the stage then asks the same ones and finds them answered: its result is the same to the byte,
however many shards there were. Off by default; docs/operations.md says where it pays.
"""

from __future__ import annotations

import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

from prefect import unmapped

from flows import shown
from flows.steps import as_task
from rlaif.config import RunConfig
from rlaif.constitution import loads, to_yaml
from rlaif.errors import ConfigError, EngineError
from rlaif.pipeline import Pipeline


def warm(run: Pipeline, stage: str, shards: int, prompts: Path, *inputs: Path) -> None:
    """Make the calls of a stage in so many shards; nothing where there is one, or it is done.

    Raises:
        ConfigError: each shard would start a model server of its own, and they may not all be up.
    """
    if shards < 2 or (run.run.folder / stage / "stage.json").is_file():
        return
    config = run.config
    ours = stage == "preferences" or not config.engine.base_urls
    if ours and config.engine.at_once < shards:
        raise ConfigError(
            f"{shards} shards of {stage} would start {shards} model servers",
            where="engine.at_once",
            remedy="say how many fit (engine.at_once), name servers in engine.base_urls, or set "
            "shards to 1",
        )
    run.models.make_room()
    asked = _asked(run, stage, shards, prompts, *inputs)
    as_task(f"{stage} shard", _shard).map(range(shards), unmapped(asked)).result()


def _asked(run: Pipeline, stage: str, shards: int, prompts: Path, *inputs: Path) -> dict[str, Any]:
    """What each shard is told, in plain values: it opens a store and models where it runs."""
    return {
        "shards": shards,
        "stage": stage,
        "config": run.run.config.resolved(),
        "law": to_yaml(run.constitution),  # as the run has it: its file may have been edited
        "store": run.store,
        "prompts": str(prompts),
        "inputs": [str(path) for path in inputs],
        "logs": str(run.run.folder.resolve() / "logs"),
    }


def _shard(number: int, asked: dict[str, Any]) -> None:
    """The calls of one part of the prompts, into the store."""
    config, stage = RunConfig.model_validate(asked["config"]), asked["stage"]
    section, logs = getattr(config, stage), Path(asked["logs"]) / f"shard-{number}"
    with tempfile.TemporaryDirectory(prefix="rlaif-shard-") as folder:
        scratch = Path(folder)
        part = _part(Path(asked["prompts"]), scratch, section.limit, number, asked["shards"])
        engine = config.engine.model_copy(update={"logs": config.engine.logs or logs})
        own = {
            "name": f"shard-{number}",
            "engine": engine,
            stage: section.model_copy(update={"limit": None}),
        }
        told, law = config.model_copy(update=own), loads(asked["law"])
        with Pipeline.open(told, root=scratch, store=asked["store"], law=law) as run:
            try:
                getattr(run, stage)(part, *map(Path, asked["inputs"]))
            except EngineError:
                shown.end_of_log(logs / "vllm.log")
                raise


def _part(prompts: Path, scratch: Path, limit: int | None, number: int, shards: int) -> Path:
    """A folder with every n-th of the prompts that the stage would take."""
    part = scratch / "prompts"
    part.mkdir()
    with (prompts / "train.jsonl").open("rb") as all, (part / "train.jsonl").open("wb") as some:
        some.writelines(islice(islice(all, limit), number, None, shards))
    return part
