"""What all sections of a config share."""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from rlaif import shipped
from rlaif.records import Sampling

log = logging.getLogger(__name__)


def _from_folder(path: Path, info: ValidationInfo) -> Path:
    """A path in a config starts from the config's folder."""
    folder = (info.context or {}).get("folder", Path())
    try:
        return Path(folder, path.expanduser()).resolve()
    except RuntimeError:
        raise ValueError(f"this machine has no user {path.parts[0].removeprefix('~')}") from None


def _law(path: Path, info: ValidationInfo) -> Path:
    here, names = _from_folder(path, info), {}
    if not path.suffix:
        names = {law.stem: law for law in sorted(shipped.folder("constitution").glob("*.yaml"))}
    if names and str(path) not in names and not here.exists():
        raise ValueError(f"there is no such file, and what is shipped is {', '.join(names)}")
    return names.get(str(path), here)


def _model(name: str, info: ValidationInfo) -> str:
    if name == "sandbox":
        return str(shipped.SEED_MODEL)
    here = _from_folder(Path(name), info)
    if here.is_dir():
        return str(here)
    if name.count("/") == 1 and not Path(name).is_dir() and name[0] not in "./~":
        for parent in (here.parent, Path(name).parent.resolve()):
            if parent.is_dir():
                _taken_for_a_hub_name(name, str(parent))
                break
    return name


@lru_cache
def _taken_for_a_hub_name(name: str, parent: str) -> None:
    what = "model %s: %s is a folder and has no %s in it; so this is taken for a name on the hub"
    log.warning(what, name, parent, name.rpartition("/")[2])


def _plain(value: Any) -> Any:
    """Text from YAML as the number, truth or nothing that it says."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if not isinstance(value, str):
        return value
    if value in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[value]
    for number in (int, float):
        try:
            return number(value)
        except ValueError:
            continue
    return value


File = Annotated[Path, AfterValidator(_from_folder)]
Law = Annotated[Path, AfterValidator(_law)]
ModelName = Annotated[str, Field(min_length=1), AfterValidator(_model)]
PassedThrough = Annotated[dict[str, Any], BeforeValidator(_plain)]


class Section(BaseModel):
    """A frozen part of a run's config; unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class SamplingConfig(Section):
    """How texts are drawn from a model."""

    temperature: float = Field(default=1.0, ge=0)
    """1 draws as the model is; 0 takes the likeliest token."""

    top_p: float = Field(default=1.0, gt=0, le=1)
    """The share of probability that is drawn from at each token."""

    max_tokens: int = Field(default=512, gt=0)
    """Longest text, in tokens."""

    def sampling(self, *, seed: int, stop: tuple[str, ...] = ()) -> Sampling:
        """These settings as a call has them; what is not drawn is the same for every seed."""
        seed = seed if self.temperature else 0
        return Sampling(self.temperature, self.top_p, self.max_tokens, stop, seed)


class LoraConfig(Section):
    """Low-rank adapters (peft) in place of full finetuning; merged into the weights at the end."""

    r: int = Field(default=16, gt=0)
    """Rank."""

    alpha: int = Field(default=32, gt=0)
    """Scale: updates count alpha / r."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout inside the adapters, where the training leaves dropout on: in finetuning."""

    target_modules: str | tuple[str, ...] = "all-linear"
    """Which layers get one, as peft names them."""


class TrainerConfig(Section):
    """What every training stage has; the defaults are for a model of some billion parameters."""

    no_dropout: ClassVar[bool] = False

    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak learning rate."""

    epochs: float = Field(default=1.0, gt=0)
    """Passes over the data."""

    batch_size: int = Field(default=16, gt=0)
    """Examples for one step of the optimizer, over all devices."""

    micro_batch: int | None = Field(default=None, gt=0)
    """Examples that one device handles at once; the rest accumulates. Unset: the whole batch, but
    eight answers of PPO on a GPU."""

    max_length: int = Field(default=2048, gt=0)
    """Longest example, in tokens. A longer one is left out and counted, never cut."""

    lora: LoraConfig | None = None
    """Set it (`lora: {}` for the defaults) to train adapters only."""

    save_every: int = Field(default=100, gt=0)
    """Steps between checkpoints; an interrupted training goes on from the last one."""

    launch: tuple[str, ...] = ()
    """Arguments for `accelerate launch`, such as --num_processes=8; empty: one plain process.
    Without GPUs, several processes need --multi_gpu beside it."""

    trl: PassedThrough = {}
    """More options of the TRL trainer, passed through as they are."""

    @model_validator(mode="after")
    def _dropout_is_on(self) -> Self:
        if self.no_dropout and self.lora and self.lora.dropout:
            raise ValueError("this training switches dropout off: leave `lora.dropout` away")
        return self

    @field_validator("launch")
    @classmethod
    def _really_several(cls, launch: tuple[str, ...]) -> tuple[str, ...]:
        several = re.search(r"--num[_-]processes[= ]([2-9]|1\d)", " ".join(launch))
        if several and {"--cpu", "--use_cpu"} & set(launch):
            remedy = "say --multi_gpu, which without GPUs starts them on the CPU"
            raise ValueError(f"with --cpu accelerate starts one process alone; {remedy}")
        return launch
