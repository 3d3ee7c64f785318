"""What an answer is worth in on-policy training: PPO, GRPO and RLOO all ask here.

    with opened(config.rewards, reward_models=models, judge=judge, seed=seed) as rewards:
        values = rewards.score(prompts, answers, ids, lengths)

The sources are trained reward models and the feedback model itself (d-RLAIF, Lee et al. 2023).
Each is normalised, weighted and added; then a penalty for length is taken off. An answer that some
source could not score has no reward: it is NaN, counted by reason, and must be left out of the loss
(never 0, which would be a verdict).

A judge that we start ourselves is a vLLM server beside the training. On one GPU the two share its
memory, and vLLM takes 90% of it unless `vllm_args` say --gpu-memory-utilization=0.3 or so; where
that is too little, serve the judge elsewhere and name it in `base_urls`. Several training processes
can only ask a judge in `base_urls`: each would start one of its own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from rlaif.config.policy import RewardsConfig
from rlaif.engine.counts import Counts
from rlaif.errors import ConfigError
from rlaif.policy.rewards.moments import Moments, of_all_processes
from rlaif.records import Prompt, Reason

__all__ = ["Rewards", "Source", "model_folders", "opened"]


class Source(Protocol):
    """Whoever says what answers are worth."""

    def __call__(
        self, prompts: Sequence[Prompt], answers: Sequence[str], ids: Sequence[list[int]]
    ) -> list[float | str]:
        """The reward of each answer, or why it has none."""
        ...


class Rewards:
    """The sum of its sources, with what has been seen so far; `opened` makes one.

    `batch` has the last call's values before normalisation, by source, and the `length_penalty`:
    their sum, and how many they are; of this process's answers alone.
    """

    def __init__(self, config: RewardsConfig, sources: Mapping[str, tuple[float, Source]]) -> None:
        self._config, self._sources = config, sources
        self._moments = {name: Moments() for name in sources}
        self._unscored: Counter[str] = Counter()
        self._scored = 0
        self._calls_before, self._calls = Counts(), Counts()  # of an attempt before, of this
        self.batch: dict[str, tuple[float, int]] = {}

    def score(
        self,
        prompts: Sequence[Prompt],
        answers: Sequence[str],
        ids: Sequence[list[int]],
        lengths: Sequence[int] | None = None,
    ) -> list[float]:
        """The reward of each answer, NaN where it has none.

        `ids`: prompt and answer as one sequence of tokens, to the answer's last one, without
        padding. `lengths`: how many of them are the answer's; only a length penalty asks for it.
        With several processes, each calls this equally often: the normaliser merges their answers.
        """
        known, unscored = [0.0] * len(answers), Counter[str]()
        self.batch = {}
        for name, (weight, source) in self._sources.items():
            found = source(prompts, answers, ids) if answers else []
            first = (
                value for value, so_far in zip(found, known, strict=True) if not math.isnan(so_far)
            )
            unscored.update(value for value in first if isinstance(value, str))
            values = [math.nan if isinstance(value, str) else value for value in found]
            known = self._added(name, weight, values, known)
        self._tally(known, unscored)
        return self._shortened(known, lengths)

    def units(self, source: str) -> tuple[float, float]:
        """Scale and shift from the values of a source to what they add to the reward as of now."""
        weight, seen = self._sources[source][0], self._moments[source]
        if not self._config.normalise:
            return weight, 0.0
        return weight / seen.std, -weight * seen.mean / seen.std

    def _added(
        self, name: str, weight: float, values: list[float], known: list[float]
    ) -> list[float]:
        """The sums so far with those of one source, normalised and weighted."""
        self._moments[name].add(value for value in values if not math.isnan(value))
        self.batch[name] = _summed(values)
        if self._config.normalise:
            values = [self._moments[name].standard(value) for value in values]
        return [so_far + weight * value for so_far, value in zip(known, values, strict=True)]

    def _tally(self, known: Sequence[float], unscored: Counter[str]) -> None:
        judge = self._sources.get("judge", (0, None))[1]
        calls = getattr(judge, "counts", Counts())
        self._calls = Counts()
        for scored, why, asked in of_all_processes(
            (len(known) - unscored.total(), unscored, calls)
        ):
            self._scored += scored
            self._unscored.update(why)
            self._calls.merge(asked)

    def _all_calls(self) -> dict[str, Any]:
        total = Counts()
        total.merge(self._calls_before)
        total.merge(self._calls)
        return total.as_dict()

    def _shortened(self, values: list[float], lengths: Sequence[int] | None) -> list[float]:
        target = self._config.length_target
        if target is None:
            return values
        if lengths is None:
            raise ValueError("a length penalty needs the lengths of the answers")
        over = [self._config.length_penalty * max(n - target, 0) for n in lengths]
        self.batch["length_penalty"] = _summed(over)
        return [value - less for value, less in zip(values, over, strict=True)]

    def state(self) -> dict[str, Any]:
        """What exact resume needs, as JSON."""
        moments = {name: moments.state() for name, moments in self._moments.items()}
        counted = {"scored": self._scored, "unscored": dict(self._unscored)}
        return {"moments": moments, **counted, "calls": self._all_calls()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`."""
        self._moments = {name: Moments(*found) for name, found in state["moments"].items()}
        self._scored, self._unscored = state["scored"], Counter(state["unscored"])
        self._calls_before = Counts.of(state["calls"])

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """What is scored meanwhile changes neither the normaliser nor what is counted, but for the
        judge's calls, which were made."""
        before = {name: Moments(*moments.state()) for name, moments in self._moments.items()}
        scored, unscored = self._scored, self._unscored.copy()
        yield
        self._moments, self._scored, self._unscored = before, scored, unscored

    def metrics(self) -> dict[str, Any]:
        """Since the start: by source the mean and standard deviation before normalisation, and the
        number of answers behind them; how many answers are `scored`, and how many have no reward
        (`unscored`), by reason; with a judge, its `calls`. Of all processes together."""
        calls = {"calls": self._all_calls()} if "judge" in self._sources else {}
        return calls | {
            "sources": {name: moments.json() for name, moments in self._moments.items()},
            "scored": self._scored,
            "unscored": dict(sorted(self._unscored.items())),
        }


@contextmanager
def opened(
    config: RewardsConfig, *, reward_models: Mapping[str, Path], judge: Mapping[str, Any] | None,
    seed: int,
) -> Iterator[Rewards]:  # fmt: skip
    """The rewards of a config: models loaded, the judge served once it is asked, until the end.

    `reward_models`: a folder for each name in `config.models` (see `model_folders`). `judge`, as
    JSON: `engine`, an EngineConfig; `constitution`, the path of a YAML file; `templates`, a folder;
    and `store`, where completions are kept, unless it is the default one.

    Raises:
        ConfigError: a model, the judge or its law cannot be used.
    """
    sources: dict[str, tuple[float, Source]] = {}
    with ExitStack() as stack:
        for model in config.models:
            source = _model(reward_models[model.name], own=model.path is None)
            sources[model.name] = model.weight, source
        if config.judge:
            from rlaif.policy.rewards.judging import judging

            if judge is None:
                remedy = "give its engine, constitution and templates"
                raise ConfigError("there is no judge", where="policy.rewards.judge", remedy=remedy)
            asked = stack.enter_context(judging(config.judge, judge, seed))
            sources["judge"] = config.judge.weight, asked
        yield Rewards(config, sources)


def model_folders(config: RewardsConfig, trained: Path | None) -> dict[str, Path]:
    """The folder of each reward model; `trained` is that of the run's own, if it has one.

    Raises:
        ConfigError: the run's own is wanted, and there is none; or a `path` holds no model.
    """
    folders: dict[str, Path] = {}
    for model in config.models:
        folder = model.path or trained
        if folder is None:
            what, remedy = "the reward stage is switched off", "set reward.enabled: true, or a path"
            raise ConfigError(what, where="policy.rewards.models", remedy=remedy)
        if model.path and not (folder / "config.json").is_file():
            remedy = "name the model folder of a reward stage"
            raise ConfigError("this is no model", where=str(folder), remedy=remedy)
        folders[model.name] = folder
    return folders


def _model(folder: Path, *, own: bool) -> Source:
    """The run's own model reads the tokens as they were drawn; another, whose tokenizer may differ,
    renders prompt and answer itself."""
    from rlaif.reward.scoring import RewardModel

    model = RewardModel(folder)

    def by_tokens(
        prompts: Sequence[Prompt], answers: Sequence[str], ids: Sequence[list[int]]
    ) -> list[float | str]:
        return [_finite(value) for value in model.of_ids(ids)]

    def by_text(
        prompts: Sequence[Prompt], answers: Sequence[str], ids: Sequence[list[int]]
    ) -> list[float | str]:
        rows = zip((prompt.messages for prompt in prompts), answers, strict=True)
        return ["not_readable" if value is None else _finite(value) for value in model.scores(rows)]

    return by_tokens if own else by_text


def _finite(value: float) -> float | str:
    return value if math.isfinite(value) else Reason.NOT_A_NUMBER.value


def _summed(values: Sequence[float]) -> tuple[float, int]:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known), len(known)
