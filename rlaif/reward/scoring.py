"""Rewards of answers: what the reward stage measures with, and evaluation and PPO ask."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rlaif.records import Message

Ids = list[int]
PROMPTS = "prompts"  # beside the weights: how prompts were asked in training
_WINDOW = 32  # batches that are sorted by length together, so that little is padded


class RewardModel:
    """A reward model in memory, on the GPU if there is one, there in bfloat16 if it has that; the
    head is float32 at all times. It reads prompts as it learned to: by the `draft.j2` that is kept
    in its folder, if there is one.

    Raises:
        ConfigError: the folder holds no such model.
    """

    def __init__(self, folder: Path, *, batch: int = 32) -> None:
        import torch

        from rlaif.training import models
        from rlaif.training.examples import Encoder

        device = "cuda" if torch.cuda.is_available() else "cpu"
        model: Any = models.load_reward_model(folder).eval()
        self._head = model.get_parameter(models.HEAD).detach().to(device)  # (1, D)
        dtype = torch.bfloat16 if models.on_gpu_with_bf16() else torch.float32
        self._backbone = model.base_model.to(device, dtype)
        asked = folder / PROMPTS
        templates = asked if asked.is_dir() else None
        self._encode = Encoder(folder, models.context_length(model), templates)
        self._pad = self._encode.padding
        self._batch = batch

    def scores(self, rows: Iterable[tuple[Sequence[Message], str]]) -> Iterator[float | None]:
        """The reward of each answer to its prompt, in order; None where it can't be read: both are
        longer than the model's context, or its chat template refuses them."""
        rows = iter(rows)
        while window := list(islice(rows, self._batch * _WINDOW)):
            ids = [self._ids(prompt, answer) for prompt, answer in window]
            found = self.of_ids(i for i in ids if i is not None)
            yield from (None if i is None else next(found) for i in ids)

    def of_ids(self, sequences: Iterable[Ids]) -> Iterator[float]:
        """The reward of each token sequence, prompt and answer to its last token, in order."""
        sequences = iter(sequences)
        while window := list(islice(sequences, self._batch * _WINDOW)):
            order = sorted(range(len(window)), key=lambda i: len(window[i]))
            found = [0.0] * len(window)
            for start in range(0, len(order), self._batch):
                chosen = order[start : start + self._batch]
                for i, reward in zip(
                    chosen, self._rewards([window[i] for i in chosen]), strict=True
                ):
                    found[i] = reward
            yield from found

    def _ids(self, prompt: Sequence[Message], answer: str) -> Ids | None:
        from rlaif.training.examples import LeftOut

        try:
            asked, answered = self._encode(prompt, answer)
        except LeftOut:
            return None
        return asked + answered

    def _rewards(self, batch: list[Ids]) -> list[float]:
        import torch

        longest, device = max(map(len, batch)), self._head.device
        ids = torch.tensor([s + [self._pad] * (longest - len(s)) for s in batch])  # (B, T)
        mask = torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in batch])
        inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
        last = torch.tensor([len(s) - 1 for s in batch], device=device)
        with torch.inference_mode():
            hidden = self._backbone(**inputs, use_cache=False).last_hidden_state  # (B, T, D)
            states = hidden[torch.arange(len(batch), device=device), last]  # (B, D)
            return torch.nn.functional.linear(states.float(), self._head).squeeze(-1).tolist()


def scores(
    model: Path, rows: Iterable[tuple[Sequence[Message], str]], *, batch: int = 32
) -> Iterator[float | None]:
    """`RewardModel.scores` of the model in a folder, which is loaded into this process."""
    return RewardModel(model, batch=batch).scores(rows)
