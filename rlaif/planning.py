"""What a run would cost, before it starts: which calls are cached, which are new.

    rlaif plan CONFIG

The plan goes through the stages as the run does, with models that answer from the completions
store and nothing else, so it counts rather than guesses: up to the first training that is still to
be done every count is exact but for what depends on an answer that is not there yet ("at most").
What comes after that training asks a model that doesn't exist; those calls are estimated.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rlaif import jsonl
from rlaif.completions import Store
from rlaif.config import EngineConfig, RunConfig
from rlaif.config.policy import OnlineConfig
from rlaif.constitution import Constitution, load
from rlaif.engine.counts import Counts
from rlaif.engine.models import Models
from rlaif.estimating import TRAININGS, Past, pairs
from rlaif.pipeline import Pipeline
from rlaif.records import Call, Chain, Prompt, Reason, Unanswered
from rlaif.runs import Run, Work
from rlaif.shipped import folder
from rlaif.stages import base
from rlaif.templates import Templates


@dataclass(slots=True)
class Planned:
    """What one stage would do.

    `state` is "done" (reused), "anew" (there, but made from something else), or "to do". `new`
    calls are certain; `at_most` counts those that depend on answers still to come. `tokens` and
    `seconds` are estimated from finished runs of the same models, None where there is none.
    """

    stage: str
    state: str
    cached: int = 0
    new: int = 0
    at_most: int = 0
    tokens: int | None = None
    seconds: float | None = None

    @property
    def calls(self) -> int:
        """Calls that may be sent."""
        return self.new + self.at_most


@dataclass(slots=True)
class Plan:
    """Every stage in order."""

    stages: list[Planned] = field(default_factory=list)

    @property
    def fresh(self) -> str | None:
        """The stage without whose `--fresh` a run refuses, or None: it is the first one to be made,
        and it is there, made from something else."""
        first = next((stage for stage in self.stages if stage.state != "done"), None)
        return base(first.stage) if first and first.state == "anew" else None

    @property
    def total(self) -> dict[str, Any]:
        """The sums; of an estimate, None where nothing is known. `at_least` names those estimates
        to which some stages add what is not known."""
        ahead = [stage for stage in self.stages if stage.state != "done"]
        sums: dict[str, Any] = {
            key: sum(getattr(stage, key) for stage in self.stages)
            for key in ("cached", "new", "at_most")
        }
        at_least = []
        for key in ("tokens", "seconds"):
            known = [value for stage in ahead if (value := getattr(stage, key)) is not None]
            sums[key] = sum(known)
            if len(known) < len(ahead):
                sums[key] = sums[key] or None
                at_least += [key] if sums[key] else []
        return sums | {"at_least": at_least}

    def json(self) -> dict[str, Any]:
        """`stages`, their `total`, and what needs to be `fresh`."""
        stages = [asdict(stage) for stage in self.stages]
        return {"stages": stages, "total": self.total, "fresh": self.fresh}


def plan(
    config: RunConfig,
    *,
    root: Path,
    store: str,
    as_it_stood: bool = False,
    law: Constitution | None = None,
) -> Plan:
    """What `rlaif run` with this config would ask and train; the rest as `Pipeline.open` has it.

    Raises:
        ConfigError: the constitution, the templates, the prompts or the model cannot be used.
    """
    law = law or load(config.constitution)
    templates = Templates(config.templates or folder("prompts"))
    with tempfile.TemporaryDirectory(prefix="rlaif-plan-") as scratch, Store(store) as completions:
        models = _Silent(completions)
        scratched = Run(Path(scratch), config)
        dry = _Dry(root / config.name, config, as_it_stood, scratched, models.counts)
        pipeline = Pipeline(dry, config, law, templates, models)
        prompts = pipeline.prompts()
        _walk(pipeline, dry.plan, prompts)
        asked = pipeline.start.identity, pipeline.feedback.identity
        past = Past(root, asked, config, _count(prompts, "train"))
    for stage in dry.plan.stages:
        if stage.state != "done":
            stage.tokens, stage.seconds = past.estimate(stage.stage, stage.calls)
    return dry.plan


def _walk(pipeline: Pipeline, made: Plan, prompts: Path) -> None:
    """Go through the stages until one wants a model that is still to be trained."""
    config = pipeline.config
    critiqued = pipeline.critique(prompts)
    if made.stages[-1].state != "done":
        made.stages[-1].at_most = _still_to_come(critiqued, config)
    try:
        finetuned = pipeline.finetune(critiqued)
        preferred = pipeline.preferences(prompts, finetuned)
        labels = pipeline.labels(preferred)
        rewarded = pipeline.reward(labels, finetuned) if config.reward.enabled else None
        policy = pipeline.policy(labels, finetuned, prompts, rewarded)
        pipeline.evaluation(prompts, critiqued, finetuned, preferred, policy)
    except _Untrained:
        there, law = {s.stage for s in made.stages}, len(pipeline.constitution.principles)
        made.stages += [s for s in _estimated(config, law, prompts) if s.stage not in there]


class _Untrained(Exception):
    """What follows needs a model that is still to be trained."""


class _Silent(Models):
    """Models that answer from the store, and otherwise not."""

    def engine(self, config: EngineConfig) -> Any:
        """Nobody is asked."""
        return _Nobody()


class _Nobody:
    async def ask(self, call: Call, counts: Counts) -> Unanswered:
        unanswered = Unanswered(Reason.PLANNED, "only planned")
        counts.add(unanswered)
        return unanswered

    async def aclose(self) -> None: ...


class _Dry(Run):
    """A run that looks at what is there, and does what is not in a scratch folder."""

    def __init__(
        self, folder: Path, config: RunConfig, as_it_stood: bool, scratch: Run, counts: Counts
    ) -> None:
        super().__init__(folder, config, as_it_stood=as_it_stood)
        self.plan, self._scratch, self._counts = Plan(), scratch, counts

    def stage(self, name: str, section: Any, work: Work, **inputs: Path | str) -> Path:
        """As `Run.stage`, but nothing of the run is touched and nothing is trained."""
        there = (self.folder / name / "stage.json").is_file()
        done = there and self.is_made_from(name, section, inputs)
        planned = Planned(name, "done" if done else "anew" if there else "to do")
        self.plan.stages.append(planned)
        if done:
            return self.folder / name
        if base(name) in TRAININGS:
            raise _Untrained
        cached, new = self._counts.cached, self._counts.unanswered[Reason.PLANNED]
        made = self._scratch.stage(name, section, work, **inputs)
        planned.cached = self._counts.cached - cached
        planned.new = self._counts.unanswered[Reason.PLANNED] - new
        return made

    def _ours(self, path: Path) -> bool:
        return super()._ours(path) or self._scratch.folder.resolve() in path.resolve().parents


def _still_to_come(critiqued: Path, config: RunConfig) -> int:
    """Calls that hang on a draft or a critique which is not there yet."""
    each = 1 if config.critique.direct else 2
    calls = 0
    for chain in jsonl.rows(critiqued / "chains.jsonl", Chain):
        if chain.unanswered:
            calls += each * config.critique.rounds
        elif not config.critique.direct:
            calls += sum(bool(step.unanswered) and not step.critique for step in chain.steps)
    return calls


def _count(prompts: Path, split: str) -> int:
    return sum(1 for _ in jsonl.rows(prompts / f"{split}.jsonl", Prompt))


def _estimated(config: RunConfig, law: int, prompts: Path) -> Iterator[Planned]:
    """The calls of the stages that ask a model still to be trained, by the config alone; `law` is
    the number of its principles."""
    trained, heldout = _count(prompts, "train"), _count(prompts, "heldout")
    chosen, judged = config.preferences, config.evaluation
    yield Planned("finetune", "to do")
    n = min(trained, chosen.limit or trained)
    each = (2 if chosen.weigh_critique else 1) * chosen.candidates
    if chosen.method == "pairwise":
        each = (4 if chosen.reasoning else 2) * pairs(config)
    verdicts = n * (chosen.principles or law) * each
    labels = n * chosen.candidates + verdicts
    yield Planned("preferences", "to do", at_most=labels)
    if config.reward.enabled:
        yield Planned("reward", "to do")
    if isinstance(config.policy, OnlineConfig):
        for round in range(1, config.policy.rounds):
            yield Planned(f"policy-{round}", "to do")
            yield Planned(f"preferences-{round + 1}", "to do", at_most=labels)
    yield Planned("policy", "to do", at_most=_rewarded(config, trained, law))
    answers = min(heldout, judged.limit or heldout) * judged.samples
    asked = 3 * answers * (1 + (judged.principles or law)) + 2 * 2 * answers
    yield Planned("evaluation", "to do", at_most=asked)


def _rewarded(config: RunConfig, prompts: int, law: int) -> int:
    """Calls to a judge whose verdicts are the reward of the policy's answers."""
    chosen: Any = config.policy
    judge = chosen.rewards.judge if hasattr(chosen, "rewards") else None
    if judge is None:
        return 0
    answers = chosen.epochs * min(prompts, chosen.limit or prompts) * chosen.samples
    return math.ceil(answers) * (judge.principles or law)
