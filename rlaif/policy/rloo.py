"""The training process of RLOO: TRL's RLOOTrainer on our rewards."""

from __future__ import annotations

from pathlib import Path

from rlaif import training
from rlaif.config.policy import RlooConfig
from rlaif.policy import groups


def fit(into: Path) -> None:
    """Train and save; `into/job.json` says what."""
    config = RlooConfig.model_validate(training.job(into)["config"])
    with groups.trl_imported(config):
        from trl import RLOOConfig, RLOOTrainer
    groups.fit(into, config, RLOOTrainer, RLOOConfig)
