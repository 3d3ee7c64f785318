"""A model with its optimizer: gradients over micro batches, then one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy

from rlaif.errors import ConfigError
from rlaif.training.models import on_gpu_with_bf16


class Learner:
    """A model that is trained. It has an accelerator of its own, as DeepSpeed wants of each model.

    What asks for gradients is learned. The learning rate is set for each step, so there is no
    scheduler whose state could be lost.

    Raises:
        ConfigError: the processes would shard it in a way that PPO cannot.
    """

    def __init__(self, model: nn.Module, rate: float, max_grad_norm: float) -> None:
        self.accelerator = Accelerator(mixed_precision="bf16" if on_gpu_with_bf16() else "no")
        refuse_fsdp1(self.accelerator)
        _tell_fsdp(self.accelerator)
        _refuse_zero3(self.accelerator)
        model.train(_checkpointed(model))
        weights = [p for p in model.parameters() if p.requires_grad]
        fused = self.accelerator.num_processes == 1
        optimizer = torch.optim.AdamW(weights, rate, eps=1e-5, weight_decay=0.0, fused=fused)
        _tell_deepspeed(self.accelerator.deepspeed_plugin, max_grad_norm)
        prepared = self.accelerator.prepare(model, optimizer)
        self.model: Any = prepared[0]
        self._optimizer: Any = prepared[1]
        self._rate, self._max_grad_norm = rate, max_grad_norm

    @property
    def bare(self) -> Any:
        """The model without what several processes wrap around it."""
        return self.accelerator.unwrap_model(self.model)

    def learn(self, losses: Sequence[Callable[[], Tensor]], share: float) -> float:
        """One step on the sum of some losses, which are computed one after the other.

        `share` of the peak learning rate is taken. Returns the norm of the gradient before it was
        scaled down.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * share
        for i, loss in enumerate(losses):
            last = i == len(losses) - 1
            self.accelerator.gradient_state._set_sync_gradients(last)
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                # Processes average their gradients, losses add up.
                self.accelerator.backward(loss() * self.accelerator.num_processes)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self._max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(norm) if norm is not None else 0.0

    def save(self, folder: Path) -> None:
        """Weights, optimizer and random generators, for exact resume."""
        self.accelerator.save_state(str(folder))

    def load(self, folder: Path) -> None:
        """Go on from `save`."""
        self.accelerator.load_state(str(folder))


def refuse_fsdp1(accelerator: Any) -> None:
    """Raise a ConfigError where FSDP 1 shards the weights: it has no `generate`."""
    plugin: Any = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin and plugin.fsdp_version == 1:
        what = "no answers can be drawn from weights that FSDP 1 shards"
        remedy = "set fsdp_version: 2 in its config file"
        raise ConfigError(what, where="policy.launch", remedy=remedy)


def _refuse_zero3(accelerator: Accelerator) -> None:
    plugin: Any = accelerator.deepspeed_plugin
    if plugin and plugin.zero_stage == 3:
        what = "PPO does not run with DeepSpeed's ZeRO 3"
        raise ConfigError(what, where="policy.launch", remedy="set zero_stage: 2, or use FSDP 2")


def _tell_fsdp(accelerator: Any) -> None:
    """In bfloat16, gradients are added up and figures come out in float32, as without FSDP."""
    plugin: Any = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin and accelerator.mixed_precision == "bf16":
        plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.float32
        )


def _tell_deepspeed(plugin: Any, max_grad_norm: float) -> None:
    """What DeepSpeed, where it is used, takes from a data loader or from its own config: its steps
    are ours, so it counts one micro batch of one for each."""
    if plugin:
        plugin.deepspeed_config |= {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": max_grad_norm,
        }


def _checkpointed(model: Any) -> bool:
    """Trade time for memory on a GPU; it works in training mode only."""
    inner = getattr(model, "backbone", model)
    if not torch.cuda.is_available():
        return False
    inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if hasattr(inner, "enable_input_require_grads"):
        inner.enable_input_require_grads()
    return True
