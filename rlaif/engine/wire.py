"""The bytes of a call and of its response: what is sent to /v1/chat/completions and how it is read.

A response becomes an `Answer` only if everything in it is there and is plausible. Everything else
is a `BadResponse` with the reason; nothing is filled in.
"""

from __future__ import annotations

import json
import math
from hashlib import blake2b
from typing import Any

import msgspec

from rlaif.records import Answer, Call, Reason

MISSING = -9999.0  # vLLM writes this where it has no log-probability


class BadResponse(Exception):
    """A response that cannot be read, with the reason under which it is counted."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(detail)


class _Token(msgspec.Struct):
    token: str
    logprob: float | None = None


class _Position(msgspec.Struct):
    top_logprobs: list[_Token] = []


class _Logprobs(msgspec.Struct):
    content: list[_Position] | None = None


class _Message(msgspec.Struct):
    content: str | None  # null: all of it was thought (vLLM's --reasoning-parser)


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str
    logprobs: _Logprobs | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage


_decoder = msgspec.json.Decoder(_Completion)
_encoder = msgspec.json.Encoder()

_AS_IT_IS = {  # what is left out, vLLM takes from the model's generation_config.json
    "top_k": -1,  # off, for vLLM and for others
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}


def derived_seed(call: Call) -> int:
    """The call's own seed: the same for the same call, whatever runs beside it."""
    return int.from_bytes(blake2b(_encoder.encode(call), digest_size=8).digest(), "big") >> 1


def chat(call: Call) -> dict[str, Any]:
    """The messages and how the template lays them out; a last assistant message is continued."""
    messages = call.messages
    if messages and messages[-1].role == "assistant" and not messages[-1].content:
        messages = messages[:-1]
    prefill = bool(messages) and messages[-1].role == "assistant"
    body: dict[str, Any] = {"messages": messages}
    if prefill:
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return body


def encode(call: Call, model: str, label_ids: tuple[int, ...] = ()) -> bytes:
    """The request body of a call; `label_ids` are the tokens of its labels."""
    body = chat(call) | {"model": model}
    if call.labels:
        body |= {
            "max_tokens": 1,
            "temperature": 0.0,
            "logprobs": True,
            "logprob_token_ids": label_ids,
            "return_tokens_as_token_ids": True,
        }
    else:
        body |= _sampling(call)
    return _encoder.encode(body)


def _sampling(call: Call) -> dict[str, Any]:
    sampling = call.sampling
    body: dict[str, Any] = _AS_IT_IS | {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
    }
    if sampling.stop:
        body["stop"] = sampling.stop
    if sampling.temperature > 0:
        body["seed"] = derived_seed(call)
    return body


def decode(body: bytes, label_ids: tuple[int, ...] = ()) -> Answer:
    """The answer in a response body, or BadResponse."""
    completion = _parse(body)
    if len(completion.choices) != 1:
        raise BadResponse(Reason.MALFORMED, f"{len(completion.choices)} choices instead of one")
    choice, usage = completion.choices[0], completion.usage
    finish = choice.finish_reason
    if finish != "stop" and finish != "length":
        raise BadResponse(Reason.MALFORMED, f"finish_reason is {finish!r}")
    if usage.prompt_tokens < 0 or usage.completion_tokens < 0:
        raise BadResponse(Reason.MALFORMED, "a negative token count")
    return Answer(
        choice.message.content or "",
        finish,
        usage.prompt_tokens,
        usage.completion_tokens,
        _label_logprobs(choice.logprobs, label_ids) if label_ids else (),
    )


def _parse(body: bytes) -> _Completion:
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        strict = str(error)
    try:  # NaN is no JSON, but Python servers write it: worth telling apart from garbage
        loads = json.loads(body)
        json.dumps(loads, ensure_ascii=False).encode()  # half of a character is no text
        return msgspec.convert(loads, _Completion)
    except (ValueError, msgspec.ValidationError, RecursionError):
        what = f"not a chat completion: {strict}: {excerpt(body)}"
        raise BadResponse(Reason.MALFORMED, what) from None


def excerpt(body: bytes) -> str:
    """The beginning of a response, for a message."""
    return body[:300].decode("utf-8", "replace").strip() or "(no body)"


def _label_logprobs(logprobs: _Logprobs | None, label_ids: tuple[int, ...]) -> tuple[float, ...]:
    positions = logprobs.content if logprobs else None
    if not positions:
        raise BadResponse(Reason.NOT_A_NUMBER, "no log-probabilities in the response")
    found = {token.token: token.logprob for token in positions[0].top_logprobs}
    return tuple(_sound(found.get(f"token_id:{i}"), i) for i in label_ids)


def _sound(logprob: float | None, token_id: int) -> float:
    if logprob is None:
        why = "the server may not know logprob_token_ids (vLLM 0.32 does)"
        raise BadResponse(Reason.NOT_A_NUMBER, f"no log-probability of token {token_id}: {why}")
    if not math.isfinite(logprob) or not MISSING < logprob <= 0:
        raise BadResponse(Reason.NOT_A_NUMBER, f"log-probability of token {token_id}: {logprob}")
    return logprob
