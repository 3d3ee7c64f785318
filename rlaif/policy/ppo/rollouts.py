"""Answers drawn from the policy as it is now, by vLLM or by transformers.

Every answer has a seed of its own, made of (run's seed, batch, prompt, sample), so that a training
that goes on draws what it would have drawn. The engine's log-probabilities are those of the
distribution it drew from, after the temperature.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol

import torch
from accelerate import DistributedType
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from rlaif.config.policy import OnPolicyConfig, PpoConfig
from rlaif.engine.launch import check_installed
from rlaif.errors import ConfigError, EngineError
from rlaif.policy.ppo.batches import Ids
from rlaif.policy.ppo.policy import Policy

_AT_ONCE = 64  # answers that transformers draws together


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt's tokens, and the seed of its answer."""

    asked: Ids
    seed: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """An answer's tokens, to the one that ends the turn if there is one, and ln P of each."""

    tokens: Ids
    logprobs: list[float]


class Engine(Protocol):
    """Draws answers."""

    def draw(self, requests: Sequence[Request]) -> list[Drawn]:
        """An answer to each request, in order, of at least one token; every process has equally
        many."""
        ...

    def update(self) -> None:
        """Take over the policy's weights."""
        ...


def seed_of(seed: int, *parts: object) -> int:
    """A number below 2^63 for each combination of parts, the same at any time."""
    told = "/".join(map(str, (seed, *parts)))
    return int.from_bytes(blake2b(told.encode(), digest_size=8).digest(), "big") >> 1


def engine(policy: Policy, config: PpoConfig, ends: frozenset[int], pad: int) -> Engine:
    """The engine that the config names.

    Raises:
        ConfigError: vLLM is named, but is missing or cannot take these weights; or transformers
            cannot.
    """
    if _by_vllm(config):
        from rlaif.policy.ppo.served import Served

        return Served(policy, config, ends)
    if config.lora and policy.learner.accelerator.distributed_type == DistributedType.FSDP:
        what, remedy = "transformers draws nothing from adapters that FSDP shards", "take vllm"
        raise ConfigError(what, where="policy.rollouts", remedy=f"{remedy}, or full finetuning")
    return Generated(policy.learner, config, ends, pad)


def _by_vllm(config: PpoConfig) -> bool:
    if config.rollouts == "transformers":
        return False
    try:
        check_installed()
    except EngineError as error:
        if config.rollouts == "auto":
            return False
        raise ConfigError(error.what, where="policy.rollouts", remedy=error.remedy) from error
    return True


class Trained(Protocol):
    """A model in training: as its trainer wraps it, and `bare`."""

    @property
    def model(self) -> Any: ...
    @property
    def bare(self) -> Any: ...
    @property
    def accelerator(self) -> Any: ...


class Generated:
    """Answers by transformers' `generate`: left padding, a seed for each row."""

    def __init__(
        self, learner: Trained, config: OnPolicyConfig, ends: frozenset[int], pad: int
    ) -> None:
        self._learner, self._ends, self._pad = learner, ends, pad
        self._temperature, self._longest = config.temperature, config.max_tokens
        self._options = GenerationConfig(
            do_sample=False, max_new_tokens=config.max_tokens, eos_token_id=sorted(ends),
            pad_token_id=pad,
        )  # fmt: skip

    def update(self) -> None:
        """Nothing: the weights are the policy's own."""

    def draw(self, requests: Sequence[Request]) -> list[Drawn]:
        """An answer to each request."""
        order = sorted(range(len(requests)), key=lambda i: (len(requests[i].asked), i))
        found: dict[int, Drawn] = {}
        for start in range(0, len(order), _AT_ONCE):
            chosen = order[start : start + _AT_ONCE]
            found |= zip(chosen, self._draw([requests[i] for i in chosen]), strict=True)
        return [found[i] for i in range(len(requests))]

    def _draw(self, requests: Sequence[Request]) -> list[Drawn]:
        device, longest = self._learner.accelerator.device, max(len(r.asked) for r in requests)
        rows = [[self._pad] * (longest - len(r.asked)) + r.asked for r in requests]
        ids = torch.tensor(rows, device=device)
        seen = torch.tensor([[0] * (longest - len(r.asked)) + [1] * len(r.asked) for r in requests])
        keyed = Keyed([r.seed for r in requests], self._longest, self._temperature, device)
        with self._whole() as model, torch.no_grad():
            out = model.generate(
                input_ids=ids,
                attention_mask=seen.to(device),
                generation_config=self._options,
                logits_processor=LogitsProcessorList([keyed]),
                synced_gpus=_sharded(self._learner.accelerator),
            )
        logprobs = torch.stack(keyed.logprobs, 1).tolist()
        answers = out[:, longest:].tolist()
        return [self._ended(*both) for both in zip(answers, logprobs, strict=True)]

    @contextmanager
    def _whole(self) -> Iterator[Any]:
        """The model in one piece, without gradient checkpointing, which has no cache."""
        learner, several = self._learner, nullcontext(self._learner.bare)
        if learner.accelerator.num_processes > 1:
            from trl.models.utils import unwrap_model_for_generation

            several = unwrap_model_for_generation(learner.model, learner.accelerator)
        with several as model, learner.accelerator.autocast():
            training = model.training
            model.eval()
            yield model
            model.train(training)

    def _ended(self, tokens: Ids, logprobs: list[float]) -> Drawn:
        end = next((i for i, token in enumerate(tokens) if token in self._ends), len(tokens) - 1)
        return Drawn(tokens[: end + 1], logprobs[: end + 1])


def _sharded(accelerator: Any) -> bool:
    """Whether a pass needs all processes, so that none may stop at its own last answer."""
    return accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)


class Keyed(LogitsProcessor):
    """Draws each row's token by its own random numbers, and leaves it alone to be chosen.

    A token is where the cumulated distribution passes the row's next uniform number: which rows are
    drawn together does not matter. `logprobs` gets ln P of the drawn tokens, (B) a step.
    """

    def __init__(self, seeds: Sequence[int], longest: int, temperature: float, device: Any) -> None:
        rows = [
            torch.rand(longest, generator=torch.Generator().manual_seed(s), dtype=torch.float64)
            for s in seeds
        ]
        self._uniform = torch.stack(rows).to(device)  # (B, longest)
        self._temperature = temperature
        self.logprobs: list[Tensor] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores (B, V) that leave one token to choose. (B, V)"""
        known = (scores.float() / self._temperature).log_softmax(-1)  # (B, V)
        cumulated = known.double().exp().cumsum(-1)
        point = self._uniform[:, len(self.logprobs), None] * cumulated[:, -1:]
        drawn = torch.searchsorted(cumulated, point, right=True).clamp(max=scores.shape[1] - 1)
        self.logprobs.append(known.gather(1, drawn).squeeze(1))
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn, 0.0)
