"""The training process of DPO: TRL's DPOTrainer, with each pair's probability as its label."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from rlaif import losses, training
from rlaif.config.policy import DpoConfig
from rlaif.policy.examples import labelled
from rlaif.policy.tracking import Reporting
from rlaif.training import fitting, models
from rlaif.training.examples import Encoder, Example, LeftOut, stored
from rlaif.training.soft import SoftCollator


class TokenDPOTrainer(DPOTrainer):
    """TRL's trainer on examples that are token ids already; it also logs `kl`.

    `kl` is the mean of ln ref - ln pi over both answers: KL(reference | policy), as far as they
    were drawn from the reference.
    """

    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: Any, dataset_name: str
    ) -> Any:
        return dataset

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        seen = self._metrics["train"]
        if "rewards/chosen" in seen:
            both = zip(seen["rewards/chosen"], seen["rewards/rejected"], strict=True)
            seen["kl"] = [-(a + b) / (2 * self.beta) for a, b in both]
        super().log(logs, start_time)


class SoftDPOTrainer(TokenDPOTrainer):
    """Cross-entropy of the label p on beta h, h the log-ratio of rlaif/losses.py, plus `anchor`
    times its anchor.

    The policy's and the reference's log-probabilities are TRL's. Its figures are those of the
    likelier answer.
    """

    def __init__(self, *args: Any, anchor: float = 0.0, **options: Any) -> None:
        self.anchor = anchor
        super().__init__(*args, **options)

    def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
        target = inputs.pop("target")  # (B)
        outputs = self._outputs(model, inputs)
        a, b = outputs.log_probs.sum(1).float().chunk(2)  # (2 B, T - 1), then (B) each
        reference_a, reference_b = self._reference(inputs)
        difference = self.beta * losses.log_ratio(a, b, reference_a, reference_b)
        loss = losses.preference(difference, target).mean()
        if self.anchor:
            loss = loss + self.anchor * losses.anchor(a, b).mean()
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss
        self._note("rewards/chosen", self.beta * (a - reference_a))
        self._note("rewards/rejected", self.beta * (b - reference_b))
        self._note("rewards/margins", difference)
        self._note("rewards/accuracies", (difference > 0).float())
        self._note("logps/chosen", a)
        self._note("logps/rejected", b)
        return (loss, outputs) if return_outputs else loss

    def _outputs(self, model: Any, inputs: Any) -> Any:
        options = {"output_router_logits": True} if self.aux_loss_enabled else {}
        return model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            labels=inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100),
            use_cache=False,
            fused_lm_head=True,
            **options,
        )

    def _reference(self, inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """ln ref of both answers, without gradient. (B) each"""
        if self.precompute_ref_logps:
            return inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        a, b = self.compute_ref_log_probs(self.ref_model or self.model, inputs)
        return a.float(), b.float()

    def _note(self, name: str, values: torch.Tensor) -> None:
        model: Any = self.model
        values = self.accelerator.gather(values.detach())  # pyright: ignore[reportAssignmentType]
        self._metrics["train" if model.training else "eval"][name].append(values.mean().item())


def fit(into: Path) -> None:
    """Train and save; `into/job.json` says what."""
    began, asked = time.monotonic(), training.job(into)
    config = DpoConfig.model_validate(asked["config"])
    start, pairs, seed = models.source(asked["model"]), Path(asked["pairs"]), asked["seed"]
    encode = Encoder(start, config.max_length, asked.get("templates"))
    dataset, left_out = stored(into, "pairs", lambda: _examples(pairs, encode, config))
    trainer = _trainer(start, into, config, dataset, encode, seed)
    fitted = fitting.fit(trainer, into)
    models.save(trainer, start, into / "model", lora=config.lora)
    metrics = {
        "examples": len(dataset),
        "left_out": left_out,
        "steps": fitted.steps,
        "tokens": sum(dataset["tokens"]),
        "loss": fitted.last("loss"),
        "margin": fitted.last("rewards/margins"),
        "accuracy": fitted.last("rewards/accuracies"),
        "kl": fitted.last("kl"),
        "seconds": round(time.monotonic() - began, 1),
    }
    training.finish(into, metrics)


def _trainer(
    start: Path, into: Path, config: DpoConfig, dataset: Any, encode: Encoder, seed: int
) -> TokenDPOTrainer:
    soft = config.labels == "soft"
    hard = (
        {} if soft else {"loss_type": config.loss_type, "label_smoothing": config.label_smoothing}
    )
    options = {"beta": config.beta, "max_length": None, "remove_unused_columns": not soft, **hard}
    kind = partial(SoftDPOTrainer, anchor=config.anchor) if soft else TokenDPOTrainer
    pairs = DataCollatorForPreference(encode.tokenizer.pad_token_id)
    return kind(
        model=models.load_for_training(start, config),
        args=fitting.arguments(DPOConfig, into, config, seed, **options),
        data_collator=SoftCollator(pairs) if soft else None,
        train_dataset=dataset,
        processing_class=encode.tokenizer,
        peft_config=models.adapters(config.lora),
        callbacks=[Reporting(into, config.report_to)],
    )


def _examples(pairs: Path, encode: Encoder, config: DpoConfig) -> Iterator[Example | LeftOut]:
    soft = config.labels == "soft"
    for row in labelled(pairs, encode, config.min_margin, ties=soft):
        if not isinstance(row, LeftOut):
            target = losses.smoothed(row["target"], config.label_smoothing) if soft else 1.0
            answers = len(row["chosen_ids"]) + len(row["rejected_ids"])
            row = {**row, "target": target, "tokens": 2 * len(row["prompt_ids"]) + answers}
        yield row
