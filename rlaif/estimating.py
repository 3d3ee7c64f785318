"""What stages took in finished runs, as an estimate of what they will take.

Only runs that began with the same start model and the same feedback model count: a figure of
another model misleads more than none. What cannot be estimated is None.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlaif.config import RunConfig
from rlaif.config.naming import config_of
from rlaif.config.policy import OnlineConfig, OnPolicyConfig
from rlaif.errors import RunError
from rlaif.stages import base, stage_record

TRAININGS = ("finetune", "reward", "policy")


@dataclass(frozen=True)
class Past:
    """The runs under `root` whose `models` were these: start and feedback, as stores know them."""

    root: Path
    models: tuple[str, str]
    config: RunConfig = field(repr=False)
    prompts: int
    """Training prompts of the config."""

    def estimate(self, stage: str, calls: int) -> tuple[int | None, float | None]:
        """Tokens and seconds of a stage that sends so many calls."""
        name = base(stage)
        found = self._records(name)
        answered, paid, took = max(
            ((*_paid(record["metrics"]), record["seconds"]) for _, record in found),
            default=(0, 0, 0.0),
        )  # the run that asked most: few calls say little of what one takes
        each = calls / answered if answered else 0.0 if not calls else None
        tokens = None if each is None else round(paid * each)
        if name not in TRAININGS:
            return tokens, None if each is None else round(took * each, 1)
        trained = (self._trained(name, run, record) for run, record in found)
        return tokens, next((seconds for seconds in trained if seconds is not None), None)

    def _records(self, stage: str) -> list[tuple[Path, dict[str, Any]]]:
        """The runs that finished such a stage, or a round of it, with its record; the newest
        first."""
        found = [
            (path.parents[1], record)
            for name in (stage, f"{stage}-[0-9]*")
            for path in self.root.glob(f"*/{name}/stage.json")
            if (record := _read(path.parent)) and _models(path.parents[1]) == self.models
        ]
        return sorted(found, key=lambda each: each[1]["finished"], reverse=True)

    def _trained(self, stage: str, run: Path, record: dict[str, Any]) -> float | None:
        """Seconds of a training, by what it learns from now and did then."""
        try:
            then = config_of(run)
            prompts = stage_record(run / "prompts")["metrics"]["train"]
        except (KeyError, RunError):
            return None
        before, now = _lessons(stage, then, prompts), _lessons(stage, self.config, self.prompts)
        if before[0] != now[0] or not before[1]:
            return None
        return round(record["seconds"] * now[1] / before[1], 1)


def pairs(config: RunConfig) -> int:
    """Pairs of answers to one prompt."""
    section = config.preferences
    return min(math.comb(section.candidates, 2), section.max_pairs or 1 << 60)


def _lessons(stage: str, config: RunConfig, prompts: int) -> tuple[str, float]:
    """Which training it is, and how much it goes through: comparable where it is the same."""
    section: Any = getattr(config, stage)
    if isinstance(section, OnlineConfig):
        section = section.dpo
    if isinstance(section, OnPolicyConfig):
        answers: Any = section
        n, each = section.limit, answers.samples
    elif stage == "finetune":
        n, each = config.critique.limit, 1
    else:
        n, each = config.preferences.limit, pairs(config)
    return getattr(section, "kind", stage), section.epochs * min(prompts, n or prompts) * each


def _models(run: Path) -> tuple[str, str] | None:
    """Start and feedback model of a run, as its first paid stage knew them."""
    inputs = _read(run / "critique").get("made_from", {}).get("inputs", {})
    return (inputs["drafter"], inputs["critic"]) if "drafter" in inputs else None


def _read(stage: Path) -> dict[str, Any]:
    """A stage's record; empty where it is damaged: the run itself will say so."""
    try:
        return stage_record(stage)
    except RunError:
        return {}


def _paid(metrics: Any) -> tuple[int, int]:
    """Answers and tokens in all tallies (`Counts.as_dict`) that the metrics hold."""
    if not isinstance(metrics, dict):
        return 0, 0
    if "answered" in metrics and "prompt_tokens" in metrics:
        return metrics["answered"], metrics["prompt_tokens"] + metrics["completion_tokens"]
    answered, tokens = zip((0, 0), *map(_paid, metrics.values()), strict=True)
    return sum(answered), sum(tokens)
