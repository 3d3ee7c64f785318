"""The policy and its reference: log-probabilities at answers, weights for others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import DistributedType
from torch import Tensor
from torch.distributed.tensor import DTensor

from rlaif.config.policy import PpoConfig
from rlaif.policy.ppo import objective
from rlaif.policy.ppo.batches import Micro, spread
from rlaif.policy.ppo.learner import Learner
from rlaif.training import models

Pass = Callable[[Micro], tuple[Tensor, ...]]
"""From a micro batch to figures for each token, (B, A) each."""


class Policy:
    """The model that is trained, and the frozen one that it starts from.

    With adapters the reference is the same model with the adapters off, and takes no memory;
    otherwise it is a second copy, which computes in the same formats: at first the two agree.
    """

    def __init__(self, start: Path, config: PpoConfig) -> None:
        self.start, self.temperature, self._lora = start, config.temperature, config.lora
        model: Any = models.load_for_training(start, config)
        if adapters := models.adapters(config.lora):
            import peft

            model = peft.get_peft_model(model, adapters)
        self.learner = Learner(model, config.learning_rate, config.max_grad_norm)
        self.device = self.learner.accelerator.device
        self._reference = None if config.lora else self._frozen()

    def log_probs(self, micro: Micro) -> Tensor:
        """ln pi of the answers' tokens, with gradients if wanted. (B, A)"""
        logits = self._logits(self.learner.model, micro)
        return objective.log_probs(logits, micro.answer, self.temperature)

    def log_probs_and_entropy(self, micro: Micro) -> tuple[Tensor, Tensor]:
        """ln pi of the tokens, and the entropy before each. (B, A) each"""
        logits = self._logits(self.learner.model, micro)
        ours = objective.log_probs(logits, micro.answer, self.temperature)
        return ours, objective.entropy(logits, self.temperature)

    def reference(self, micro: Micro) -> tuple[Tensor]:
        """ln ref of the answers' tokens. (B, A)"""
        off = self.learner.bare.disable_adapter() if self._reference is None else nullcontext()
        with off, self.learner.accelerator.autocast():
            logits = self._logits(self._reference or self.learner.model, micro)
        return (objective.log_probs(logits, micro.answer, self.temperature),)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """The weights as they are served, adapters merged, one at a time; sharded ones are
        gathered, so that every process has to ask for all of them."""
        yield from ((name, _whole(weight.detach())) for name, weight in self._served())

    def _served(self) -> Iterator[tuple[str, Tensor]]:
        model = self.learner.bare
        if self._lora is None:
            yield from model.named_parameters()
            return
        base = model.get_base_model()
        for name, weight in base.named_parameters():
            if "lora_" in name:
                continue
            layer, based, _ = name.rpartition(".base_layer.weight")
            added = base.get_submodule(layer).get_delta_weight("default") if based else 0.0
            yield name.replace(".base_layer.", "."), weight + added

    def save(self, into: Path, tokenizer: Any) -> None:
        """Save it as it is served, in the format of the model that it began as."""
        learner = self.learner
        trained: Any = SimpleNamespace(
            model=learner.model,
            accelerator=learner.accelerator,
            deepspeed=learner.model,
            is_deepspeed_enabled=learner.accelerator.distributed_type == DistributedType.DEEPSPEED,
            is_world_process_zero=lambda: learner.accelerator.is_main_process,
            processing_class=tokenizer,
        )
        models.save(trained, self.start, into, lora=self._lora)

    def _logits(self, model: Any, micro: Micro) -> Tensor:
        """Those that predict the answers' tokens. (B, A, V)"""
        kept = micro.mask.shape[1] + 1
        return model(**micro.inputs, logits_to_keep=kept, use_cache=False).logits[:, :-1]

    def _frozen(self) -> Any:
        model: Any = models.load_model(self.start).requires_grad_(False)
        kept = DistributedType.DEEPSPEED, DistributedType.FSDP
        if self.learner.accelerator.distributed_type in kept and models.on_gpu_with_bf16():
            model.to(torch.bfloat16)  # as they have the policy; elsewhere autocast sees to it
        return model.to(self.device).eval()


def _whole(weight: Tensor) -> Tensor:
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def without_gradient(work: Pass, batches: Iterable[Micro]) -> list[Tensor]:
    """What `work` makes of all answers of some micro batches. (N, longest answer) each

    Not in inference mode: FSDP 2 keeps tensors of its first pass for the later ones.
    """
    with torch.no_grad():
        found = [(micro.rows, work(micro)) for micro in batches]
    shape = sum(len(rows) for rows, _ in found), max(each[0].shape[1] for _, each in found)
    figures = zip(*(values for _, values in found), strict=True)
    rows = [rows for rows, _ in found]
    return [spread(list(zip(rows, each, strict=True)), shape) for each in figures]
