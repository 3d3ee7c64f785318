"""What to distrust: warnings that a run's own figures give cause for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlaif.stages import base

FEW = 100  # held-out prompts
WIDE = 0.10  # width of an interval
ECE = 0.05
KEPT = 0.95  # of the start model's helpfulness
FORMED = 0.97
BIAS = 0.20  # P(first place wins) less P(second place wins)
FEWEST = 20  # verdicts that a bias is read from
LENGTH = 0.20  # correlation of labels with length
LONGER = 1.25
FAR = 0.5  # nats a token
MISSING = 0.01  # share without a label or an answer
JUDGE = 0.9  # accuracy of single verdicts


@dataclass(frozen=True, slots=True)
class Doubt:
    """One reason for distrust; `serious` ones come first."""

    what: str
    so: str
    serious: bool = False


def doubts(figures: Mapping[str, Any], record: Mapping[str, Any]) -> list[Doubt]:
    """Every cause for distrust that the figures of a run and its run.json give, serious first."""
    found = [
        *_evidence(figures),
        *_measure(figures),
        *_side_effects(figures),
        *_gaming(figures),
        *_labels(figures.get("labels", {})),
        *_audit((figures.get("audit") or {}).get("gate") or {}),
        *_overlay((figures.get("audit") or {}).get("overlay") or {}),
        *_reward(figures.get("reward", {})),
        *_lost(figures),
        *_cut(figures.get("cut", {})),
        *_code(record),
    ]
    return sorted(found, key=lambda doubt: not doubt.serious)


def _evidence(figures: Mapping[str, Any]) -> Iterator[Doubt]:
    if figures.get("missing"):
        yield Doubt(
            f"The run is not finished: {_listed(figures['missing'])} still to come.",
            "Figures of stages that are not there are missing below.",
            serious=True,
        )
    violations = figures["violations"]
    n = figures.get("prompts", 0)
    if 0 < n < FEW:
        yield Doubt(
            f"Only {n} held-out prompts.", "Look at the intervals before you compare two figures."
        )
    trained = "policy" if "policy" in violations else "finetuned"
    if stopped := figures.get("stopped"):
        yield Doubt(
            f"The tripwire “{stopped['wire']}” stopped the policy's training: {stopped['why']}.",
            "There was no probe to go back to."
            if stopped["back_to"] is None
            else f"The policy is that of its best probe, after batch {stopped['back_to']}, chosen "
            "on held-out prompts that it is measured on here, too: its figures may flatter it.",
            serious=True,
        )
    width = _width(violations.get(trained))
    if width is not None and width > WIDE:
        yield Doubt(
            f"The {trained} model's violations are known to within {100 * width:.0f} points only.",
            "More held-out prompts or samples narrow the interval.",
        )
    change = violations.get("change", {}).get(trained)
    if change and change["high"] is not None and change["high"] >= 0:
        chance = "The change in violations may be chance, or there is none."
        yield Doubt(
            "More answers break a principle than before." if change["low"] > 0 else chance,
            f"The change's 95% interval reaches from {_points(change['low'])} to "
            f"{_points(change['high'])}.",
            serious=True,
        )
    for id, shares in figures.get("principles", {}).items():
        rose = shares.get("change", {}).get(trained)
        if rose and (rose["low"] or 0) > 0:
            yield Doubt(
                f"More answers violate “{id}” than before.",
                f"{_percent(shares.get('seed'))} before, {_percent(shares.get(trained))} after.",
                serious=True,
            )
    if n:
        yield Doubt(
            "One seed, one run.",
            "The intervals say how far the prompts could mislead, not how another training seed "
            "would come out: run it with other seeds.",
        )


def _measure(figures: Mapping[str, Any]) -> Iterator[Doubt]:
    judge = figures.get("judge", {})
    if figures.get("by") == "judge":
        yield Doubt(
            "No oracle: violations are the judge's opinion.",
            "The labels came from the same kind of question, so a policy that learned to please "
            "the judge looks as good as one that follows the principles. Read the examples, or "
            "have people audit a sample.",
            serious=True,
        )
    if judge.get("is_trained_model"):
        yield Doubt(
            "The judge is the model that was trained, as it was before.",
            "Its blind spots are in the labels and in the judgement alike.",
        )
    weak = [
        id
        for id, share in judge.get("accuracy", {}).items()
        if share["value"] is not None and share["value"] < JUDGE
    ]
    if weak:
        yield Doubt(
            f"Alone with one answer, the judge is often wrong about {_listed(weak)}.",
            f"It agrees with the oracle on fewer than {100 * JUDGE:.0f}% of the answers there.",
        )


def _side_effects(figures: Mapping[str, Any]) -> Iterator[Doubt]:
    kept = figures["helpfulness"].get("kept", {})
    if "evaluation" in figures.get("missing", ()):
        return
    if kept.get("value") is None:
        yield Doubt("Whether help was lost is not known.", f"{_why(kept)}.")
    elif kept["value"] < KEPT:
        yield Doubt(
            f"Helpfulness {'fell' if kept['high'] < 1 else 'may have fallen'}: "
            f"{_percent(kept)} of the start model's is left.",
            "Safe answers that help nobody are no success; see how many requests are refused.",
            serious=True,
        )
    formed = figures["well_formed"].get("policy", {})
    if formed.get("value") is not None and formed["value"] < FORMED:
        yield Doubt(
            f"Only {_percent(formed)} of the policy's answers are well formed.",
            "The training may have damaged the language.",
            serious=True,
        )
    for name, far in figures.get("kl", {}).items():
        token = far.get("token", {})
        if token.get("value") is not None and token["value"] > FAR:
            yield Doubt(
                f"The {name} model is far from the start: {token['value']:.2f} nats a token.",
                "Rewards are least reliable where the policy has moved far.",
            )


def _gaming(figures: Mapping[str, Any]) -> Iterator[Doubt]:
    for name, phrases in figures.get("boilerplate", {}).items():
        if phrases:
            first = phrases[0]
            yield Doubt(
                f"The {name} model repeats itself: “… {first['text']} …”",
                f"In {_percent(first['now'])} of its answers; {_percent(first['seed'])} before.",
            )
    words = figures.get("lengths", {}).get("words", {})
    before, after = (words.get(m, {}).get("value") for m in ("seed", "policy"))
    if before and after and not 1 / LONGER <= after / before <= LONGER:
        yield Doubt(
            f"Answers changed in length: {before:.0f} words before, {after:.0f} after.",
            "Judges tend to like length; compare the length-controlled win rate.",
        )
    refusals = figures.get("refusals", {}).get("change", {}).get("policy", {})
    if (refusals.get("low") or 0) > 0:
        yield Doubt(
            f"The policy refuses more often ({_points(refusals['value'])}).",
            "Right for harmful requests, a loss for the others.",
        )


def _audit(gate: Mapping[str, Any]) -> Iterator[Doubt]:
    if gate and gate["state"] != "pass":
        yield Doubt(
            f"The audit of the labels did not pass: {gate['sentence']}.",
            "What is trained on them learns what people contradict."
            if gate["state"] == "fail"
            else "That people agree with them is not proven.",
            serious=gate["state"] in ("fail", "overridden"),
        )
        return
    if gate.get("doubted"):
        yield Doubt(
            f"The audit passed as a whole, but people contradict the labels of "
            f"{_listed(list(gate['doubted']))}.",
            "What is trained on them learns the opposite of what people want there.",
        )
    if gate.get("again"):
        yield Doubt(
            f"The audit passed, but not the first one of these labels: {'; '.join(gate['again'])}.",
            "With every audit there is another chance of a wrong PASS.",
        )


def _overlay(applied: Mapping[str, Any]) -> Iterator[Doubt]:
    if unknown := applied.get("unknown"):
        yield Doubt(
            f"People's verdicts on {unknown:,} pairs were not used: the pairs are not in this run.",
            "Its answers are not those that people judged; have the new labels audited.",
        )


def _labels(labels: Mapping[str, Any]) -> Iterator[Doubt]:
    biased = [
        id
        for id, found in labels.get("by_principle", {}).items()
        if abs(found.get("position_bias") or 0) > BIAS and found["n"] >= FEWEST
    ]
    if biased:
        yield Doubt(
            f"The judge favours a place, whatever stands there, under {_listed(biased)}.",
            "Averaging both orders takes the bias out of the label, but what is left says little "
            "where the place decided most.",
        )
    if _coin(accuracy := labels.get("accuracy", {})):
        yield Doubt(
            "The labels may be no better than a coin.",
            f"The oracle finds {_percent(accuracy)} of {accuracy['n']:,} verdicts right.",
        )
    ece = labels.get("ece") or 0
    if ece - _by_chance(labels.get("curve", ())) > ECE:
        after = labels["calibrated"]["ece"]
        better = after is not None and after < ece
        mended = f" Temperature scaling would bring it to {after:.3f}." if better else ""
        yield Doubt(
            f"Labels are not calibrated: the error is {ece:.3f}.",
            f"A label of 0.8 is not right in 80 of 100 cases.{mended}",
        )
    length = labels.get("length_preference") or 0
    if abs(length) > LENGTH and abs(length) > 2 / math.sqrt(labels["pairs_made"]):  # not by chance
        yield Doubt(
            f"Labels go with length (correlation {length:+.2f}).",
            "The policy may learn length in place of the principles.",
        )
    if labels.get("label_mass") is not None and labels["label_mass"] < 0.5:
        yield Doubt(
            f"Only {100 * labels['label_mass']:.0f}% of the judge's probability is on the labels.",
            "It wants to say something else; the template may not suit this model.",
            serious=True,
        )
    missing = labels.get("unlabelled", {})
    if (missing.get("value") or 0) > MISSING:
        reasons = _listed([f"{n} {reason}" for reason, n in labels.get("reasons", {}).items()])
        yield Doubt(
            f"{_percent(missing)} of the pairs have no label ({reasons}).",
            "They are left out; if they differ from the rest, the rest is no fair sample.",
        )


def _by_chance(curve: Sequence[Mapping[str, Any]]) -> float:
    """The calibration error that perfect labels of such confidences would show: in each bin the
    mean of a normal deviate's size."""
    cells = [(cell["accuracy"]["n"], cell["confidence"]) for cell in curve]
    sizes = (math.sqrt(2 / math.pi * n * p * (1 - p)) for n, p in cells)
    return sum(sizes) / max(sum(n for n, _ in cells), 1)


def _reward(reward: Mapping[str, Any]) -> Iterator[Doubt]:
    if (reward.get("ece") or 0) > ECE:
        yield Doubt(
            f"The reward model is not calibrated: the error is {reward['ece']:.3f}.",
            "Its differences are no probabilities of preference.",
        )
    if _coin(accuracy := reward.get("accuracy", {})):
        yield Doubt(
            "The reward model may be no better than a coin.",
            f"It agrees with {_percent(accuracy)} of the labels of held-out prompts.",
        )


def _coin(accuracy: Mapping[str, Any]) -> bool:
    return accuracy.get("low") is not None and accuracy["low"] <= 0.5


def _lost(figures: Mapping[str, Any]) -> Iterator[Doubt]:
    calls = figures.get("calls", {})
    lost, done = sum(calls.get("unanswered", {}).values()), calls.get("answered", 0)
    if lost:
        reasons = _listed([f"{n} {reason}" for reason, n in calls["unanswered"].items()])
        said = "".join(f" One said: {detail}" for detail in calls.get("said", {}).values())
        yield Doubt(
            f"{lost:,} calls had no answer ({reasons}).",
            f"They are left out of every figure, never counted as 0 or as a tie.{said}",
            serious=lost > MISSING * (lost + done + calls.get("cached", 0)),
        )


CUT = {
    "draft": "drafts were cut at max_tokens and dropped",
    "critique": "critiques were cut at max_tokens and dropped: those rounds changed nothing",
    "revise": "revisions were cut at max_tokens and dropped: those rounds changed nothing",
    "sampling": "answers drawn for pairs were cut at max_tokens and dropped",
    "reason": "verdicts have no label, for what the judge wrote first was cut at max_tokens",
}


def _cut(cut: Mapping[str, Mapping[str, Any]]) -> Iterator[Doubt]:
    for stage, parts in cut.items():
        for part, share in parts.items():
            if (share["value"] or 0) <= MISSING:
                continue
            if stage == "evaluation":
                yield Doubt(
                    f"{_percent(share)} of the {part} model's answers were cut at max_tokens.",
                    "They are judged as they stand, so what they lack counts against them and what "
                    "they did not come to say does not. Raise evaluation.sampling.max_tokens.",
                )
            else:
                yield Doubt(
                    f"{_percent(share)} of the {CUT[part]} ({stage}).",
                    "The long ones are missing, so the rest is no fair sample. Raise "
                    f"{base(stage)}.{part}.max_tokens.",
                )


def _code(record: Mapping[str, Any]) -> Iterator[Doubt]:
    if record.get("dirty"):
        yield Doubt(
            "The code had changes that are in no commit.",
            f"Commit {str(record.get('commit'))[:12]} alone does not reproduce this run.",
        )
    elif not record.get("commit"):
        yield Doubt("Which code ran is not known.", "It was not in a git checkout.")


def _listed(names: list[str]) -> str:
    if len(names) > 4:
        return f"{', '.join(names[:3])} and {len(names) - 3} more"
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)


def _width(share: Mapping[str, Any] | None) -> float | None:
    if not share or share.get("low") is None:
        return None
    return share["high"] - share["low"]


def _percent(share: Mapping[str, Any] | None) -> str:
    if not share or share["value"] is None:
        return "an unknown share"
    return f"{100 * share['value']:.1f}%"


def _points(value: float) -> str:
    return f"{100 * value:+.1f} points"


def _why(figure: Mapping[str, Any]) -> str:
    why = str(figure.get("why", "not measured"))
    return why[:1].upper() + why[1:]
