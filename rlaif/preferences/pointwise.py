"""Pointwise labels: the judge reads each answer alone and says whether it violates the principle.

The label is sigmoid((logit p_b - logit p_a) / scale), p the probability of Yes, normalised over Yes
and No and kept from 0 and 1 by `floor`. An answer is judged once, however many pairs it is in:
n calls for n candidates, where pairwise labels take n (n - 1). With `weigh_critique` the judge
writes a critique first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rlaif.calibration import logit, sigmoid
from rlaif.config.run import PreferencesConfig
from rlaif.constitution import Constitution, Law, PreferExample, Principle, Wording, phrase
from rlaif.preferences.aggregating import aggregated
from rlaif.preferences.judging import Group, Question, Reading
from rlaif.preferences.shots import Shots
from rlaif.records import LABEL, YES_NO, Call, Message, Pair, Prompt, Verdict
from rlaif.templates import Templates


def soft(a: float, b: float, config: PreferencesConfig) -> float:
    """The label of a pair whose answers violate the principle with these logits."""
    most = logit(1 - config.floor) if config.floor else math.inf
    a, b = (min(max(x, -most), most) for x in (a, b))
    low, high = config.clamp or (0.0, 1.0)
    return min(max(sigmoid((b - a) / config.scale), low), high)


class Pointwise:
    """One question for each different answer and principle."""

    reads: tuple[Wording, ...] = ("prefer", "critique")
    """The wordings that a principle has to have."""

    def __init__(
        self, config: PreferencesConfig, constitution: Constitution, templates: Templates, seed: int
    ) -> None:
        self._config, self._constitution, self._templates = config, constitution, templates
        self._law = Law(constitution, self.reads, k=config.principles, seed=seed)
        self._seed = seed
        self.writes_first = config.weigh_critique
        self._shots = Shots(config, constitution, seed, self._worked)

    def groups(self, prompt: Prompt, pairs: Sequence[Pair]) -> Iterator[Group]:
        """All pairs of the prompt at once, for they share answers.

        A principle must be for the judge (it has a `prefer` wording), and say how to look for a
        fault (`critique`).
        """
        principles, everything = self._law.met(prompt)
        yield Group(prompt, tuple(pairs), principles, everything)

    def questions(self, group: Group) -> list[Question]:
        """By answer, then by principle."""
        prompt, seed = group.prompt, self._seed
        worded = [
            (p.id, phrase(p, "critique", seed=seed, item=prompt.id, round="prefer"))
            for p in group.principles
        ]
        answers = dict.fromkeys(text for pair in group.pairs for text in (pair.a, pair.b))
        return [Question(prompt, *principle, (text,)) for text in answers for principle in worded]

    def write(self, question: Question) -> Call:
        """The call for the critique."""
        sampling = self._config.reason.sampling(seed=self._seed)
        return Call(self._templates.render("critique", **self._shown(question)), sampling)

    def ask(self, question: Question, rationale: str = "") -> Call:
        """The call for the label."""
        messages = self._templates.render(
            "violates",
            examples=self._shots.of(question.prompt.id),
            critique=rationale,
            **self._shown(question),
        )
        return Call(messages, LABEL, labels=YES_NO)

    def judged(self, group: Group, readings: Iterable[Reading]) -> Iterator[Pair]:
        """The pairs with one verdict for each principle."""
        read = {
            (question.shown[0], question.principle): reading
            for question, reading in zip(self.questions(group), readings, strict=True)
        }
        for pair in group.pairs:
            verdicts = tuple(
                self._verdict(p, read[pair.a, p.id], read[pair.b, p.id]) for p in group.principles
            )
            yield aggregated(pair, verdicts, group)

    def _verdict(self, principle: Principle, a: Reading, b: Reading) -> Verdict:
        calls = (*a.calls, *b.calls)
        if a.logit is None or b.logit is None:
            why = a.unlabelled or b.unlabelled
            return Verdict(principle.id, None, unlabelled=why, calls=calls)
        target = soft(a.logit, b.logit, self._config)
        return Verdict(principle.id, target, (sigmoid(a.logit), sigmoid(b.logit)), calls=calls)

    def _shown(self, question: Question) -> dict[str, Any]:
        (response,) = question.shown
        conversation, principle = question.prompt.messages, question.wording
        return {"conversation": conversation, "response": response, "principle": principle}

    def _worked(self, example: PreferExample, flip: bool, name: str) -> tuple[Message, ...] | None:
        """One answer of a worked preference: the worse has the fault, with `flip` the better."""
        principle = self._constitution[example.principle]
        if not principle.critique:
            return None
        return self._templates.dialogue(
            "violates",
            answer=YES_NO[flip],
            conversation=example.conversation,
            response=example.better if flip else example.worse,
            principle=phrase(principle, "critique", seed=self._seed, item=name, round="shot"),
            critique="",
        )
