"""TRL 1.12's PPOTrainer, in an environment that has it: `python trl_ppo.py JOB`, from bench_ppo.

JOB is a JSON file: model, reward_model, prompts (token ids), into and the settings below. It gets
`into/curves.json` (one row for each batch of answers) and the trained policy in `into/model`.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ |= {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1"}

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer


class Clock(TrainerCallback):
    """One row for each batch: what it took, its reward and its divergence."""

    def __init__(self, answers: int) -> None:
        self.rows: list[dict[str, float]] = []
        self._answers, self._before = answers, (0.0, 0.0)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._before = time.perf_counter(), time.process_time()

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        if "objective/kl" in logs:
            now = time.perf_counter(), time.process_time()
            self.rows.append(
                {
                    "seconds": now[0] - self._before[0],
                    "cpu": now[1] - self._before[1],
                    "answers": self._answers,
                    "reward": logs["objective/scores"],
                    "kl": logs["objective/kl"],
                }
            )
            self._before = now


def main(job: dict[str, Any]) -> None:
    """Train as the job says."""
    into, clock = Path(job["into"]), Clock(job["batch"])
    torch.set_num_threads(job["threads"])

    def reward_model() -> Any:
        return AutoModelForSequenceClassification.from_pretrained(
            job["reward_model"], num_labels=1, dtype=torch.float32
        )

    def policy() -> Any:
        return AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)

    tokenizer = AutoTokenizer.from_pretrained(job["model"], padding_side="left")
    arguments = PPOConfig(
        str(into / "trl"),
        learning_rate=job["learning_rate"],
        total_episodes=job["answers"],
        per_device_train_batch_size=job["batch"],  # drawn at once; a step of the optimizer has
        gradient_accumulation_steps=1,  # batch / num_mini_batches of them
        num_mini_batches=job["minibatches"],
        local_rollout_forward_batch_size=job["batch"],
        num_ppo_epochs=job["ppo_epochs"],
        response_length=job["max_tokens"],
        stop_token=None if job["forced"] else "eos",
        temperature=1.0,
        missing_eos_penalty=job["no_eos_penalty"] or None,
        kl_coef=job["beta"],
        vf_coef=job["value_weight"],
        seed=job["seed"],
        num_sample_generations=0,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    dataset = Dataset.from_dict({"input_ids": job["prompts"]})
    trainer = PPOTrainer(
        args=arguments,
        processing_class=tokenizer,
        model=policy(),
        ref_model=policy(),
        reward_model=reward_model(),
        value_model=reward_model(),
        train_dataset=dataset,
        eval_dataset=dataset.select(range(1)),
        callbacks=[clock],
    )
    trainer.train()
    trainer.policy_model.save_pretrained(into / "model")
    tokenizer.save_pretrained(into / "model")
    (into / "curves.json").write_text(json.dumps(clock.rows))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
