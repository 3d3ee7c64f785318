"""The training process of GRPO: TRL's GRPOTrainer on our rewards."""

from __future__ import annotations

from pathlib import Path

from rlaif import training
from rlaif.config.policy import GrpoConfig
from rlaif.policy import groups


def fit(into: Path) -> None:
    """Train and save; `into/job.json` says what."""
    config = GrpoConfig.model_validate(training.job(into)["config"])
    with groups.trl_imported(config):
        from trl import GRPOConfig, GRPOTrainer
    groups.fit(into, config, GRPOTrainer, GRPOConfig)
