"""What a run would cost, before it starts: which calls are cached, which are new.

    rlaif plan CONFIG

The plan goes through the stages as the run does, with models that answer from the completions
store and nothing else, so it counts rather than guesses: up to the first training that is still to
be done every count is exact but for what depends on an answer that is not there yet ("at most").
What comes after that training asks a model that doesn't exist; those calls are reckoned.
"""

from __future__ import annotations

import json
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
from rlaif.constitution import load
from rlaif.engine.counts import Counts
from rlaif.engine.models import Models
from rlaif.pipeline import Pipeline
from rlaif.records import Call, Chain, Prompt, Reason, Unanswered
from rlaif.runs import Run, Work, base
from rlaif.shipped import folder
from rlaif.templates import Templates

TRAININGS = ("finetune", "reward", "policy")


@dataclass(slots=True)
class Planned:
    """What one stage would do.

    `state` is "done" (reused), "anew" (there, but made from something else), or "to do". `new`
    calls are certain; `at_most` counts those that depend on answers still to come. `tokens` and
    `seconds` are reckoned from the finished runs on record, None where there is none.
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

    def json(self) -> dict[str, Any]:
        """`stages`, and their `total`."""
        keys = ("cached", "new", "at_most", "tokens", "seconds")
        total = {key: sum(getattr(s, key) or 0 for s in self.stages) for key in keys}
        return {"stages": [asdict(stage) for stage in self.stages], "total": total}


def plan(config: RunConfig, *, root: Path, store: str, as_it_stood: bool = False) -> Plan:
    """What `rlaif run` with this config would ask and train; `as_it_stood` as `Run.open` has it.

    Raises:
        ConfigError: the constitution, the templates, the prompts or the model cannot be used.
    """
    law, templates = load(config.constitution), Templates(config.templates or folder("prompts"))
    with tempfile.TemporaryDirectory(prefix="rlaif-plan-") as scratch, Store(store) as completions:
        models = _Silent(completions)
        scratched = Run(Path(scratch), config)
        dry = _Dry(root / config.name, config, as_it_stood, scratched, models.counts)
        _walk(Pipeline(dry, config, law, templates, models), dry.plan)
    for stage in dry.plan.stages:
        _reckon(stage, root)
    return dry.plan


def _walk(pipeline: Pipeline, made: Plan) -> None:
    """Go through the stages until one wants a model that is still to be trained."""
    config, prompts = pipeline.config, pipeline.prompts()
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
        reckoned = {s.stage for s in made.stages}
        made.stages += [s for s in _reckoned(config, prompts) if s.stage not in reckoned]


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


def _reckoned(config: RunConfig, prompts: Path) -> Iterator[Planned]:
    """The calls of the stages that ask a model still to be trained, by the config alone."""
    trained, heldout = (
        sum(1 for _ in jsonl.rows(prompts / f"{split}.jsonl", Prompt))
        for split in ("train", "heldout")
    )
    law = len(load(config.constitution).principles)
    chosen, judged = config.preferences, config.evaluation
    yield Planned("finetune", "to do")
    n = min(trained, chosen.limit or trained)
    pairs = min(math.comb(chosen.candidates, 2), chosen.max_pairs or 1 << 60)
    each = (2 if chosen.weigh_critique else 1) * chosen.candidates
    if chosen.method == "pairwise":
        each = (4 if chosen.reasoning else 2) * pairs
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


def _reckon(stage: Planned, root: Path) -> None:
    """Tokens and seconds, as such a stage took them in the newest run that asked anything."""
    name = base(stage.stage)
    for record in sorted(_records(name, root), key=lambda r: r["finished"], reverse=True):
        if stage.state == "done":
            return
        answered, tokens = _paid(record["metrics"])
        if name in TRAININGS:
            stage.seconds = record["seconds"]
            if answered and stage.calls:
                stage.tokens = round(tokens / answered * stage.calls)
            return
        if answered:
            stage.tokens = round(tokens / answered * stage.calls)
            stage.seconds = round(record["seconds"] / answered * stage.calls, 1)
            return


def _records(stage: str, root: Path) -> Iterator[dict[str, Any]]:
    for path in root.glob(f"*/{stage}/stage.json"):
        try:
            yield json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            continue  # a damaged record reckons nothing; the run itself will say so


def _paid(metrics: Any) -> tuple[int, int]:
    """Answers and tokens in all tallies (`Counts.as_dict`) that the metrics hold."""
    if not isinstance(metrics, dict):
        return 0, 0
    if "answered" in metrics and "prompt_tokens" in metrics:
        return metrics["answered"], metrics["prompt_tokens"] + metrics["completion_tokens"]
    answered, tokens = zip((0, 0), *map(_paid, metrics.values()), strict=True)
    return sum(answered), sum(tokens)
