"""All that a lead wants to know of an audit, in one look: the figures behind the lead's page and
`rlaif audit status`.

    with Ledger.open(where(run)) as ledger:
        print(overview(ledger, audit).json())
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from rlaif.audit import agreement as between
from rlaif.audit import drafts, estimates, figures
from rlaif.audit.folding import Fold
from rlaif.audit.ledger import Ledger
from rlaif.audit.principles import Judged, PrincipleRow, by_principle
from rlaif.audit.records import Audit, Dispute, GateState, Reviewer
from rlaif.intervals import Estimate

FAST = 3_000  # milliseconds, below which nobody has read two answers
TIES = 0.5  # share of labels that say tie, above which the gate says little of the others


@dataclass(frozen=True, slots=True)
class ReviewerRow:
    """One reviewer: n items, median seconds, how often he took the left and the longer one, agreed
    with the AI, was too fast to have read, or changed his mind, and said the same of what came back
    (`consistent`); `drift` holds p of Fisher's test of his first half against his second."""

    reviewer: Reviewer
    n: int
    seconds: float | None
    left: Estimate
    longer: Estimate
    agreement: Estimate
    fast: Estimate
    changed: Estimate
    consistent: Estimate
    drift: Estimate


@dataclass(frozen=True, slots=True)
class Marked:
    """An item whose reviews are complete, with how many people flagged it and how many notes."""

    number: int
    stratum: str
    flags: int
    notes: int


@dataclass(frozen=True, slots=True)
class Overview:
    """An audit at a glance. `confusion` counts people's verdicts by the AI's label; `path` has
    (n, T against the mean being at most tau, T against at least)."""

    audit: Audit
    gate: GateState
    warnings: tuple[str, ...]
    agreement: dict[str, Estimate]
    principles: tuple[PrincipleRow, ...]
    reviewers: tuple[ReviewerRow, ...]
    disputes: tuple[Dispute, ...]
    marked: tuple[Marked, ...]
    confusion: dict[str, dict[str, int]]
    alternative: estimates.Alternative
    path: tuple[tuple[int, float, float], ...]

    def json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        plan = self.audit.plan
        frame = {"sha256": plan.frame_sha, "size": plan.frame_size, "strata": dict(plan.strata)}
        return {
            "audit": self.audit.id, "kind": plan.kind, "labels": plan.labels, "frame": frame,
            "sizes": dict(self.audit.sizes), "gate": asdict(self.gate),
            "warnings": list(self.warnings),
            "agreement": {name: figure.json() for name, figure in self.agreement.items()},
            "principles": [_plain(row) for row in self.principles],
            "reviewers": [_plain(row) for row in self.reviewers],
            "disputes": [asdict(row) for row in self.disputes],
            "marked": [asdict(row) for row in self.marked],
            "confusion": self.confusion, "alternative_annotator": asdict(self.alternative),
        }  # fmt: skip


def overview(ledger: Ledger, audit: int) -> Overview:
    """The overview of an audit; made anew only where something was said since."""
    people = ledger.reviewers()
    key = ledger.head(), tuple(people)
    known = ledger.memory.get(audit)
    if known is None or known[0] != key:
        known = ledger.memory[audit] = key, _overview(ledger, audit, people)
    return known[1]


def _overview(ledger: Ledger, audit: int, people: list[Reviewer]) -> Overview:
    found, gate = ledger.audit(audit), ledger.gate(audit)
    disputes = tuple(ledger.disputes(audit))
    with ledger.folded(audit) as fold:
        told = figures.figures(fold, gate)
        rows = by_principle(fold)
        reviewers = tuple(_reviewer(fold, person) for person in people)
        pairs = figures.against_ai(fold)
        alternative = figures.alternative(fold)
        path = tuple(fold.gate().path)
        marked = tuple(_marked(fold))
    return Overview(
        audit=found,
        gate=gate,
        warnings=tuple(_warnings(found, told)),
        agreement=told,
        principles=tuple(_drafted(ledger, found, row) for row in rows),
        reviewers=tuple(row for row in reviewers if row.n or row.reviewer.active),
        disputes=disputes,
        marked=marked,
        confusion=between.confusion(*pairs) if pairs[0] else {},
        alternative=alternative,
        path=path,
    )


def _marked(fold: Fold) -> Iterable[Marked]:
    """What people flagged or noted, less what waits for them or for a ruling."""
    for number, unit in sorted(fold.units.items()):
        waits = unit.disputed or not unit.complete(fold.audit.plan.reviewers)
        if (unit.flags or unit.notes) and not waits:
            yield Marked(number, unit.stratum, len(unit.flags), len(unit.notes))


# --- by principle and by reviewer -----------------------------------------------------------------


def _drafted(ledger: Ledger, audit: Audit, found: Judged) -> PrincipleRow:
    row = found.row
    if not (row.named or row.quarantined) or not audit.plan.constitution:
        return row
    decided = [u for u in found.units if u.agreement == 0.0 and figures.human(u) in ("a", "b")]
    examples = ((ledger.item(audit.id, u.number), figures.human(u) or "") for u in decided[:5])
    law = audit.plan.constitution
    return replace(row, edit=drafts.edit(law, row.principle, row.direction, examples))


def _reviewer(fold: Fold, person: Reviewer) -> ReviewerRow:
    mine = [
        (unit, review)
        for unit in fold.units.values()
        for review in unit.counted
        if review.reviewer == person.id
    ]
    times = [review.active_ms for _, review in mine if review.active_ms]
    scores = [x for unit, review in mine if (x := unit.score(review)) is not None]
    return ReviewerRow(
        person,
        len(mine),
        median(times) / 1000 if times else None,
        figures.left_rate(mine),
        figures.longer_rate(mine),
        estimates.rate(sum(scores), len(scores), "nothing was judged"),
        estimates.rate(sum(time < FAST for time in times), len(times), "no times are known"),
        figures.changed_rate(review for _, review in mine),
        figures.consistent(fold, person.id),
        figures.drift([unit for unit, _ in mine], person.id),
    )


def _warnings(audit: Audit, figures: dict[str, Estimate]) -> Iterable[str]:
    humans, tau = figures["humans"], audit.plan.tau
    if humans.value is not None and humans.n >= 20 and humans.value < tau + 0.03:
        yield (
            f"people agree with one another on {humans.value:.0%} only: a threshold of {tau:.0%} "
            "is out of reach; make the guideline plainer and draw again"
        )
    steady = figures["consistent"]
    if steady.value is not None and (most := _ceiling(steady)) < tau:
        yield (
            f"people say the same again of {steady.value:.0%} only of the pairs that came back: "
            f"even a judge without fault would agree with them on {most:.0%} at most"
        )
    labels = audit.plan.design.get("labels") or {}
    if (ties := labels.get("tie", 0) / max(1, sum(labels.values()))) > TIES:
        yield (
            f"{ties:.0%} of the labels say tie, so the gate says little of the others: look at the "
            "agreement where both took a side, and at each principle"
        )
    drift = figures["drift"]
    if drift.value is not None and drift.value < 0.01:
        yield "agreement changed between the first half of the reviews and the second"
    changed = figures["changed_rate"]
    if changed.value is not None and changed.n >= 20 and changed.value > 0.2:
        yield "reviewers often change their minds once they see what the AI said"


def _ceiling(again: Estimate) -> float:
    """How often people are right at most who say the same again so often: p with p^2 + (1 - p)^2
    at the upper bound, where they err alike to either side."""
    return (1 + math.sqrt(max(0.0, 2 * (again.high or 0.0) - 1))) / 2


def _plain(row: Any) -> dict[str, Any]:
    plain: dict[str, Any] = defaultdict(dict)
    for name in row.__dataclass_fields__:
        value = getattr(row, name)
        if isinstance(value, Estimate):
            plain[name] = value.json()
        elif isinstance(value, Reviewer):
            plain["name"], plain["role"] = value.name, value.role
        else:
            plain[name] = list(value) if isinstance(value, tuple) else value
    return dict(plain)
