"""The figures of an audit: of the frame, from the items that people judged; what is undefined says
why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rlaif.audit import agreement as between
from rlaif.audit import estimates
from rlaif.audit.folding import Fold, Review, Reviewed
from rlaif.audit.records import GateState
from rlaif.audit.scoring import PLACE, same
from rlaif.intervals import Estimate, undefined

SIDES = ("a", "b", "tie")


def counting(fold: Fold) -> dict[str, list[Reviewed]]:
    """The items that estimates rest on, by stratum: what is completed of the gate's arm and of
    what tops it up, each handed out in the order of a permutation."""
    plan, arms = fold.audit.plan, ("gate", "coverage")
    strata: dict[str, list[Reviewed]] = {name: [] for name in plan.strata}
    ordered = sorted(
        (unit for unit in fold.units.values() if unit.arm in arms),
        key=lambda unit: (arms.index(unit.arm), unit.order),
    )
    for unit in ordered:
        if unit.complete(plan.reviewers):
            strata.setdefault(unit.stratum, []).append(unit)
    return strata


def figures(fold: Fold, gate: GateState) -> dict[str, Estimate]:
    """Every figure by its name; docs/audit.md says what each is."""
    strata = counting(fold)
    units = [unit for some in strata.values() for unit in some]
    sizes = fold.audit.plan.strata
    whole = estimates.weighted(
        {name: [unit.agreement or 0.0 for unit in some] for name, some in strata.items()}, sizes
    )
    if gate.n:  # the review stops when it is decided: only the confidence sequence allows for that
        whole = estimates.hull(whole, gate.low, gate.high)
    said = [(unit, review) for unit in fold.units.values() for review in unit.counted]
    ai, people = against_ai(fold)
    decided = [(a, b) for a, b in zip(ai, people, strict=True) if "tie" not in (a, b)]
    table = between.table([*zip(ai, people, strict=True)], SIDES)
    return {
        "weighted": whole,
        "decided_only": estimates.rate(
            sum(a == b for a, b in decided),
            len(decided),
            "no item on which both took a side",
            between.anytime,
        ),
        "unjudged": estimates.rate(
            sum(unit.agreement is None for unit in units), len(units), "nothing was judged"
        ),
        "kappa": between.kappa(ai, people, between.anytime),
        "alpha": between.alpha(table, between.anytime),
        "ac1": between.ac1(table, 3, between.anytime),
        **_humans(fold),
        "left_rate": left_rate(said),
        "longer_rate": longer_rate(said),
        "changed_rate": changed_rate(review for _, review in said),
        "consistent": consistent(fold),
        "drift": drift(units),
        **_predicted(fold, units),
    }


def against_ai(fold: Fold) -> tuple[list[str], list[str]]:
    """The AI's label and people's verdict, as a side or a tie, of each item that counts."""
    ai, people = [], []
    for some in counting(fold).values():
        for unit in some:
            verdict = human(unit)
            if verdict is not None:
                ai.append(_label(unit))
                people.append(verdict)
    return ai, people


def _label(unit: Reviewed) -> str:
    return {"revised": "b", "no_fault": "a"}.get(unit.label, unit.label)


def human(unit: Reviewed) -> str | None:
    """People's verdict where they are at one, as a side or a tie. Of a critique: b, the AI was
    right to revise; a, the answer was fine as it was."""
    if unit.agreement is None:
        return None
    said = same(unit.ruling or unit.verdict(unit.counted[0]))
    return {"yes": "b", "no": "a"}.get(said, said)


def _humans(fold: Fold) -> dict[str, Estimate]:
    """How far people agree with one another, on items that two or more judged blind."""
    rows = [
        [same(unit.verdict(review)) for review in unit.counted]
        for unit in fold.units.values()
        if len(unit.counted) >= 2
    ]
    table = between.table(rows)
    return {"humans": between.observed(table), "humans_alpha": between.alpha(table)}


def left_rate(reviews: Sequence[tuple[Reviewed, Review]]) -> Estimate:
    """How often the left one was taken, where a side was."""
    sided = [(r.left, v) for unit, r in reviews if (v := unit.verdict(r)) in ("a", "b")]
    return estimates.rate(sum(left == v for left, v in sided), len(sided), "no side was taken")


def longer_rate(reviews: Sequence[tuple[Reviewed, Review]]) -> Estimate:
    """How often the longer one was taken, where a side was."""
    sided = [
        (unit.longer > 0, unit.verdict(review) == "a")
        for unit, review in reviews
        if unit.longer and unit.verdict(review) in ("a", "b")
    ]
    return estimates.rate(sum(x == y for x, y in sided), len(sided), "no side was taken")


def changed_rate(reviews: Iterable[Review]) -> Estimate:
    """How often a mind was changed after the reveal."""
    seen = [review for review in reviews if review.revealed]
    changed = [r for r in seen if any(r.later.get(k, v) != v for k, v in r.answers.items())]
    return estimates.rate(len(changed), len(seen), "nothing was revealed")


def consistent(fold: Fold, reviewer: int | None = None) -> Estimate:
    """How often people say the same of a pair that comes back, before they know what the AI said;
    tie and both bad are one, sides are the pair's own."""
    plan, pairs = fold.audit.plan, list[tuple[str, str]]()
    for repeat in fold.repeats.values():
        first = fold.units.get(repeat.order)
        before = {r.reviewer: r for r in first.counted} if first else {}
        for again in repeat.counted:
            known = before.get(again.reviewer)
            asked = reviewer in (None, again.reviewer)
            if first and known and asked and not 0 < known.revealed < again.seq:
                pairs.append((same(first.verdict(known)), same(repeat.verdict(again))))
    why = "nothing has come back yet"
    if plan.kind == "critique":
        why = "critiques are revealed at once, so none can come back blind"
    elif not plan.design.get("retest"):
        why = "no pair was drawn to come back (audit.retest)"
    return estimates.rate(sum(one == other for one, other in pairs), len(pairs), why)


def drift(units: Sequence[Reviewed], reviewer: int | None = None) -> Estimate:
    """p of Fisher's exact test: agreement in the first half of the reviews against the second."""
    scored = sorted(
        (review.seq, x >= 1.0)
        for unit in units
        for review in unit.counted
        if reviewer in (None, review.reviewer) and (x := unit.score(review)) is not None
    )
    n = len(scored)
    if n < 20:
        return undefined(f"{n} reviews; 20 are needed", n)
    halves = [[x for _, x in part] for part in (scored[: n // 2], scored[n // 2 :])]
    cells = [(sum(half), len(half) - sum(half)) for half in halves]
    return Estimate(estimates.fisher(cells[0], cells[1]), n=n)


def _predicted(fold: Fold, units: Sequence[Reviewed]) -> dict[str, Estimate]:
    """PPI++ estimates of the frame: how often the first answer breaks its principle, and how often
    the revision is the better one (critiques only); ties are halves."""
    plan = fold.audit.plan
    if plan.kind != "critique":
        return {}
    gate = [unit for unit in units if unit.arm == "gate" and unit.counted]
    labels = plan.design.get("labels", {})
    revised, total = labels.get("revised", 0), max(1, sum(labels.values()))
    sure = [
        (unit, said) for unit in gate if (said := unit.counted[0].answers["violated"]) != "unsure"
    ]
    violated = estimates.ppi(
        [float(said == "yes") for _, said in sure],
        [float(unit.label == "revised") for unit, _ in sure], revised / total, plan.frame_size,
    )  # fmt: skip
    won = [1.0 - x for unit in gate if unit.label == "revised"
           and (x := PLACE.get(unit.counted[0].answers.get("better", ""))) is not None]  # fmt: skip
    win = estimates.rate(sum(won), len(won), "no revision was judged")
    return {"violation_rate": violated, "revision_win_rate": win}


def alternative(fold: Fold) -> estimates.Alternative:
    """Whether the AI may stand in for a person, on items that two or more judged."""
    shared = [unit for unit in fold.units.values() if len(unit.all_reviews) >= 2]
    ratings = [{r.reviewer: same(unit.verdict(r)) for r in unit.all_reviews} for unit in shared]
    return estimates.alternative_annotator([_scored(unit) for unit in shared], ratings)


def _scored(unit: Reviewed) -> str:
    """The AI's label in the words of the question that is scored."""
    return {"revised": "b", "no_fault": "no"}.get(unit.label, unit.label)
