"""How the policy is trained: one section, told apart by its `kind`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from rlaif.config.section import TrainerConfig


class DpoConfig(TrainerConfig):
    """Direct preference optimisation on the soft labels (Rafailov et al. 2023)."""

    kind: Literal["dpo"] = "dpo"

    beta: float = Field(default=0.1, gt=0)
    """How strongly the policy is held to the reference."""

    labels: Literal["soft", "hard"] = "soft"
    """soft: each pair weighs by its probability. hard: the likelier answer is simply chosen."""

    min_margin: float = Field(default=0.0, ge=0, lt=0.5)
    """Leave out pairs whose label is nearer to 0.5 than this."""

    loss_type: str = "sigmoid"
    """With hard labels: any loss of TRL's DPOTrainer, such as ipo. Soft labels need sigmoid."""

    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """With hard labels: passed to TRL where its loss has it; soft labels: p is drawn to 0.5."""


class KtoConfig(TrainerConfig):
    """Kahneman-Tversky optimisation (TRL's KTOTrainer) on the likelier and unlikelier answers."""

    kind: Literal["kto"] = "kto"

    beta: float = Field(default=0.1, gt=0)
    """How strongly the policy is held to the reference."""

    min_margin: float = Field(default=0.0, ge=0, lt=0.5)
    """Leave out pairs whose label is nearer to 0.5 than this."""


def _kind(section: Any) -> str:
    return section.get("kind", "dpo") if isinstance(section, dict) else section.kind


PolicyConfig = Annotated[
    Annotated[DpoConfig, Tag("dpo")] | Annotated[KtoConfig, Tag("kto")], Discriminator(_kind)
]
