"""The parameters of the flows: flat, typed and described, so that Prefect's form can show them.

Prefect checks what a JSON schema can say before a run exists. The rest is checked by the flow's
first step, through the same `rlaif.config.load` as the command line's `--set`, before anything is
spent. Empty means: as the config file says; a text is then "", for which the form shows a plain
field, and a number None. Overriding a nested parameter would replace the whole of it, so that there
are none; what is not listed here is changed by `changes`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, Field, JsonValue

from rlaif.checking import check
from rlaif.config import RunConfig, named
from rlaif.config.policy import OnPolicyConfig, PolicyConfig
from rlaif.config.run import SEEDS
from rlaif.constitution import load as load_law
from rlaif.shipped import SEED_MODEL, folder, model_name
from rlaif.stages import OPTIONAL, STAGES, check_name

DEMO = str(SEED_MODEL.with_name("demo.yaml"))


def _kinds(annotation: Any) -> Iterator[str]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation.model_fields["kind"].default
    for part in get_args(annotation):
        yield from _kinds(part)


KINDS: list[JsonValue] = [*sorted(set(_kinds(PolicyConfig)))]
"""The algorithms for the policy."""
LAWS = sorted(path.stem for path in folder("constitution").glob("*.yaml"))
"""The constitutions that are shipped."""

ConfigFile = Annotated[str, Field(min_length=1, examples=["mine.yaml", "runs/demo"])]
Name = Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$", examples=["mine"])]
Law = Annotated[str, Field(examples=LAWS)]
ModelName = Annotated[str, Field(examples=["sandbox", "path/to/a/model"])]
PolicyKind = Annotated[str, Field(json_schema_extra={"enum": ["", *KINDS]})]
Count = Annotated[int, Field(ge=1)]
Rounds = Annotated[int, Field(ge=0, le=64)]
Principles = Annotated[int, Field(ge=0, le=1024)]
Seed = Annotated[int, Field(ge=0, lt=SEEDS)]
Hours = Annotated[int, Field(ge=1, le=8760)]
Shards = Annotated[int, Field(ge=1, le=200)]
Stage = Annotated[str, Field(json_schema_extra={"enum": [*STAGES, *OPTIONAL]})]
Change = Annotated[str, Field(pattern=r"^[a-z_]+(\.[a-z_0-9]+)*=", examples=["policy.beta=0.05"])]

SETS: dict[str, tuple[str, ...]] = {
    "name": ("name",),
    "constitution": ("constitution",),
    "model": ("model",),
    "policy": ("policy.kind",),
    "prompts": ("critique.limit", "preferences.limit"),
    "heldout": ("evaluation.limit",),
    "rounds": ("critique.rounds",),
    "principles": ("preferences.principles",),
    "seed": ("seed",),
}
"""Which keys of the config each parameter sets."""


@dataclass(frozen=True)
class Asked:
    """What a flow was asked for: a config, and the folder that holds the runs."""

    config: RunConfig
    runs: Path
    as_it_stood: bool = False
    """The run was named by its folder: what is finished there is not asked for anew."""

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.runs / self.config.name

    @property
    def title(self) -> str:
        """What a run of a flow is called: run, constitution and model."""
        law = load_law(self.config.constitution)
        return f"{self.config.name} · {law.id}@{law.version} · {model_name(self.config.model)}"

    def check(self, until: str = "report", fresh: Iterable[str] = ()) -> None:
        """Look at all that a run up to `until` needs, before anything is spent.

        Raises:
            ConfigError: something cannot be used, `until` is never reached, or `fresh` names no
                stage.
        """
        for stage in fresh:
            check_name(stage, where="fresh")
        check(self.config, until=until, standing=self.folder if self.as_it_stood else None)


def asked(parameters: Mapping[str, Any]) -> Asked:
    """The config that a flow's parameters ask for.

    Raises:
        ConfigError: it cannot be used; every problem with its place and its remedy.
    """
    path, more = Path(parameters["config_file"]), parameters.get("changes") or ()
    changes = list(_changes(parameters))
    found = named(path, [*changes, *more])
    if parameters.get("prompts") and isinstance(found.config.policy, OnPolicyConfig):
        found = named(path, [*changes, f"policy.limit={parameters['prompts']}", *more])
    runs = found.root(Path(parameters["runs"]))
    return Asked(found.config, runs, as_it_stood=found.folder is not None)


def _changes(parameters: Mapping[str, Any]) -> Iterator[str]:
    """The parameters that are set, as changes to the config."""
    for parameter, keys in SETS.items():
        if (value := parameters.get(parameter)) in (None, ""):
            continue
        here = Path(os.path.expanduser(str(value)))
        if parameter in ("constitution", "model") and here.exists():
            value = here.absolute()  # not from the config's folder
        yield from (f"{key}={value}" for key in keys)
