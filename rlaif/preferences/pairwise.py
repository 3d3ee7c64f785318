"""Pairwise labels: the judge sees both answers, in both orders (Bai et al. 2022, section 4.1).

P(a is preferred) is the probability of the label that stands for a, normalised over the two labels,
averaged over both orders as in Lee et al. (2023). With reasoning, the judge writes about both
answers first and the label is read behind that (their chain of thought); such labels saturate,
hence `clamp`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rlaif.calibration import sigmoid
from rlaif.config.run import PreferencesConfig
from rlaif.constitution import Constitution, Law, PreferExample, Principle, Wording, phrase
from rlaif.preferences.aggregating import aggregated
from rlaif.preferences.judging import Group, Question, Reading
from rlaif.preferences.shots import Shots
from rlaif.records import A_B, LABEL, Call, Message, Pair, Prompt, Verdict
from rlaif.templates import Templates

STOP = ("The answer is",)


class Pairwise:
    """Two questions for each pair and principle: a shown first, then b shown first."""

    reads: tuple[Wording, ...] = ("prefer",)
    """The wordings that a principle has to have."""

    def __init__(
        self, config: PreferencesConfig, constitution: Constitution, templates: Templates, seed: int
    ) -> None:
        self._config, self._constitution, self._templates = config, constitution, templates
        self._law = Law(constitution, self.reads, k=config.principles, seed=seed)
        self._seed = seed
        self._template = "prefer_reasoned" if config.reasoning else "prefer"
        self.writes_first = config.reasoning
        self._shots = Shots(config, constitution, seed, self._worked)

    def groups(self, prompt: Prompt, pairs: Sequence[Pair]) -> Iterator[Group]:
        """One pair at a time."""
        principles, everything = self._law.met(prompt)
        for pair in pairs:
            yield Group(prompt, (pair,), principles, everything)

    def questions(self, group: Group) -> list[Question]:
        """By pair, then by principle, then in both orders."""
        prompt, seed = group.prompt, self._seed
        worded = [
            (p.id, phrase(p, "prefer", seed=seed, item=prompt.id, round="prefer"))
            for p in group.principles
        ]
        return [
            Question(prompt, *principle, shown)
            for pair in group.pairs
            for principle in worded
            for shown in ((pair.a, pair.b), (pair.b, pair.a))
        ]

    def write(self, question: Question) -> Call:
        """The call for the reasoning, which stops before the label."""
        sampling = self._config.reason.sampling(seed=self._seed, stop=STOP)
        return Call(self._messages(question, ""), sampling)

    def ask(self, question: Question, rationale: str = "") -> Call:
        """The call for the label."""
        return Call(self._messages(question, rationale), LABEL, labels=A_B)

    def judged(self, group: Group, readings: Iterable[Reading]) -> Iterator[Pair]:
        """The pairs with one verdict for each principle."""
        rest = iter(readings)
        for pair in group.pairs:
            verdicts = tuple(self._verdict(p, next(rest), next(rest)) for p in group.principles)
            yield aggregated(pair, verdicts, group)

    def _verdict(self, principle: Principle, first: Reading, second: Reading) -> Verdict:
        """The mean of both orders; one order alone is none."""
        calls = (*first.calls, *second.calls)
        if first.logit is None or second.logit is None:
            why = first.unlabelled or second.unlabelled
            return Verdict(principle.id, None, unlabelled=why, calls=calls)
        orders = self._clamped(sigmoid(first.logit)), self._clamped(sigmoid(-second.logit))
        return Verdict(principle.id, sum(orders) / 2, orders, calls=calls)

    def _clamped(self, p: float) -> float:
        low, high = self._config.clamp or (0.0, 1.0)
        return min(max(p, low), high)

    def _messages(self, question: Question, rationale: str) -> tuple[Message, ...]:
        a, b = question.shown
        return self._templates.render(
            self._template,
            examples=self._shots.of(question.prompt.id),
            conversation=question.prompt.messages,
            response_a=a,
            response_b=b,
            principle=question.wording,
            **self._reasoned(rationale),
        )

    def _reasoned(self, text: str) -> dict[str, Any]:
        return {"reasoning": text} if self.writes_first else {}

    def _worked(self, example: PreferExample, flip: bool, name: str) -> tuple[Message, ...] | None:
        """A worked preference, the better answer first unless `flip`."""
        principle = self._constitution[example.principle]
        if not principle.prefer or (self.writes_first and not example.reasoning):
            return None
        a, b = (example.worse, example.better) if flip else (example.better, example.worse)
        return self._templates.dialogue(
            self._template,
            answer=f"{A_B[flip]})",
            conversation=example.conversation,
            response_a=a,
            response_b=b,
            principle=phrase(principle, "prefer", seed=self._seed, item=name, round="shot"),
            **self._reasoned(example.reasoning),
        )
