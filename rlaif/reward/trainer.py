"""The training process of the reward stage: TRL's RewardTrainer with our soft loss."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from trl import RewardConfig as Arguments
from trl import RewardTrainer
from trl.trainer.reward_trainer import DataCollatorForPreference

from rlaif import losses, training
from rlaif.config.run import RewardConfig
from rlaif.jsonl import writing
from rlaif.records import Pair
from rlaif.reward.quality import Judged, figures
from rlaif.reward.scoring import PROMPTS, RewardModel
from rlaif.templates import Templates
from rlaif.training import fitting, models
from rlaif.training.examples import Encoder, Example, LeftOut, stored
from rlaif.training.pairs import encoded, share
from rlaif.training.soft import SoftCollator

SIDES = ("chosen_ids", "rejected_ids")


class SoftRewardTrainer(RewardTrainer):
    """TRL's reward trainer on soft labels. Its own figures are those of the likelier answer."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        target = inputs.pop("target")
        outputs: Any = super().compute_loss(model, inputs, True, num_items_in_batch)[1]
        a, b = outputs.logits.squeeze(-1).float().chunk(2)  # (B) each
        loss = losses.preference(a - b, target).mean()
        arguments: Any = self.args
        if (centre := arguments.center_rewards_coefficient) is not None:
            loss = loss + centre * ((a + b) ** 2).mean()
        return (loss, outputs) if return_outputs else loss


def fit(into: Path) -> None:
    """Train, save, measure; `into/job.json` says what."""
    began, asked = time.monotonic(), training.job(into)
    config = RewardConfig.model_validate(asked["config"])
    start, pairs, seed = models.source(asked["model"]), Path(asked["pairs"]), asked["seed"]
    encode = Encoder(start, config.max_length, asked.get("templates"))

    def part(heldout: bool) -> Iterator[Example | LeftOut]:
        return _examples(pairs, encode, config.heldout, seed, heldout)

    dataset, left_out = stored(into, "training_pairs", lambda: part(False))
    heldout, left_out_too = stored(into, "heldout_pairs", lambda: part(True), optional=True)
    encode.tokenizer.pad_token_id = encode.padding
    options = {"max_length": None, "remove_unused_columns": False}
    trainer = SoftRewardTrainer(
        model=models.load_for_training(start, config, reward=True),
        args=fitting.arguments(Arguments, into, config, seed, **options),
        data_collator=SoftCollator(DataCollatorForPreference(encode.padding)),
        train_dataset=dataset,
        processing_class=encode.tokenizer,
        peft_config=models.adapters(config.lora, reward=True),
    )
    fitted = fitting.fit(trainer, into)
    models.save(trainer, start, into / "model", lora=config.lora, reward=True)
    if not trainer.is_world_process_zero():
        return
    if templates := asked.get("templates"):
        Templates(templates).copy("draft", into / "model" / PROMPTS)
    del trainer
    metrics = {
        "examples": len(dataset),
        "left_out": dict(sorted((Counter(left_out) + Counter(left_out_too)).items())),
        "steps": fitted.steps,
        "tokens": sum(len(ids) for side in SIDES for ids in dataset[side]),
        "loss": fitted.last("loss"),
        **_measured(into, heldout, seed),
        "seconds": round(time.monotonic() - began, 1),
    }
    training.finish(into, metrics)


def _examples(
    pairs: Path, encode: Encoder, size: float, seed: int, heldout: bool
) -> Iterator[Example | LeftOut]:
    def use(pair: Pair) -> bool:
        return (share(pair.prompt.opening, "heldout", seed) < size) == heldout

    for row in encoded(pairs, encode, use):
        if not isinstance(row, LeftOut):
            prompt, longer = row["prompt_ids"], len(row["chosen_ids"]) - len(row["rejected_ids"])
            sides = {side: prompt + row[side] for side in SIDES}
            row = {**row, **sides, "longer": longer}
        yield row


def _measured(into: Path, heldout: Iterable[Any], seed: int) -> dict[str, Any]:
    """What the saved model makes of the held-out pairs, also kept in heldout.jsonl."""
    model = RewardModel(into / "model")

    def rewards(side: str) -> Iterator[float]:
        return model.of_ids(row[side] for row in heldout)

    sides = zip(heldout, *map(rewards, SIDES), strict=True)
    judged = [_judged(row, a - b, seed) for row, a, b in sides]
    with writing(into / "heldout.jsonl") as write:
        for pair in judged:
            write({"id": pair.id, "target": pair.target, "margin": pair.margin})
    return figures(judged)


def _judged(row: dict[str, Any], margin: float, seed: int) -> Judged:
    """The pair as it was, a before b."""
    sign = -1 if row["turned"] else 1
    target = 1 - row["target"] if row["turned"] else row["target"]
    fits = share(row["opening"], "temperature", seed) < 0.5
    return Judged(row["id"], row["opening"], target, sign * margin, sign * row["longer"], fits)
