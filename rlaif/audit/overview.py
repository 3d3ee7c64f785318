"""All that a lead wants to know of an audit, in one look: the figures behind the lead's page and
`rlaif audit status`.

    with Ledger.open(where(run)) as ledger:
        print(overview(ledger, audit).json())
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from rlaif.audit import agreement as between
from rlaif.audit import drafts, estimates, figures
from rlaif.audit.folding import Fold, Reviewed
from rlaif.audit.ledger import Ledger
from rlaif.audit.records import Audit, Dispute, GateState, Reviewer
from rlaif.intervals import Estimate

FAST = 3_000  # milliseconds, below which nobody has read two answers
QUARANTINE = 0.60
ENOUGH = 30
NAMED = 0.05


@dataclass(frozen=True, slots=True)
class PrincipleRow:
    """One principle. `named`: people contradict it more than the others' labels, at a false
    discovery rate of 5%; `p` and `q` are raw and adjusted. `quarantined`: n >= 30 and the upper
    bound below 0.60. `exemplars` are numbers of items on which people and the AI differ."""

    principle: str
    agreement: Estimate
    shrunk: float | None
    p: float | None
    q: float | None
    named: bool
    quarantined: bool
    direction: str
    exemplars: tuple[int, ...]
    edit: str


@dataclass(frozen=True, slots=True)
class ReviewerRow:
    """One reviewer: n items, median seconds, how often he took the left and the longer one, agreed
    with the AI, was too fast to have read, or changed his mind; `drift` holds p of Fisher's test of
    his first half against his second."""

    reviewer: Reviewer
    n: int
    seconds: float | None
    left: Estimate
    longer: Estimate
    agreement: Estimate
    fast: Estimate
    changed: Estimate
    drift: Estimate


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
        rows = _principles(fold)
        reviewers = tuple(_reviewer(fold, person) for person in people)
        pairs = figures.against_ai(fold)
        alternative = figures.alternative(fold)
        path = tuple(fold.gate().path)
    return Overview(
        audit=found,
        gate=gate,
        warnings=tuple(_warnings(found, told)),
        agreement=told,
        principles=tuple(_drafted(ledger, found, row) for row in rows),
        reviewers=tuple(row for row in reviewers if row.n or row.reviewer.active),
        disputes=disputes,
        confusion=between.confusion(*pairs) if pairs[0] else {},
        alternative=alternative,
        path=path,
    )


# --- by principle and by reviewer -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Row:
    units: list[Reviewed]
    row: PrincipleRow


def _principles(fold: Fold) -> list[_Row]:
    strata = {name: units for name, units in figures.counting(fold).items() if units}
    names = sorted(strata)
    xs = {name: [unit.agreement or 0.0 for unit in strata[name]] for name in names}
    wrong = {name: sum(x == 0.0 for x in xs[name]) for name in names}
    sums = [sum(xs[name]) for name in names]
    near = estimates.shrunk(sums, [len(xs[name]) for name in names])
    p = [_worse(name, wrong, xs) for name in names]
    q = estimates.benjamini_hochberg(p) if len(names) > 1 else [None] * len(names)
    rows = []
    for name, rate, raw, adjusted in zip(names, near, p, q, strict=True):
        figure = estimates.weighted({name: xs[name]}, {name: fold.audit.plan.strata.get(name, 0)})
        low = figure.high is not None and figure.high < QUARANTINE
        figure = estimates.hull(figure, *between.anytime(sum(xs[name]), len(xs[name])))
        units = strata[name]
        rows.append(_Row(units, PrincipleRow(
            name, figure, rate, raw if adjusted is not None else None, adjusted,
            adjusted is not None and adjusted < NAMED, len(units) >= ENOUGH and low,
            drafts.direction(units),
            tuple(u.number for u in units if u.agreement is not None and u.agreement < 1)[:5], "",
        )))  # fmt: skip
    return sorted(rows, key=lambda one: one.row.shrunk if one.row.shrunk is not None else 1.0)


def _worse(name: str, wrong: dict[str, int], xs: dict[str, list[float]]) -> float:
    """p that a principle is contradicted no more often than the others together."""
    n = {key: len(values) for key, values in xs.items()}
    rest = sum(wrong.values()) - wrong[name], sum(n.values()) - n[name]
    mine = wrong[name], n[name] - wrong[name]
    return estimates.fisher(mine, (rest[0], rest[1] - rest[0]), greater=True)


def _drafted(ledger: Ledger, audit: Audit, found: _Row) -> PrincipleRow:
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
        figures.drift([unit for unit, _ in mine], person.id),
    )


def _warnings(audit: Audit, figures: dict[str, Estimate]) -> Iterable[str]:
    humans, tau = figures["humans"], audit.plan.tau
    if humans.value is not None and humans.n >= 20 and humans.value < tau + 0.03:
        yield (
            f"people agree with one another on {humans.value:.0%} only: a threshold of {tau:.0%} "
            "is out of reach; make the guideline plainer and draw a new audit"
        )
    drift = figures["drift"]
    if drift.value is not None and drift.value < 0.01:
        yield "agreement changed between the first half of the reviews and the second"
    changed = figures["changed_rate"]
    if changed.value is not None and changed.n >= 20 and changed.value > 0.2:
        yield "reviewers often change their minds once they see what the AI said"


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
