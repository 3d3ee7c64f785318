"""The judge's own reward, without a reward model (direct RLAIF, Lee et al. 2023, section 2.2.2).

They have the judge rate an answer from 1 to 10 and take the expected score, scaled to [-1, 1]. Here
it says for each principle whether the answer violates it (the template `violates`, as pointwise
labels and the evaluation do), and the reward is the mean over the principles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlaif.config.engine import EngineConfig
from rlaif.config.policy import JudgeRewardConfig
from rlaif.constitution import Constitution, Law, Principle, load, phrase
from rlaif.engine import Counts, Model
from rlaif.errors import ConfigError
from rlaif.records import LABEL, NO_PRINCIPLE, YES_NO, Call, Outcome, Prompt, log_odds
from rlaif.templates import Templates

ROUND = "reward"


class JudgeReward:
    """The reward of each answer by the judge, or why it has none.

    The principles are drawn for the prompt, so that its answers can be compared; they are those for
    the judge (with a `prefer` wording) that say how to look for a fault (`critique`). Where all
    that apply are asked, each counts by its weight; where some were drawn, they were drawn by
    weight and count alike. If one of the calls has no answer, neither has the reward: a mean over
    fewer principles would favour the answer whose fault could not be read.
    """

    def __init__(
        self,
        config: JudgeRewardConfig,
        model: Model,
        constitution: Constitution,
        templates: Templates,
        seed: int,
    ) -> None:
        k = config.principles
        self._law = Law(constitution, ("prefer", "critique"), k=k, seed=seed, round=ROUND)
        self._config, self._model, self._templates, self._seed = config, model, templates, seed

    @property
    def counts(self) -> Counts:
        """The calls to the judge so far."""
        return self._model.counts

    def __call__(
        self, prompts: Sequence[Prompt], answers: Sequence[str], ids: Sequence[list[int]]
    ) -> list[float | str]:
        """One batch to the judge: a call for each answer and principle."""
        units = (self._unit(p, answer) for p, answer in zip(prompts, answers, strict=True))
        judged = self._model.each(units, "rewards")
        return [self._reward(weights, outcomes) for weights, outcomes in judged]

    def _unit(self, prompt: Prompt, answer: str) -> tuple[list[float], list[Call]]:
        met, all_asked = self._law.met(prompt)
        weights = [principle.weight if all_asked else 1.0 for principle in met]
        return weights, [self._call(principle, prompt, answer) for principle in met]

    def _call(self, principle: Principle, prompt: Prompt, answer: str) -> Call:
        asks = phrase(principle, "critique", seed=self._seed, item=prompt.id, round=ROUND)
        messages = self._templates.render(
            "violates", conversation=prompt.messages, response=answer, critique="", principle=asks
        )
        return Call(messages, LABEL, labels=YES_NO)

    def _reward(self, weights: Sequence[float], outcomes: Sequence[Outcome]) -> float | str:
        if not weights:
            return NO_PRINCIPLE
        total = 0.0
        for weight, outcome in zip(weights, outcomes, strict=True):
            value = self._value(outcome)
            if isinstance(value, str):
                return value
            total += weight * value
        return total / math.fsum(weights)

    def _value(self, outcome: Outcome) -> float | str:
        violates, why = log_odds(outcome)
        if violates is None:
            return why
        return -violates if self._config.scale == "log_odds" else math.tanh(-violates / 2)


@contextmanager
def judging(
    config: JudgeRewardConfig, judge: Mapping[str, Any], seed: int
) -> Iterator[JudgeReward]:
    """The judge of this process, its server started by the first question the store can't answer.

    Raises:
        ConfigError: it cannot be served, or not by each of several processes.
    """
    from accelerate import PartialState

    from rlaif.completions import Store, default_path
    from rlaif.engine import Models

    engine = EngineConfig.model_validate(judge["engine"])
    if PartialState().num_processes > 1 and not engine.base_urls:
        what = "each of several training processes would start a judge of its own"
        raise ConfigError(what, where="policy.rewards.judge", remedy="serve it; name base_urls")
    law, templates = load(Path(judge["constitution"])), Templates(judge["templates"])
    with Store(judge.get("store") or default_path()) as store, Models(store) as models:
        yield JudgeReward(config, models.model(engine), law, templates, seed)
