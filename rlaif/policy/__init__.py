"""The policy: the finetuned model, trained on the soft labels (RL-CAI, Bai et al. 2022, section 4).

    policy(into, config, pairs=preferred, model=str(finetuned / "model"), seed=0)

`kind: dpo` needs no reward model: direct preference optimisation (Rafailov et al. 2023), here with
each pair's own probability; the paper has PPO. `kind: kto` is TRL's own on the likelier and
unlikelier answers (Ethayarajh et al. 2024). The others learn from answers that they draw on the way
(`ON_POLICY`): `ppo` is our own, with a critic; `grpo` and `rloo` are TRL's. The rounds of `online`
are trainings by DPO, each a stage of its own (`Pipeline.policy`). The reference is the model that
training starts from. `into` gets `model/`, `curves.jsonl` and `train.log`. Which kind to choose
when: docs/policy.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlaif import training
from rlaif.config.policy import DpoConfig, GrpoConfig, KtoConfig, PpoConfig, RlooConfig
from rlaif.policy.options import check_dpo, check_kto
from rlaif.policy.rewards import model_folders

ON_POLICY = ("ppo", "grpo", "rloo")
"""The kinds that draw answers to prompts and ask for their rewards."""


def policy(
    into: Path,
    config: DpoConfig | KtoConfig | PpoConfig | GrpoConfig | RlooConfig,
    *,
    pairs: Path,
    model: str,
    seed: int,
    prompts: Path | None = None,
    rewarded: Path | None = None,
    judge: Mapping[str, Any] | None = None,
    templates: Path | None = None,
) -> dict[str, Any]:
    """Train `model`; `into/model` is served as it was.

    DPO and KTO learn from the `pairs` of the preferences stage. The kinds of `ON_POLICY` need
    `prompts` and, as far as their rewards ask for it, the reward stage's folder (`rewarded`) and
    the `judge` (`rlaif.policy.rewards.opened`). Prompts are asked by `draft.j2` of the folder
    `templates`; without it as they are.

    Metrics of DPO and KTO: `examples`; `left_out` by reason; `steps`, `tokens` (of one pass); means
    over the last tenth of the steps of `loss`, `margin` (reward of the likelier over the unlikelier
    answer, in units of the loss), `accuracy` (how often it is positive) and `kl`; `seconds`. Of the
    others: the same means of their own curves; `planned_steps`, `answers`; `probe`, its first and
    last; and `stopped`, the wire that tripped. With a judge, its `calls`.

    Raises:
        ConfigError: an option would do nothing here, or the model cannot be used.
        DataError: there is nothing to train on.
        TrainingFailed: the training process failed.
    """
    given: dict[str, Any] = {"pairs": pairs}
    if isinstance(config, DpoConfig):
        check_dpo(config)
    elif isinstance(config, KtoConfig):
        check_kto(config)
    else:
        own = rewarded / "model" if rewarded else None
        folders = model_folders(config.rewards, own)
        critic = own if config.rewards.own else None
        given = {"prompts": prompts, "reward_models": folders, "judge": judge, "critic": critic}
    entry = f"rlaif.policy.{config.kind}:fit"
    metrics = training.train(
        entry, into, config, model=model, seed=seed, templates=templates, **given
    )
    calls = metrics.get("rewards", {}).pop("calls", None)  # they are the stage's, as elsewhere
    return metrics | {"calls": calls} if calls else metrics
