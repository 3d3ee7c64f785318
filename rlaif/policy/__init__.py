"""The policy: the finetuned model, trained on the soft labels (RL-CAI, Bai et al. 2022, section 4).

    policy(into, config, pairs=preferred, model=str(finetuned / "model"), seed=0)

`kind: dpo` needs no reward model: direct preference optimisation (Rafailov et al. 2023), here with
each pair's own probability; the paper has PPO. `kind: kto` is TRL's own on the likelier and
unlikelier answers (Ethayarajh et al. 2024). The reference is the model that training starts from.
`into` gets `model/`, `curves.jsonl` and `train.log`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlaif import training
from rlaif.config.policy import DpoConfig, KtoConfig
from rlaif.policy.options import check_dpo, check_kto


def policy(
    into: Path, config: DpoConfig | KtoConfig, *, pairs: Path, model: str, seed: int
) -> dict[str, Any]:
    """Train `model` on the pairs of the preferences stage; `into/model` is served as it was.

    Metrics: `examples`; `left_out` by reason; `steps`, `tokens` (of one pass); means over the last
    tenth of the steps of `loss`, `margin` (reward of the likelier over the unlikelier answer, in
    units of the loss), `accuracy` (how often it is positive) and `kl`; `seconds`.

    Raises:
        ConfigError: an option would do nothing here, or the model cannot be used.
        DataError: there is nothing to train on.
        TrainingFailed: the training process failed.
    """
    if isinstance(config, DpoConfig):
        check_dpo(config)
    else:
        check_kto(config)
    entry = f"rlaif.policy.{config.kind}:fit"
    return training.train(entry, into, config, pairs=pairs, model=model, seed=seed)
