"""The judge's view: each answer alone under the principles, and each against the start model's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from rlaif.calibration import sigmoid
from rlaif.completions.calls import key
from rlaif.constitution import Constitution, Principle, Wording, choose, phrase
from rlaif.engine import Model
from rlaif.evaluation.answering import by_prompt
from rlaif.evaluation.truth import Reader
from rlaif.jsonl import writing
from rlaif.records import A_B, LABEL, YES_NO, Call, Outcome, Prompt, Sampled, Win, log_odds
from rlaif.templates import Templates

Asked = list[tuple[Principle, Call]]


@dataclass(frozen=True, slots=True)
class Judge:
    """A model that judges, and what it is shown.

    The principles and wordings that a prompt meets are drawn by hash of the prompt alone, so that
    every model's answers to it are judged alike. `principles`: how many; 0 is all that apply.
    """

    model: Model
    constitution: Constitution
    templates: Templates
    seed: int
    principles: int = 0

    def about(self, sampled: Sampled) -> Asked:
        """One call for each principle: does this answer violate it?"""
        k = self.principles or len(self.constitution.principles)
        prompt = sampled.prompt
        return [
            (principle, self._violates(principle, prompt, sampled.text))
            for principle in self._met(prompt, "evaluation", k, "critique")
        ]

    def between(self, prompt: Prompt, ours: str, theirs: str) -> Asked:
        """Two calls, with ours first and with theirs first; none where no principle applies."""
        return [
            (principle, self._prefers(principle, prompt, a, b))
            for principle in self._met(prompt, "wins", 1, "prefer")
            for a, b in ((ours, theirs), (theirs, ours))
        ]

    def key(self, call: Call) -> str:
        """The key, in hex, of a call to the judge."""
        return key(self.model.identity, call).hex()

    def _met(self, prompt: Prompt, round: str, k: int, wording: Wording) -> tuple[Principle, ...]:
        return choose(
            self.constitution,
            seed=self.seed,
            item=prompt.id,
            round=round,
            k=k,
            tags=prompt.tags,
            wording=wording,
        )

    def _violates(self, principle: Principle, prompt: Prompt, text: str) -> Call:
        asks = phrase(principle, "critique", seed=self.seed, item=prompt.id, round="evaluation")
        messages = self.templates.render(
            "violates", conversation=prompt.messages, response=text, critique="", principle=asks
        )
        return Call(messages, LABEL, labels=YES_NO)

    def _prefers(self, principle: Principle, prompt: Prompt, a: str, b: str) -> Call:
        asks = phrase(principle, "prefer", seed=self.seed, item=prompt.id, round="wins")
        messages = self.templates.render(
            "prefer", conversation=prompt.messages, response_a=a, response_b=b, principle=asks
        )
        return Call(messages, LABEL, labels=A_B)


def judge_samples(
    into: Path, samples: Iterable[Sampled], judge: Judge, truth: Reader | None
) -> dict[str, int]:
    """Write the samples with the judge's P(violates) by principle and, if told, the truth.

    A principle whose call has no answer is left out of `violates`, and counted in `unread`; returns
    how many, by reason.
    """
    missing: Counter[str] = Counter()
    units = (_unit(sampled, judge) for sampled in samples)
    with writing(into) as write:
        for (sampled, asked), outcomes in judge.model.each(units, "violations"):
            found = [log_odds(outcome) for outcome in outcomes]
            violates = {
                principle.id: sigmoid(logit)
                for (principle, _), (logit, _) in zip(asked, found, strict=True)
                if logit is not None
            }
            missing.update(why for _, why in found if why)
            known = truth(sampled.prompt, sampled.text) if truth and not sampled.unanswered else {}
            unread = len(outcomes) - len(violates)
            write(replace(sampled, violates=violates, truth=known, unread=unread))
    return dict(sorted(missing.items()))


def compare(into: Path, samples: Path, judge: Judge) -> None:
    """Write a `Win` for each answer of a trained model, against the start model's."""
    units = (unit for answers in by_prompt(samples) for unit in _against_seed(answers, judge))
    with writing(into) as write:
        for (win, asked), outcomes in judge.model.each(units, "wins"):
            write(_decided(win, asked, outcomes, judge) if asked else win)


def _unit(sampled: Sampled, judge: Judge) -> tuple[tuple[Sampled, Asked], list[Call]]:
    asked = [] if sampled.unanswered else judge.about(sampled)
    return (sampled, asked), [call for _, call in asked]


def _against_seed(
    answers: dict[str, list[Sampled]], judge: Judge
) -> Iterator[tuple[tuple[Win, Asked], list[Call]]]:
    for name, ours in answers.items():
        if name != "seed":
            for one, base in zip(ours, answers["seed"], strict=True):
                win, asked = _open(one, base, judge)
                yield (win, asked), [call for _, call in asked]


def _open(one: Sampled, base: Sampled, judge: Judge) -> tuple[Win, Asked]:
    """A win without its verdict, and what to ask for it."""
    asked = judge.between(one.prompt, one.text, base.text)
    principle = asked[0][0].id if asked else ""
    longer = len(one.text.split()) - len(base.text.split())
    win = Win(one.model, one.prompt.id, principle, None, one.sample, longer)
    if missing := one.unanswered or base.unanswered:
        return replace(win, unanswered=f"no answer to judge ({missing})"), []
    if not asked:
        return replace(win, unanswered="no principle applies"), []
    if one.text == base.text:
        return replace(win, win=0.5), []
    return win, asked


def _decided(win: Win, asked: Asked, outcomes: list[Outcome], judge: Judge) -> Win:
    calls = tuple(judge.key(call) for _, call in asked)
    (first, why), (second, too) = map(log_odds, outcomes)
    if first is None or second is None:
        return replace(win, unanswered=why or too, calls=calls)
    orders = (sigmoid(first), sigmoid(-second))
    return replace(win, win=fmean(orders), orders=orders, calls=calls)
