"""What the training did: the start model, the finetuned one and the policy on held-out prompts.

Each model answers every held-out prompt; the judge reads each answer alone under the principles
(P(violates)) and each pair of a trained model's and the start model's answer in both orders. Where
there is an oracle, it says what is true of the answers, of the labels and of the revisions. Departs
from Bai et al. (2022), who compare by crowd workers' Elo: every figure here has an interval, and
models are compared prompt by prompt. An answer that was cut at max_tokens is judged as it stands,
for nobody would see more of it; `cut` says how many each model has.

    rlaif run CONFIG && rlaif report RUN --json
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlaif.config.run import EvaluationConfig
from rlaif.constitution import Constitution
from rlaif.engine import Model
from rlaif.engine.counts import Counts
from rlaif.evaluation.answering import answer, interleave
from rlaif.evaluation.figures import figures
from rlaif.evaluation.judging import Judge, compare, judge_samples
from rlaif.evaluation.kl import divergence
from rlaif.evaluation.labels import label_quality
from rlaif.evaluation.rounds import by_round
from rlaif.evaluation.truth import faults, reader
from rlaif.records import Reason
from rlaif.templates import Templates

__all__ = ["evaluation", "label_quality"]


def evaluation(
    into: Path,
    config: EvaluationConfig,
    *,
    prompts: Path,
    models: Mapping[str, Model],
    judge: Model,
    constitution: Constitution,
    templates: Templates,
    seed: int,
    weights: Mapping[str, str] | None = None,
    revision: str | None = None,
    make_room: Callable[[], None] = lambda: None,
    chains: Path | None = None,
    pairs: Path | None = None,
) -> dict[str, Any]:
    """Fill `into` with samples.jsonl and wins.jsonl, and return the figures.

    `models` has "seed", the start model, and any of "finetuned" and "policy"; `weights` says where
    their weights lie, for the divergence: folders, or names on the hub, the start model's in its
    `revision`. `make_room` is called before it is measured. With an oracle, the rounds of the
    critique stage's folder `chains` and the labels of the preferences stage's folder `pairs` are
    held against the truth.

    Raises:
        DataError: a row of the inputs cannot be read.
        TrainingFailed: the child process that measures the divergence failed.
    """
    truth = reader(config.oracle)
    asking = Judge(judge, constitution, templates, seed, config.principles)
    given: dict[str, Any] = {"prompts": prompts, "templates": templates, "seed": seed}
    cut = {  # one after the other: not all may be servable at once
        name: answer(into, name, model, config, **given).json() for name, model in models.items()
    }
    unjudged = judge_samples(into / "samples.jsonl", interleave(into, models), asking, truth)
    compare(into / "wins.jsonl", into / "samples.jsonl", asking)
    for name in models:
        (into / f"answers-{name}.jsonl").unlink()
    found = figures(into, list(models), constitution, faults=faults(config.oracle)) | {"cut": cut}
    planned = any(m.counts.unanswered[Reason.PLANNED] for m in (*models.values(), judge))
    kl = 0 if planned else config.kl  # a plan starts nothing
    found["kl"] = divergence(
        into, models, weights or {}, templates, answers=kl, revision=revision, make_room=make_room
    )
    found["judge"] |= {
        "unanswered": unjudged,
        "is_trained_model": judge.identity == models["seed"].identity,
    }
    if truth and pairs:
        found["labels"] = label_quality(pairs, truth)
    if truth and chains:
        found["rounds"] = by_round(chains, truth)
    return found | {"calls": _counted(*models.values(), judge)}


def _counted(*models: Model) -> dict[str, Any]:
    total = Counts()
    for counts in {id(model.counts): model.counts for model in models}.values():
        total.merge(counts)
    return total.as_dict()
