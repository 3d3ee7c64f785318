"""What the judge is asked about pairs, and how its answers are read: two passes at most.

A `Method` turns pairs into questions, and the readings of their labels into verdicts. With
reasoning (or a critique to weigh) each question is asked twice: `rationales` has the judge write,
`labelled` reads the label behind what it wrote. Verdicts are never parsed out of a text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from rlaif.completions import key
from rlaif.constitution import Principle
from rlaif.engine import Model
from rlaif.records import Answer, Call, Outcome, Pair, Prompt, log_odds, read


@dataclass(slots=True)
class Group:
    """Pairs of one prompt that are judged together, and the principles that the prompt meets.

    `all_asked`: no principle that applies was left out.
    """

    prompt: Prompt
    pairs: tuple[Pair, ...]
    principles: tuple[Principle, ...]
    all_asked: bool


@dataclass(slots=True)
class Question:
    """One label to be read: two answers in the order shown, or one alone, under a principle."""

    prompt: Prompt
    principle: str
    wording: str
    shown: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rationale:
    """What the judge wrote before one label (preferences/rationales.jsonl), question by question.

    One that cannot be used says in `unanswered` why, as an answer does.
    """

    prompt: str
    principle: str
    text: str = ""
    unanswered: str = ""
    call: str = ""


@dataclass(slots=True)
class Reading:
    """A label as it was read: ln P(first label) - ln P(second), or None, and why.

    `mass` is how much of the probability fell on the two labels together.
    """

    logit: float | None
    mass: float = 0.0
    unlabelled: str = ""
    calls: tuple[str, ...] = ()


class Method(Protocol):
    """How pairs are put to the judge."""

    writes_first: bool
    """Whether the judge writes a rationale before the label."""

    def groups(self, prompt: Prompt, pairs: Sequence[Pair]) -> Iterator[Group]:
        """The pairs of one prompt, in the portions in which they are judged."""
        ...

    def questions(self, group: Group) -> list[Question]:
        """Every label that the group needs, each once."""
        ...

    def write(self, question: Question) -> Call:
        """The call for a rationale."""
        ...

    def ask(self, question: Question, rationale: str = "") -> Call:
        """The call for the label."""
        ...

    def judged(self, group: Group, readings: Iterable[Reading]) -> Iterator[Pair]:
        """The pairs with their verdicts, from the readings of `questions`, in order."""
        ...


def rationales(
    method: Method, judge: Model, groups: Iterable[Group], total: int | None = None
) -> Iterator[Rationale]:
    """What the judge writes before each label, in the order of the groups' questions."""

    def unit(group: Group) -> tuple[list[tuple[Question, Call]], list[Call]]:
        asked = [(question, method.write(question)) for question in method.questions(group)]
        return asked, [call for _, call in asked]

    for asked, outcomes in judge.each(map(unit, groups), "rationales", total):
        for (question, call), outcome in zip(asked, outcomes, strict=True):
            yield _rationale(question, key(judge.identity, call).hex(), outcome)


def labelled(
    method: Method,
    judge: Model,
    groups: Iterable[Group],
    written: Iterator[Rationale] | None = None,
    *,
    watch: Callable[[Reading], object] = lambda reading: None,
    total: int | None = None,
) -> Iterator[Pair]:
    """The groups' pairs with their labels; `written` are the rationales, if there are any.

    `watch` is told of each reading, `total` is for the progress bar.
    """
    identity = judge.identity

    def unit(group: Group) -> tuple[tuple[Group, list[_Asked]], list[Call]]:
        asked = [
            _asked(method, question, next(written) if written else None, identity)
            for question in method.questions(group)
        ]
        return (group, asked), [a.call for a in asked if a.call]

    for (group, asked), outcomes in judge.each(map(unit, groups), "labels", total):
        rest = iter(outcomes)
        readings = [_reading(a, next(rest) if a.call else None) for a in asked]
        for reading in readings:
            watch(reading)
        yield from method.judged(group, readings)


@dataclass(slots=True)
class _Asked:
    """A question on its way; without a call, `unlabelled` says why it cannot be put."""

    call: Call | None
    keys: tuple[str, ...]
    unlabelled: str = ""


def _asked(method: Method, question: Question, rationale: Rationale | None, judge: str) -> _Asked:
    if rationale is None:
        call = method.ask(question)
        return _Asked(call, (key(judge, call).hex(),))
    if rationale.unanswered:
        return _Asked(None, (rationale.call,), rationale.unanswered)
    call = method.ask(question, rationale.text)
    return _Asked(call, (rationale.call, key(judge, call).hex()))


def _rationale(question: Question, hex: str, outcome: Outcome) -> Rationale:
    text, unanswered = read(outcome)
    return Rationale(question.prompt.id, question.principle, text.strip(), unanswered, hex)


def _reading(asked: _Asked, outcome: Outcome | None) -> Reading:
    """The label in an answer; anything but two proper log-probabilities has a reason instead."""
    if outcome is None:
        return Reading(None, unlabelled=asked.unlabelled, calls=asked.keys)
    logit, why = log_odds(outcome)
    if logit is None or not isinstance(outcome, Answer):
        return Reading(None, unlabelled=why, calls=asked.keys)
    return Reading(logit, sum(map(math.exp, outcome.logprobs)), calls=asked.keys)
