"""Pairs with soft labels as examples for a trainer: the likelier answer first."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rlaif.jsonl import rows
from rlaif.records import Pair
from rlaif.training.examples import Encoder, LeftOut

PAIRS = "pairs.jsonl"


def encoded(
    path: Path, encode: Encoder, use: Callable[[Pair], bool] = lambda pair: True
) -> Iterator[dict[str, Any] | LeftOut]:
    """The pairs of the preferences stage as token ids, those that `use` takes.

    `chosen_ids` and `rejected_ids` follow `prompt_ids`; `target`, at least 0.5, is the probability
    that the first is preferred; `turned` says that it is the pair's b; `id` is the pair's, and
    `opening` its prompt's.
    """
    for pair in rows(path / PAIRS, Pair):
        if use(pair):
            try:
                yield _example(pair, encode)
            except LeftOut as why:
                yield why


def share(opening: str, purpose: str, seed: int) -> float:
    """A number in [0, 1) for each `Prompt.opening`, the same wherever it is asked for."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{opening}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / (1 << 56)


def clear(label: float, margin: float) -> bool:
    """Whether a label is at least so far from 0.5."""
    return abs(label - 0.5) >= margin - 1e-9  # 0.6 - 0.5 is less than 0.1


def _example(pair: Pair, encode: Encoder) -> dict[str, Any]:
    if pair.target is None:
        raise LeftOut("unlabelled")
    turned = pair.target < 0.5
    first, second = (pair.b, pair.a) if turned else (pair.a, pair.b)
    prompt, chosen = encode(pair.prompt.messages, first)
    other, rejected = encode(pair.prompt.messages, second)
    if prompt != other:
        raise LeftOut("refused_by_chat_template")
    return {
        "id": pair.id,
        "opening": pair.prompt.opening,
        "prompt_ids": prompt,
        "chosen_ids": chosen,
        "rejected_ids": rejected,
        "target": 1 - pair.target if turned else pair.target,
        "turned": turned,
    }
