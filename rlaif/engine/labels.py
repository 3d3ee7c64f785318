"""Which token is a label: resolved once per tokenizer, through the server's own template.

The prompt is laid out with and without the label behind it. The label is readable only if that
appends exactly one token and leaves all others as they were; anything else is a ConfigError, since
the number that would be read is not the probability of the label.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import msgspec

from rlaif.engine import wire
from rlaif.engine.counts import Counts
from rlaif.engine.link import Link
from rlaif.errors import ConfigError, NotOffered
from rlaif.records import Call, Message, Reason, Unanswered

_TAIL = 16  # characters before a label that can change its tokens; all of "The answer is: ("
_REMEDY = (
    "choose labels that the tokenizer writes as one token at this place, and end the prefill "
    "where a token ends, e.g. 'Answer: (' with the labels 'A' and 'B'"
)


class _Tokens(msgspec.Struct):
    tokens: list[int]


_decoder = msgspec.json.Decoder(_Tokens)


class Labels:
    """The tokens of labels, by what precedes them."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._known: dict[tuple[str, tuple[str, ...]], tuple[int, ...]] = {}

    async def resolve(self, link: Link, call: Call, counts: Counts) -> tuple[int, ...] | Unanswered:
        """The token of each of the call's labels, in order."""
        key = (_tail(call), call.labels)
        async with link.one_at_a_time if key not in self._known else nullcontext():
            if key not in self._known:
                ids = await self._look_up(link, call, counts)
                if isinstance(ids, Unanswered):
                    return ids
                self._known[key] = ids
        return self._known[key]

    async def _look_up(
        self, link: Link, call: Call, counts: Counts
    ) -> tuple[int, ...] | Unanswered:
        before = await self._tokenize(link, call, counts)
        if isinstance(before, Unanswered):
            return before
        ids: list[int] = []
        for label in call.labels:
            after = await self._tokenize(link, with_label(call, label), counts)
            if isinstance(after, Unanswered):
                return after
            ids.append(appended(before, after, label, _tail(call)))
        _distinct(call.labels, ids)
        return tuple(ids)

    async def _tokenize(self, link: Link, call: Call, counts: Counts) -> list[int] | Unanswered:
        body = msgspec.json.encode(wire.chat(call) | {"model": self._model})
        try:
            return await link.post("/tokenize", body, _read_tokens, counts)
        except NotOffered as error:
            raise ConfigError(
                f"the server does not tokenize, so labels cannot be read: {error}",
                remedy="use vLLM; hosted APIs offer no exact label probabilities",
            ) from error


def _read_tokens(content: bytes) -> list[int]:
    try:
        return _decoder.decode(content).tokens
    except msgspec.DecodeError as error:
        what = f"{error}: {wire.excerpt(content)}"
        raise wire.BadResponse(Reason.MALFORMED, what) from None


def with_label(call: Call, label: str) -> Call:
    """The call as it would read once the model had said `label`."""
    *rest, last = call.messages
    if last.role == "assistant":
        return replace(call, messages=(*rest, Message("assistant", last.content + label)))
    return replace(call, messages=(*call.messages, Message("assistant", label)))


def appended(before: list[int], after: list[int], label: str, tail: str) -> int:
    """The one token that the label appends, or ConfigError."""
    where = f"label {label!r} after {tail[-20:]!r}"
    if after[: len(before)] != before:
        raise ConfigError("the label changes the tokens before it", where=where, remedy=_REMEDY)
    if len(after) != len(before) + 1:
        count = len(after) - len(before)
        raise ConfigError(f"the label is {count} tokens, not one", where=where, remedy=_REMEDY)
    return after[-1]


def _tail(call: Call) -> str:
    last = call.messages[-1]
    return last.content[-_TAIL:] if last.role == "assistant" else ""


def _distinct(labels: tuple[str, ...], ids: list[int]) -> None:
    if len(set(ids)) == len(ids):
        return
    same = [label for label, i in zip(labels, ids, strict=True) if ids.count(i) > 1]
    raise ConfigError(f"the labels {', '.join(map(repr, same))} are the same token", remedy=_REMEDY)
