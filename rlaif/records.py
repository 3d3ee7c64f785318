"""The nouns that pass between parts: messages, calls and what comes back.

A `Call` holds everything that can change an answer, and nothing else (design: completions are
content-addressed). What comes back is an `Answer`, or `Unanswered` with a reason: a failure never
turns into text, a zero or a tie.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is drawn. `seed` is the run's; each call derives its own from it."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """One question to a model.

    A last message from the assistant is a prefill: the model continues it. `labels` asks for the
    exact probabilities of these strings as the next token instead of a text. `sample` tells apart
    several answers to the same question.
    """

    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    sample: int = 0
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said. `logprobs` holds ln P(label) for each of the call's labels, in order."""

    text: str
    finish: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    logprobs: tuple[float, ...] = ()


class Reason(StrEnum):
    """Why a call has no answer."""

    TOO_LONG = "too_long"  # prompt and answer do not fit the model's context
    REFUSED = "refused"  # the server will not serve this request (4xx)
    UNAVAILABLE = "unavailable"  # 429, 5xx, resets or timeouts to the last retry
    MALFORMED = "malformed"  # the response is not what the protocol promises
    NOT_A_NUMBER = "not_a_number"  # a label's log-probability is missing, NaN or positive
    CANCELLED = "cancelled"  # the deadline passed or the run was stopped


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A call that has no answer, and why; `detail` names URL, status and remedy."""

    reason: Reason
    detail: str


Outcome = Answer | Unanswered
