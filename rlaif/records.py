"""The nouns that pass between parts: messages, calls and what comes back.

A `Call` holds everything that can change an answer, and nothing else (design: completions are
content-addressed). What comes back is an `Answer`, or `Unanswered` with a reason: a failure never
turns into text, a zero or a tie.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

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


LABEL = Sampling(temperature=0.0, max_tokens=1)
"""How a label is read: its next token, whatever its probability."""
A_B = ("A", "B")
YES_NO = (" Yes", " No")
NO_PRINCIPLE = "no_principle"
"""Why there is no label where no principle is for the judge and applies."""


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
    UNAVAILABLE = "unavailable"  # 403; 429, 5xx, resets or timeouts to the last retry
    MALFORMED = "malformed"  # the response is not what the protocol promises
    NOT_A_NUMBER = "not_a_number"  # a label's log-probability is missing, NaN or positive
    CANCELLED = "cancelled"  # the deadline passed or the run was stopped
    PLANNED = "planned"  # nobody was asked: `rlaif plan` only counts


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A call that has no answer, and why; `detail` names URL, status and remedy."""

    reason: Reason
    detail: str


Outcome = Answer | Unanswered


def read(outcome: Outcome) -> tuple[str, str]:
    """The text of an outcome, and why it cannot be used: a `Reason`, length or empty; else ""."""
    if not isinstance(outcome, Answer):
        return "", outcome.reason.value
    if outcome.finish == "length":
        return outcome.text, "length"
    return outcome.text, "" if outcome.text.strip() else "empty"


def log_odds(outcome: Outcome) -> tuple[float | None, str]:
    """ln P(first label) - ln P(second) of a call with two, and why it cannot be had: a `Reason`."""
    if not isinstance(outcome, Answer):
        return None, outcome.reason.value
    if len(outcome.logprobs) != 2 or not all(-math.inf < p <= 0 for p in outcome.logprobs):
        return None, Reason.NOT_A_NUMBER.value
    first, second = outcome.logprobs
    return first - second, ""


# --- what stages leave for one another: rows of JSON lines ----------------------------------------


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is asked. `id` is a hash of the messages unless the data brought its own."""

    id: str
    messages: tuple[Message, ...]
    tags: tuple[str, ...] = ()

    @property
    def opening(self) -> str:
        """The first user turn, whatever its case and spacing; prompts that share it are so alike
        that every split keeps them together."""
        return opening(self.messages)


def opening(messages: tuple[Message, ...]) -> str:
    """`Prompt.opening` of the messages of a prompt."""
    first = next(message.content for message in messages if message.role == "user")
    return " ".join(first.casefold().split())


@dataclass(frozen=True, slots=True)
class Step:
    """One round of critique and revision.

    `revision` is the answer after the round. Where the critique found no fault, `skipped` is true
    and the answer stays. Where a call failed, `unanswered` says why, and the answer stays too.
    `calls` are the keys (hex) of the calls in the completions store, critique first.
    """

    round: int
    principle: str
    revision: str
    critique: str = ""
    skipped: bool = False
    unanswered: str = ""
    calls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chain:
    """A prompt, the first answer to it, and every step from there (critique/chains.jsonl).

    Without a draft, `unanswered` says why there is none.
    """

    prompt: Prompt
    draft: str
    steps: tuple[Step, ...] = ()
    unanswered: str = ""
    call: str = ""

    @property
    def final(self) -> str:
        """The answer after the last round."""
        return self.steps[-1].revision if self.steps else self.draft


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge said of a pair under one principle.

    `target` is P(a is preferred), or None with a reason in `unlabelled`. Pairwise, `orders` holds
    P(a is preferred) with a shown first, then with b shown first; pointwise, P(violates) of a and
    of b. `calls` are the keys (hex) of the calls in the completions store.
    """

    principle: str
    target: float | None
    orders: tuple[float, ...] = ()
    unlabelled: str = ""
    calls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers and the soft label of the pair (preferences/pairs.jsonl).

    `target` is P(a is preferred), the mean over the verdicts; None, with the reason in
    `unlabelled`, where no verdict could be had. `spread` is their standard deviation.
    """

    id: str
    prompt: Prompt
    a: str
    b: str
    target: float | None
    spread: float | None = None
    verdicts: tuple[Verdict, ...] = ()
    unlabelled: str = ""
    calls: tuple[str, ...] = ()

    def swap(self) -> Pair:
        """The same pair seen from the other side."""
        target = None if self.target is None else 1.0 - self.target
        calls = self.calls[::-1]
        return replace(self, a=self.b, b=self.a, target=target, verdicts=(), calls=calls)


@dataclass(frozen=True, slots=True)
class Sampled:
    """One answer of one model to a held-out prompt (evaluation/samples.jsonl).

    `cut`: it ends where max_tokens did, and is judged as it stands. `violates` holds the judge's
    P(violates) by principle, `unread` says of how many more it could not be read; `truth` has the
    oracle's findings where there is an oracle.
    """

    model: str
    prompt: Prompt
    text: str
    sample: int = 0
    tokens: int = 0
    violates: dict[str, float] = field(default_factory=dict)
    truth: dict[str, Any] = field(default_factory=dict)
    unanswered: str = ""
    call: str = ""
    cut: bool = False
    unread: int = 0


@dataclass(frozen=True, slots=True)
class Win:
    """A model's answer against the start model's to the same prompt (evaluation/wins.jsonl).

    `win` is P(the model's is preferred), the mean of `orders`: with the model's answer first, then
    second. Two equal answers tie at 0.5 and are not put to the judge. None has a reason in
    `unanswered`. `longer` is the model's length less the start model's, in words.
    """

    model: str
    prompt: str
    principle: str
    win: float | None
    sample: int = 0
    longer: int = 0
    orders: tuple[float, ...] = ()
    unanswered: str = ""
    calls: tuple[str, ...] = ()
