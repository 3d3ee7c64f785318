"""Which pairs a policy is trained on, and which prompts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rlaif.jsonl import rows
from rlaif.records import Prompt
from rlaif.training.examples import Encoder, LeftOut
from rlaif.training.pairs import clear, encoded


def labelled(
    pairs: Path, encode: Encoder, min_margin: float, *, ties: bool
) -> Iterator[dict[str, Any] | LeftOut]:
    """The encoded pairs whose label is at least `min_margin` away from 0.5.

    Hard labels have no place for a tie: without `ties` a label of 0.5 is left out.
    """
    for row in encoded(pairs, encode):
        if isinstance(row, LeftOut):
            yield row
        elif not clear(row["target"], min_margin):
            yield LeftOut("below_min_margin")
        elif row["target"] == 0.5 and not ties:
            yield LeftOut("tie")
        else:
            yield row


def questions(
    prompts: Path, encode: Encoder, *, answer: int, limit: int | None, split: str = "train"
) -> Iterator[dict[str, Any] | LeftOut]:
    """The prompts of the prompts stage, as they are asked in training; or the `heldout` ones.

    `record` is the `Prompt` as JSON, `prompt` its turns, `prompt_ids` their tokens up to where the
    model begins to answer. Left out: what has no room for `answer` tokens within the encoder's
    `max_length`, and what the encoder cannot read.
    """
    import msgspec

    for row in islice(rows(prompts / f"{split}.jsonl", Prompt), limit):
        try:
            turns, ids = encode.asked(row.messages)
        except LeftOut as why:
            yield why
            continue
        if len(ids) + answer > encode.max_length:
            yield LeftOut("too_long")
        else:
            record = msgspec.json.encode(row).decode()
            yield {"record": record, "prompt": turns, "prompt_ids": ids}
