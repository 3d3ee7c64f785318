"""What a run's folder holds, as the figures of report.json; whatever is missing says so."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rlaif.config.naming import record_of
from rlaif.intervals import Share, undefined
from rlaif.stages import STAGES, base, stage_record

MODELS = ("seed", "finetuned", "policy")
_EVALUATED = (
    "by", "prompts", "violations", "principles", "helpfulness", "well_formed", "judged", "judge",
    "wins", "lengths", "refusals", "boilerplate", "kl", "rounds", "unknown_prompts",
)  # fmt: skip


@dataclass(frozen=True)
class Finished:
    """The finished stages of a run, which may still be under way."""

    folder: Path

    @cached_property
    def record(self) -> dict[str, Any]:
        """run.json: config, code and machine."""
        return record_of(self.folder)

    @cached_property
    def stages(self) -> dict[str, dict[str, Any]]:
        """stage.json of each finished stage, in order."""
        return {
            name: stage_record(self.folder / name)
            for name in self._expected
            if (self.folder / name / "stage.json").is_file()
        }

    @property
    def _expected(self) -> list[str]:
        """All stages in the order in which they run, with the extra rounds of `kind: online`."""
        online = _at(self.config, "policy", "kind") == "online"
        rounds = _at(self.config, "policy", "rounds", default=1) if online else 1
        extra = [s for n in range(1, rounds) for s in (f"policy-{n}", f"preferences-{n + 1}")]
        at = STAGES.index("policy")
        return [*STAGES[:at], *extra, *STAGES[at:]]

    @property
    def missing(self) -> list[str]:
        """The stages that are not finished (the report itself is none)."""
        config = self.config
        off = {"reward"} if not _at(config, "reward", "enabled", default=True) else set()
        return [s for s in self._expected if s not in {"report", *self.stages, *off}]

    @property
    def config(self) -> dict[str, Any]:
        """The run's config, resolved."""
        return self.record["config"]

    def optional(self, stage: str) -> dict[str, Any] | None:
        """The metrics of a stage that not every run has; None where this one has not."""
        folder = self.folder / stage
        there = (folder / "stage.json").is_file()
        return stage_record(folder)["metrics"] if there else None

    def metrics(self, stage: str) -> dict[str, Any]:
        """The metrics of a stage; empty where it is not finished."""
        return self.stages.get(stage, {}).get("metrics", {})


def figures(run: Finished) -> dict[str, Any]:
    """The figures of a run, as plain JSON values.

    Shares and means are `{value, low, high, n}`; an undefined one has a null value and says `why`.
    """
    evaluated = run.metrics("evaluation")
    nothing = undefined("the evaluation is not finished").json()
    empty = dict.fromkeys(MODELS, nothing)
    found: dict[str, Any] = {
        "run": run.folder.absolute().name,
        "missing": run.missing,
        "model": str(run.folder / "policy" / "model") if "policy" in run.stages else None,
        "violations": empty,
        "helpfulness": empty | {"kept": nothing},
        "well_formed": empty,
    }
    found |= {key: evaluated[key] for key in _EVALUATED if key in evaluated}
    return found | {
        "stopped": run.metrics("policy").get("stopped"),
        "labels": _labels(run),
        "audit": _audit(run),
        "reward": _reward(run),
        "unanswered": _unanswered(run),
        "cut": _cut(run),
        "calls": _calls(run),
        "seconds": _seconds(run),
    }


def _audit(run: Finished) -> dict[str, Any]:
    """What people's audit of the labels proved, and what their verdicts changed in the training."""
    from rlaif.audit import where

    gate, place = None, where(run.folder)
    if not isinstance(place, Path) or place.is_file():
        from rlaif.audit.told import told

        gate = told(run.folder)
    return {"gate": gate, "overlay": run.optional("audit")}


def _labels(run: Finished) -> dict[str, Any]:
    """The labels' quality where an oracle knows it; how they came out in any case."""
    made = run.metrics("preferences")
    if not made:
        nothing = undefined("the preferences are not finished").json()
        return {"accuracy": nothing, "one_order": nothing, "ece": None, "unlabelled": nothing}
    why = "no oracle knows which answer is better"
    if "evaluation" not in run.stages:
        why = "the evaluation is not finished"
    unknown, quality = undefined(why).json(), run.metrics("evaluation").get("labels", {})
    unlabelled = sum(made.get("unlabelled", {}).values())
    return {
        "accuracy": unknown,
        "one_order": unknown,
        "ece": None,
        **quality,
        "unlabelled": Share(unlabelled, made.get("pairs", 0)).json(),
        "reasons": made.get("unlabelled", {}),
        "verdicts": made.get("verdicts", {}),
        "by_principle": made.get("principles", {}),
        "length_preference": made.get("length_preference"),
        "label_mass": made.get("label_mass"),
        "pairs_made": made.get("pairs", 0),
    }


def _reward(run: Finished) -> dict[str, Any]:
    found = run.metrics("reward")
    if not found:
        off = not _at(run.config, "reward", "enabled", default=True)
        why = "the reward model is switched off" if off else "the reward model is not finished"
        return {"accuracy": undefined(why).json(), "ece": None}
    curve = [
        {"confidence": cell["predicted"], "accuracy": {"value": cell["target"], "n": cell["n"]}}
        for cell in found.get("reliability", ())
    ]
    kept = {key: value for key, value in found.items() if key not in ("calls", "reliability")}
    return {"accuracy": undefined("not measured").json(), "ece": None} | kept | {"curve": curve}


def _unanswered(run: Finished) -> dict[str, dict[str, int]]:
    """By stage: how many answers could not be used, by reason."""
    found = {stage: record["metrics"].get("unanswered") for stage, record in run.stages.items()}
    return {stage: reasons for stage, reasons in found.items() if reasons is not None}


def _cut(run: Finished) -> dict[str, dict[str, Any]]:
    """By stage: the share of answers that ended at max_tokens; by the part of the config that has
    the limit, in the evaluation by model."""
    return {
        stage: {part: share.json() for part, share in counted(record["metrics"]).items()}
        for stage, record in run.stages.items()
        if (counted := {"critique": _cut_chains, "preferences": _cut_answers}.get(base(stage)))
    } | {"evaluation": run.metrics("evaluation").get("cut", {})}


def _cut_chains(metrics: dict[str, Any]) -> dict[str, Share]:
    rounds, lost = metrics.get("rounds", []), metrics.get("unanswered", {})
    revisions = metrics.get("revised", 0)
    revisions += sum(n for why, n in lost.items() if why.startswith("revise: "))
    met = sum(round["met"] for round in rounds)
    asked = {"draft": metrics.get("prompts", 0), "critique": met, "revise": revisions}
    return {part: Share(lost.get(f"{part}: length", 0), n) for part, n in asked.items()}


def _cut_answers(metrics: dict[str, Any]) -> dict[str, Share]:
    lost, verdicts = metrics.get("unanswered", {}), metrics.get("verdicts", {})
    unread = verdicts.get("unlabelled", {})
    drawn, read = metrics.get("answers", 0), verdicts.get("n", 0)
    return {
        "sampling": Share(lost.get("length", 0), drawn + sum(lost.values())),
        "reason": Share(unread.get("length", 0), read + sum(unread.values())),
    }


def _calls(run: Finished) -> dict[str, Any]:
    """Totals of the calls to models, and the same `by_stage`."""
    by_stage = {s: r["metrics"]["calls"] for s, r in run.stages.items() if "calls" in r["metrics"]}
    names = ("sent", "answered", "cached", "prompt_tokens", "completion_tokens")
    total = {name: sum(c.get(name, 0) for c in by_stage.values()) for name in names}
    reasons: dict[str, int] = {}
    said: dict[str, str] = {}
    for counts in by_stage.values():
        said = counts.get("said", {}) | said
        for reason, n in counts.get("unanswered", {}).items():
            reasons[reason] = reasons.get(reason, 0) + n
    return total | {"unanswered": reasons, "said": said, "by_stage": by_stage}


def _seconds(run: Finished) -> dict[str, float]:
    seconds = {stage: float(record["seconds"]) for stage, record in run.stages.items()}
    return seconds | {"total": round(sum(seconds.values()), 3)}


def _at(found: Any, *keys: str, default: Any = None) -> Any:
    """What lies under some keys; the default where one of them is not there."""
    for key in keys:
        if not isinstance(found, dict) or key not in found:
            return default
        found = found[key]
    return found
