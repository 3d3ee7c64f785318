"""A reward model from soft labels (Bai et al. 2022, section 4.1; loss: rlaif/losses.py).

    reward(into, config, pairs=preferred, model=str(finetuned / "model"), seed=0)
    for r in scores(into / "model", [(prompt.messages, text), ...]): ...

The finetuned model gets one output, read at the token that ends the answer. Unlike the paper's
preference model it is calibrated and measured on held-out prompts, against the judge's
probabilities. `into` gets `model/`, `heldout.jsonl`, `curves.jsonl` and `train.log`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlaif import training
from rlaif.config.run import RewardConfig
from rlaif.reward.scoring import RewardModel, scores

__all__ = ["RewardModel", "reward", "scores"]


def reward(
    into: Path,
    config: RewardConfig,
    *,
    pairs: Path,
    model: str,
    seed: int,
    templates: Path | None = None,
) -> dict[str, Any]:
    """Train a reward model on the pairs of the preferences stage, measured on held-out prompts.

    Prompts are read as `draft.j2` of the folder `templates` asks them; without it as they are.

    Metrics: `examples`; `left_out` by reason; `steps`, `tokens` (of one pass); `loss`, the mean
    over the last tenth of the steps; what `quality.figures` finds of the held-out pairs; `seconds`.

    Raises:
        ConfigError: the model or an option cannot be used.
        DataError: there is nothing to train on.
        TrainingFailed: the training process failed.
    """
    given = {"pairs": pairs, "model": model, "templates": templates}
    return training.train("rlaif.reward.trainer:fit", into, config, seed=seed, **given)
