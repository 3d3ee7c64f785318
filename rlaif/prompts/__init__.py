"""Prompts: what the model is asked, from files, hub datasets and HH-RLHF dialogues, split in two.

    rlaif data check CONFIG

Writes `train.jsonl` and `heldout.jsonl`, rows of `records.Prompt`, and `rejected.jsonl`, where each
row that gave none is named with the reason. Nothing is shortened. Departs from Bai et al. in that
prompts with the same first user turn, cut from one conversation at several places or worded apart
in case and spacing only, all go to the same side of the split.
"""

from __future__ import annotations

import hashlib
import json
import logging
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaif.config.run import PromptsConfig
from rlaif.errors import DataError
from rlaif.jsonl import writing
from rlaif.prompts import sources
from rlaif.prompts.census import Census, Read
from rlaif.prompts.reading import Item, Unfit, Why, item
from rlaif.records import Message, Prompt, opening

log = logging.getLogger(__name__)

__all__ = ["Census", "Kept", "Rejected", "prompts", "screened"]


@dataclass(frozen=True, slots=True)
class Kept:
    """A prompt, and the split that it goes to."""

    prompt: Prompt
    split: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that gave no prompt (prompts/rejected.jsonl); `where` is name:row of the source."""

    where: str
    reason: Why
    detail: str


def prompts(into: Path, config: PromptsConfig, *, seed: int) -> dict[str, Any]:
    """Read the sources into train.jsonl, heldout.jsonl and rejected.jsonl; counts as metrics.

    Raises:
        DataError: a source cannot be read or gives no prompt, all prompts are held out, or an id
            stands for two different prompts of a source.
    """
    census = Census([Read(sources.name(source)) for source in config.sources])
    with (
        writing(into / "train.jsonl") as train,
        writing(into / "heldout.jsonl") as heldout,
        writing(into / "rejected.jsonl") as rejected,
    ):
        for found in screened(config, census, seed=seed):
            if isinstance(found, Rejected):
                rejected(found)
            else:
                (train if found.split == "train" else heldout)(found.prompt)
    return census.json()


def screened(config: PromptsConfig, census: Census, *, seed: int) -> Iterator[Kept | Rejected]:
    """Every row of every source, in order, as a prompt or with the reason why not, counted.

    Raises:
        DataError: as in `prompts`.
    """
    known = _Known()
    for number, source in enumerate(config.sources):
        read, name, first = census.sources[number], census.sources[number].name, ""
        known.begin(name)
        for row, values in sources.numbered(source):
            if read.prompts == source.limit:
                break
            try:
                kept = _kept(item(source, values, config.max_chars), row, known, config, seed)
            except Unfit as unfit:
                census.reject(number, unfit.why)
                first = first or f"{name}:{row}: {unfit.why}: {unfit.detail}"
                yield Rejected(f"{name}:{row}", unfit.why, unfit.detail)
            else:
                census.keep(number, kept.split, kept.prompt)
                yield kept
        if not read.prompts:
            what = f"none of {read.rows:,} rows gives a prompt; {first}" if first else "it is empty"
            remedy = "set the source's `column` and `format`, or correct the data"
            raise DataError(what, where=str(source.path or source.hub), remedy=remedy)
    if not census.total.train:
        remedy = "lower prompts.heldout, add prompts, or let some rows say `split: train`"
        raise DataError("all prompts are held out; none is left to train on", remedy=remedy)
    if config.heldout and not census.total.heldout:
        remedy = "raise prompts.heldout, add prompts, or let some rows say `split: test`"
        log.warning("no prompt is held out, and so nothing will be measured: %s", remedy)


def _kept(read: Item, row: int, known: _Known, config: PromptsConfig, seed: int) -> Kept:
    digest = hashlib.sha256(_canonical(read.messages))
    id = known.note(read.id, digest.digest()[:16], row)
    split = read.split or ("heldout" if _lot(read.messages, seed) < config.heldout else "train")
    return Kept(Prompt(id or digest.hexdigest()[:16], read.messages, read.tags), split)


def _canonical(messages: tuple[Message, ...]) -> bytes:
    turns = [[message.role, message.content] for message in messages]
    return json.dumps(turns, ensure_ascii=False, separators=(",", ":")).encode()


def _lot(messages: tuple[Message, ...], seed: int) -> float:
    """A number in [0, 1) from the seed and how the prompt opens."""
    key = json.dumps(["split", seed, opening(messages)])
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) / 2**64


class _Known:
    """The prompts seen so far, some 150 bytes for each, and as much again where rows have ids."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._starts: list[int] = []  # how many prompts were known when each source began
        self._rows = array("Q")
        self._contents: dict[bytes, int] = {}
        self._ids: dict[str, int] = {}

    def begin(self, name: str) -> None:
        """Say which source the next rows are from."""
        self._names.append(name)
        self._starts.append(len(self._rows))

    def note(self, id: str, content: bytes, row: int) -> str:
        """Remember a prompt; its id, which gets the source's number before it (2:17) where a prompt
        of an earlier source has the same.

        Raises:
            Unfit: an earlier row has the same content.
            DataError: an earlier row of this source has the same id, and another content.
        """
        if (seen := self._contents.get(content)) is not None:
            raise Unfit(Why.DUPLICATE, f"the same messages as {self._place(seen)}")
        if self._ids.get(id, self._starts[-1]) < self._starts[-1]:
            id = f"{len(self._starts)}:{id}"
        if id and (seen := self._ids.get(id)) is not None:
            raise DataError(
                f"the id {id[:80]!r} is that of another prompt, at {self._place(seen)}",
                where=f"{self._names[-1]}:{row}",
                remedy="give each prompt an id of its own, or set the source's `id_column: null`",
            )
        self._contents[content] = len(self._rows)
        if id:
            self._ids[id] = len(self._rows)
        self._rows.append(row)
        return id

    def _place(self, number: int) -> str:
        return f"{self._names[bisect_right(self._starts, number) - 1]}:{self._rows[number]}"
