"""One round of critique and revision: what is asked of the critic, and what becomes of each chain.

A round adds one step to a chain. The answer after it is the step's revision; where the critique
finds no fault, or a call has no answer that can be used, that is the text as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

from rlaif.completions import key
from rlaif.config.run import CritiqueConfig
from rlaif.constitution import Constitution, choose, phrase
from rlaif.critique.shots import Shots
from rlaif.engine.models import Model
from rlaif.errors import ConfigError
from rlaif.records import Call, Chain, Outcome, Step, read
from rlaif.templates import Templates

Task = Literal["critique", "revise"]


class Rounds:
    """Critique and revision under one constitution by one model."""

    def __init__(
        self,
        config: CritiqueConfig,
        critic: Model,
        constitution: Constitution,
        templates: Templates,
        seed: int,
    ) -> None:
        self.config, self.critic, self.seed = config, critic, seed
        self.constitution, self.templates = constitution, templates
        self._first: Task = "revise" if config.direct else "critique"
        if config.rounds and not any(
            p.weight and p.wordings(self._first) for p in constitution.principles
        ):
            what = f"no principle has a `{self._first}` wording; nothing can be revised"
            raise ConfigError(what, remedy="write some, or set critique.rounds to 0")
        self._shots = Shots(constitution, templates, config, seed)
        self._sampling = {
            "critique": config.critique.sampling(seed=seed),
            "revise": config.revise.sampling(seed=seed),
        }

    def after(self, n: int, chains: Sequence[Chain]) -> list[Chain]:
        """The chains after round n (from 1): with one more step, where there is a draft and a
        principle applies to the prompt."""
        steps = {c.prompt.id: step for c in chains if (step := self._begun(n, c))}
        if not self.config.direct:
            for item, call, outcome in self._ask("critique", n, chains, steps):
                steps[item] = self._critiqued(steps[item], call, outcome)
        for item, call, outcome in self._ask("revise", n, chains, steps):
            steps[item] = _revised(steps[item], call, outcome)
        return [
            replace(c, steps=(*c.steps, steps[c.prompt.id])) if c.prompt.id in steps else c
            for c in chains
        ]

    def _begun(self, n: int, chain: Chain) -> Step | None:
        """The step before anything is asked: a principle, and the answer as it is."""
        if chain.unanswered:
            return None
        prompt = chain.prompt
        met = choose(
            self.constitution,
            seed=self.seed, item=prompt.id, round=n, tags=prompt.tags, wording=self._first,
        )  # fmt: skip
        return Step(n, met[0].id, revision=chain.final) if met else None

    def _ask(
        self, task: Task, n: int, chains: Sequence[Chain], steps: dict[str, Step]
    ) -> Iterator[tuple[str, str, Outcome]]:
        """The item, the call's key and the outcome of each step that is still open."""
        steps_of = ((c, steps.get(c.prompt.id)) for c in chains)
        todo = [(c, s) for c, s in steps_of if s and not s.skipped and not s.unanswered]

        def units() -> Iterator[tuple[tuple[str, str], list[Call]]]:
            for chain, step in todo:
                call = self._call(task, chain, step)
                yield (chain.prompt.id, key(self.critic.identity, call).hex()), [call]

        what = f"{task}, round {n}"
        for (item, call), (outcome,) in self.critic.each(units(), what, len(todo)):
            yield item, call, outcome

    def _call(self, task: Task, chain: Chain, step: Step) -> Call:
        item, texts = chain.prompt.id, dict[str, Any]()
        if task == "revise":
            texts["critique"] = step.critique
        wording = phrase(
            self.constitution[step.principle], task, seed=self.seed, item=item, round=step.round
        )
        messages = self.templates.render(
            task,
            examples=self._shots.of(task, item),
            conversation=chain.prompt.messages, response=step.revision, principle=wording,
            **texts,
        )  # fmt: skip
        return Call(messages, self._sampling[task])

    def _critiqued(self, step: Step, call: str, outcome: Outcome) -> Step:
        text, unanswered = read(outcome)
        no_fault = self.config.no_fault
        skipped = bool(no_fault and not unanswered and no_fault.casefold() in text.casefold())
        unanswered = unanswered and f"critique: {unanswered}"
        return replace(step, critique=text, skipped=skipped, unanswered=unanswered, calls=(call,))


def _revised(step: Step, call: str, outcome: Outcome) -> Step:
    text, unanswered = read(outcome)
    calls = (*step.calls, call)
    if unanswered:
        return replace(step, unanswered=f"revise: {unanswered}", calls=calls)
    return replace(step, revision=text, calls=calls)
