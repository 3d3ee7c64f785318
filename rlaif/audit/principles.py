"""Principle by principle: where people surely contradict the labels, and what the gate makes of it.

A gate that passes says that people agree with the labels as a whole. Where most of them say tie, or
one principle of many is judged the wrong way round, it may pass all the same; so whoever asks for
the gate is told which principles people contradict, and `audit: {principles: block}` lets these
hold training back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rlaif.audit import agreement as between
from rlaif.audit import drafts, estimates
from rlaif.audit.figures import counting
from rlaif.audit.folding import Fold, Reviewed
from rlaif.audit.records import GateState
from rlaif.intervals import Estimate

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
class Judged:
    """A principle's row, and the items that it rests on."""

    row: PrincipleRow
    units: list[Reviewed]


def by_principle(fold: Fold) -> list[Judged]:
    """Every principle of which something was judged; those that people contradict most, first."""
    strata = {name: units for name, units in counting(fold).items() if units}
    names = sorted(strata)
    xs = {name: [unit.agreement or 0.0 for unit in strata[name]] for name in names}
    said = {  # what was judged, and not differently
        name: [unit.agreement for unit in strata[name] if unit.agreement is not None]
        for name in names
    }
    near = estimates.shrunk([sum(some) for some in said.values()], [*map(len, said.values())])
    p = [_worse(name, said) for name in names]
    q = estimates.benjamini_hochberg(p) if len(names) > 1 else [None] * len(names)
    found = []
    for name, rate, raw, adjusted in zip(names, near, p, q, strict=True):
        figure = estimates.weighted({name: xs[name]}, {name: fold.audit.plan.strata.get(name, 0)})
        low = figure.high is not None and figure.high < QUARANTINE
        figure = estimates.hull(figure, *between.anytime(sum(xs[name]), len(xs[name])))
        units = strata[name]
        found.append(Judged(PrincipleRow(
            name, figure, rate, raw if adjusted is not None else None, adjusted,
            adjusted is not None and adjusted < NAMED, len(units) >= ENOUGH and low,
            drafts.direction(units),
            tuple(u.number for u in units if u.agreement is not None and u.agreement < 1)[:5], "",
        ), units))  # fmt: skip
    return sorted(found, key=lambda one: 1.0 if one.row.shrunk is None else one.row.shrunk)


def _worse(name: str, said: dict[str, list[float]]) -> float:
    """p that a principle is contradicted no more often than the others together."""
    n = {key: len(values) for key, values in said.items()}
    wrong = {key: values.count(0.0) for key, values in said.items()}
    rest = sum(wrong.values()) - wrong[name], sum(n.values()) - n[name]
    mine = wrong[name], n[name] - wrong[name]
    return estimates.fisher(mine, (rest[0], rest[1] - rest[0]), greater=True)


def told(fold: Fold, gate: GateState) -> GateState:
    """The gate's state with the principles that people contradict, and those that hold it shut."""
    rows = [one.row for one in by_principle(fold)]
    doubted = tuple(row.principle for row in rows if row.named or row.quarantined)
    lacking: tuple[str, ...] = ()
    design = fold.audit.plan.design
    blocks = gate.state == "pass" and design.get("principles") == "block"
    if blocks:
        judged = {name: len(units) for name, units in counting(fold).items()}
        wanted = design.get("covered", {})
        lacking = tuple(name for name, n in wanted.items() if judged.get(name, 0) < n)
    return replace(gate, doubted=doubted, lacking=lacking, blocks=blocks)
