"""The training process of KTO: TRL's KTOTrainer on the likelier and unlikelier answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trl import KTOConfig, KTOTrainer

from rlaif import training
from rlaif.config.policy import KtoConfig
from rlaif.policy.examples import labelled
from rlaif.policy.tracking import Reporting
from rlaif.training import fitting, models
from rlaif.training.examples import Encoder, Example, LeftOut, stored


class TokenKTOTrainer(KTOTrainer):
    """TRL's trainer on examples that are token ids already."""

    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: Any, dataset_name: str
    ) -> Any:
        """Add answers to other prompts, whose log-ratio is KTO's reference point: within each micro
        batch, every prompt gets the answer of the one before it."""
        if not self.calculate_KL:
            return dataset

        def others(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
            answers = rows["completion_ids"]
            return {"KL_completion_ids": [answers[-1], *answers[:-1]]}

        return dataset.map(others, batched=True, batch_size=args.per_device_train_batch_size)


def fit(into: Path) -> None:
    """Train and save; `into/job.json` says what."""
    began, asked = time.monotonic(), training.job(into)
    config = KtoConfig.model_validate(asked["config"])
    start, pairs, seed = models.source(asked["model"]), Path(asked["pairs"]), asked["seed"]
    encode = Encoder(start, config.max_length, asked.get("templates"))
    dataset, left_out = stored(into, "answers", lambda: _examples(pairs, encode, config))
    trainer = TokenKTOTrainer(
        model=models.load_for_training(start, config),
        args=fitting.arguments(KTOConfig, into, config, seed, beta=config.beta, max_length=None),
        train_dataset=dataset.shuffle(seed=seed),  # else both answers to a prompt are neighbours
        processing_class=encode.tokenizer,
        peft_config=models.adapters(config.lora),
        callbacks=[Reporting(into, config.report_to)],
    )
    fitted = fitting.fit(trainer, into)
    models.save(trainer, start, into / "model", lora=config.lora)
    metrics = {
        "examples": len(dataset),
        "left_out": left_out,
        "steps": fitted.steps,
        "tokens": sum(dataset["tokens"]),
        "loss": fitted.last("loss"),
        "margin": fitted.last("rewards/margins"),
        "kl": fitted.last("kl"),
        "seconds": round(time.monotonic() - began, 1),
    }
    training.finish(into, metrics)


def _examples(pairs: Path, encode: Encoder, config: KtoConfig) -> Iterator[Example | LeftOut]:
    for row in labelled(pairs, encode, config.min_margin, ties=False):
        if isinstance(row, LeftOut):
            yield row
            continue
        for side, liked in (("chosen_ids", True), ("rejected_ids", False)):
            tokens = len(row["prompt_ids"]) + len(row[side])
            yield {
                "prompt_ids": row["prompt_ids"],
                "completion_ids": row[side],
                "label": liked,
                "tokens": tokens,
            }
