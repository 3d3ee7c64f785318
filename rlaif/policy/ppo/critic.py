"""The critic: a copy of the reward model that says at every token what the answer will be worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlaif.config.section import LoraConfig
from rlaif.training import models


class Critic(nn.Module):
    """A backbone and a linear head, whose arithmetic is float32 at all times; so are its weights,
    unless DeepSpeed keeps them itself or FSDP gathers them in bfloat16.

    `units` are the scale and the shift from what the head says to the rewards of the training.
    """

    units = (1.0, 0.0)

    def __init__(self, backbone: Any, head: Tensor | None) -> None:
        super().__init__()
        self.backbone = backbone
        width = backbone.config.get_text_config().hidden_size
        self.head = nn.Linear(width, 1, dtype=torch.float32)
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            self.head.weight.copy_(head) if head is not None else self.head.weight.zero_()

    def forward(self, answer: int, **inputs: Tensor) -> Tensor:
        """The values of the states before each of the last `answer` tokens. (B, A)"""
        hidden = self.backbone(**inputs, use_cache=False).last_hidden_state[:, -answer - 1 : -1]
        with torch.autocast(hidden.device.type, enabled=False):
            weight, bias = self.head.weight.float(), self.head.bias.float()
            value = nn.functional.linear(hidden.float(), weight, bias).squeeze(-1)
            scale, shift = self.units
            return scale * value + shift


def load_critic(reward_model: Path | None, start: Path, lora: LoraConfig | None) -> Critic:
    """A critic that begins as the reward model, backbone and head; without one, as the start model
    with a head of zeros.

    Raises:
        ConfigError: the model cannot be read.
    """
    if reward_model:
        whole: Any = models.load_reward_model(reward_model)
        head = whole.get_parameter(models.HEAD).detach()
    else:
        whole, head = models.load_model(start), None
    backbone = whole.base_model
    models.without_dropout(backbone)
    if adapters := models.adapters(lora):
        import peft

        if models.on_gpu_with_bf16():
            backbone = backbone.to(torch.bfloat16)
        adapters.task_type = peft.TaskType.FEATURE_EXTRACTION
        backbone = peft.get_peft_model(backbone, adapters)
    return Critic(backbone, head)
