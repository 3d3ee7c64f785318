"""A call as bytes: the canonical encoding behind keys, and what is kept of the prompts.

Version 1 of the encoding is text, in UTF-8 (lone surrogates pass):

    1 TEMPERATURE TOP_P MAX_TOKENS SEED STOPS SAMPLE LABELS <strings>

Floats are Python's shortest repr, STOPS and LABELS count strings. Each string is `LENGTH:TEXT`,
length in code points: the model's identity, the stops, the labels, then role and content of each
message to the end. It can be decoded, so two different calls never share an encoding. A key is its
BLAKE2b hash of 32 bytes. Changing the encoding means a new version and so new keys for everything.

Prompts are kept in blocks: up to `BLOCK` encodings, each behind its length in bytes, compressed
together. Neighbours share most of their text (system, constitution, examples), so a block is much
smaller than its rows would be, and quicker to make.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from hashlib import blake2b
from typing import cast

from rlaif.records import Call, Message, Role, Sampling

VERSION = 1
BLOCK = 256  # calls; more gains nothing, zlib looks back 32 kB


def key(model: str, call: Call) -> bytes:
    """The 32 bytes that stand for `call` put to `model` (a weights digest, or name@revision)."""
    return blake2b(encode(model, call), digest_size=32).digest()


def encode(model: str, call: Call) -> bytes:
    """Everything that can change the answer, canonically (see the module's docstring)."""
    texts = (model, *call.sampling.stop, *call.labels)
    return "".join(
        [
            f"{_numbers(call.sampling)} {call.sample:d} {len(call.labels)} ",
            *[f"{len(text)}:{text}" for text in texts],
            *[f"{len(m.role)}:{m.role}{len(m.content)}:{m.content}" for m in call.messages],
        ]
    ).encode("utf-8", "surrogatepass")


def decode(data: bytes) -> tuple[str, Call]:
    """The model and the call that `encode` was given; ValueError if `data` is not version 1."""
    *head, strings = data.decode("utf-8", "surrogatepass").split(" ", 8)
    version, temperature, top_p, max_tokens, seed, stops, sample, labels = head
    if version != str(VERSION):
        raise ValueError(f"a call encoded as version {version!r}; this is version {VERSION}")
    model, *rest = _strings(strings)
    first, last = int(stops), int(stops) + int(labels)
    turns = zip(rest[last::2], rest[last + 1 :: 2], strict=True)
    stop = tuple(rest[:first])
    return model, Call(
        messages=tuple(Message(cast(Role, role), content) for role, content in turns),
        sampling=Sampling(float(temperature), float(top_p), int(max_tokens), stop, int(seed)),
        sample=int(sample),
        labels=tuple(rest[first:last]),
    )


def pack(encoded: Iterable[bytes]) -> bytes:
    """One compressed block of encoded calls."""
    return zlib.compress(b"".join([b"%d:%b" % (len(e), e) for e in encoded]), level=1)


def unpack(block: bytes) -> list[bytes]:
    """The encoded calls of a block, in order; ValueError if the block is damaged."""
    try:
        data = zlib.decompress(block)
    except zlib.error as error:
        raise ValueError(f"a damaged block of prompts: {error}") from error
    calls, at = [], 0
    while at < len(data):
        colon = data.index(b":", at)
        at = colon + 1 + int(data[at:colon])
        calls.append(data[colon + 1 : at])
    return calls


@lru_cache(maxsize=256)
def _numbers(sampling: Sampling) -> str:
    """The part that a stage's calls share. Equal samplings give equal text: 1 as 1.0, -0.0 as 0."""
    temperature, top_p = float(sampling.temperature) + 0.0, float(sampling.top_p) + 0.0
    whole = f"{sampling.max_tokens:d} {sampling.seed:d} {len(sampling.stop)}"
    return f"{VERSION} {temperature!r} {top_p!r} {whole}"


def _strings(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        colon = text.index(":", at)
        at = colon + 1 + int(text[at:colon])
        yield text[colon + 1 : at]
