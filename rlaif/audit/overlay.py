"""What people said, brought back into the labels: an immutable overlay on the pairs.

    rlaif audit export runs/mine --form overlay --out mine-overlay.jsonl
    # and in the next run's config:  preferences: {overlay: mine-overlay.jsonl}

A label is overridden where a lead ruled, where two people agree (tie and both bad are one), or
where one person reviews alone (`audit: {reviewers: 1}`). With `--soften`, every other label of a
principle is drawn towards 0.5 as far as people contradict the judge under it: t' = t (1 - e) +
(1 - t) e. The judge's own labels stay as they are in preferences/; training reads what `labels`
writes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlaif.audit.folding import Fold, Reviewed
from rlaif.audit.items import stratum
from rlaif.audit.scoring import PLACE, same
from rlaif.constitution import Constitution
from rlaif.errors import DataError
from rlaif.jsonl import rows, writing
from rlaif.records import Pair

log = logging.getLogger(__name__)

PAIRS = "pairs.jsonl"
APPLIED = "overrides.jsonl"


@dataclass(frozen=True, slots=True)
class Overlaid:
    """A row of an overlay: a pair's new `target`, or the `error` of a principle's labels.

    `why` is ruling, agreed or alone; `labels` the digest of the labels that were judged; `was` the
    judge's own target.
    """

    pair: str = ""
    target: float | None = None
    was: float | None = None
    verdict: str = ""
    why: str = ""
    people: int = 0
    stratum: str = ""
    error: float | None = None
    n: int = 0
    labels: str = ""


def overrides(fold: Fold) -> Iterator[Overlaid]:
    """Every pair on which people have the last word, by id."""
    plan = fold.audit.plan
    for unit in sorted(fold.units.values(), key=lambda unit: unit.item):
        if unit.kind == "preference" and (found := _decided(unit, plan.reviewers)):
            verdict, why = found
            target = PLACE.get(verdict)
            if target is not None:
                yield Overlaid(
                    unit.item, target, unit.target, verdict, why, len(unit.all_reviews),
                    labels=plan.labels,
                )  # fmt: skip


def softened(errors: Mapping[str, tuple[float, int]], labels: str) -> Iterator[Overlaid]:
    """Rows that soften a principle's labels, from its (error, items judged)."""
    for name, (error, n) in sorted(errors.items()):
        yield Overlaid(stratum=name, error=round(min(max(error, 0.0), 0.5), 6), n=n, labels=labels)


def _decided(unit: Reviewed, reviewers: int) -> tuple[str, str] | None:
    if unit.ruling is not None:
        return unit.ruling, "ruling"
    reviews = [review for review in unit.all_reviews if not review.extra]
    said = Counter(same(unit.verdict(review)) for review in reviews)
    if len(said) != 1:
        return None
    verdict, n = next(iter(said.items()))
    if n >= 2:
        return verdict, "agreed"
    return (verdict, "alone") if reviewers == 1 and unit.counted else None


def labels(into: Path, *, pairs: Path, overlay: Path, law: Constitution) -> dict[str, Any]:
    """Fill `into` with the pairs of a preferences stage under an overlay, and what was applied.

    Metrics: `pairs`, `overridden` and how many of those changed sides, `softened`, and `unknown`,
    rows of the overlay whose pair is not in this run.

    Raises:
        DataError: the overlay cannot be read, has two rows for one pair, or fits none of the pairs.
    """
    changed, errors = _read(overlay)
    known = len(changed)
    counts: Counter[str] = Counter()
    with writing(into / PAIRS) as write, writing(into / APPLIED) as note:
        for pair in rows(pairs / PAIRS, Pair):
            counts["pairs"] += 1
            row = changed.pop(pair.id, None)
            if row is not None and row.target is not None:
                counts["overridden"] += 1
                counts["turned"] += _turned(pair.target, row.target)
                note(replace(row, was=pair.target))
                pair = replace(pair, target=row.target, spread=None, unlabelled="")
            elif pair.target is not None and (error := errors.get(stratum(pair, law))):
                counts["softened"] += 1
                pair = replace(pair, target=pair.target * (1 - error) + (1 - pair.target) * error)
            write(pair)
    if (known or any(errors.values())) and not counts["overridden"] + counts["softened"]:
        what = "no row of the overlay fits a pair of this run, whose answers are others"
        remedy = "export one from an audit of these labels, or set preferences.overlay to null"
        raise DataError(what, where=str(overlay), remedy=remedy)
    if changed:
        told = "%s: %d of %d pairs are not in this run, so what people said of them is not used"
        log.warning(told, overlay, len(changed), known)
    names = ("pairs", "overridden", "turned", "softened")
    return {name: counts[name] for name in names} | {"unknown": len(changed)}


def _turned(was: float | None, now: float) -> bool:
    return was is not None and (was - 0.5) * (now - 0.5) < 0


def _read(overlay: Path) -> tuple[dict[str, Overlaid], dict[str, float]]:
    changed, errors = dict[str, Overlaid](), dict[str, float]()
    for row in rows(overlay, Overlaid):
        if row.pair:
            if row.pair in changed or row.target is None or not 0 <= row.target <= 1:
                remedy = "export it again: rlaif audit export RUN --form overlay"
                what = f"pair {row.pair!r} has two rows, or no target from 0 to 1"
                raise DataError(what, where=str(overlay), remedy=remedy)
            changed[row.pair] = row
        elif row.error is not None:
            errors[row.stratum] = min(max(row.error, 0.0), 0.5)
    return changed, errors
