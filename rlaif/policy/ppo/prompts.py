"""The prompts of a training as they are served, in an order that a step alone says."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from rlaif.config.policy import OnPolicyConfig, PpoConfig
from rlaif.policy.examples import questions
from rlaif.policy.ppo.batches import Ids
from rlaif.records import Prompt
from rlaif.training.examples import Encoder, Example, LeftOut, stored

Asked = tuple[Prompt, Ids]


class Prompts:
    """Training prompts, passed over again and again, each time in another order."""

    def __init__(self, dataset: Any, seed: int) -> None:
        self._dataset, self._seed = dataset, seed
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def __len__(self) -> int:
        return len(self._dataset)

    def batch(self, number: int, size: int) -> list[Asked]:
        """The prompts of a batch, the first one has number 0; any batch, at any time."""
        places = range(number * size, (number + 1) * size)
        passes = [divmod(place, len(self)) for place in places]
        return [_asked(self._dataset[self._order(turn)[place]]) for turn, place in passes]

    def _shuffled(self, turn: int) -> list[int]:
        order = list(range(len(self)))
        random.Random(f"{self._seed}/prompts/{turn}").shuffle(order)
        return order


def training_prompts(
    into: Path, prompts: Path, encode: Encoder, config: PpoConfig, seed: int
) -> tuple[Prompts, dict[str, int]]:
    """Those of the prompts stage, kept on the disk; and what was left out, by reason.

    Raises:
        DataError: there are none.
    """
    room = config.max_tokens

    def found() -> Iterator[Example | LeftOut]:
        return questions(prompts, encode, answer=room, limit=config.limit)

    dataset, left_out = stored(into, "prompts", found)
    return Prompts(dataset, seed), left_out


def heldout_prompts(prompts: Path, encode: Encoder, config: OnPolicyConfig) -> list[Asked]:
    """The first held-out prompts, as many as a probe asks; fewer, or none, if there are no more."""
    found = questions(prompts, encode, answer=config.max_tokens, limit=None, split="heldout")
    kept = (_asked(row) for row in found if not isinstance(row, LeftOut))
    return list(islice(kept, config.probe_prompts))


def answer_ends(model: Any, encode: Encoder) -> frozenset[int]:
    """The tokens that end an answer."""
    named = model.generation_config.eos_token_id
    ends = named if isinstance(named, list) else [named]
    return frozenset(end for end in [*ends, encode.tokenizer.eos_token_id] if end is not None)


def decoder(encode: Encoder, ends: frozenset[int]) -> Callable[[Ids], str]:
    """From an answer's tokens to its text, as a server gives it."""

    def decode(tokens: Ids) -> str:
        kept = tokens[:-1] if tokens[-1] in ends else tokens
        return encode.tokenizer.decode(kept, skip_special_tokens=True)

    return decode


def _asked(row: Mapping[str, Any]) -> Asked:
    return msgspec.json.decode(row["record"], type=Prompt), row["prompt_ids"]
