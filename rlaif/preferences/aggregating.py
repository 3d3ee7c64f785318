"""From the verdicts under several principles to one soft target with its spread."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rlaif.preferences.judging import Group
from rlaif.records import NO_PRINCIPLE, Pair, Verdict


def aggregated(pair: Pair, verdicts: Sequence[Verdict], group: Group) -> Pair:
    """The pair with the mean and the standard deviation of its verdicts.

    Where every principle that applies was asked, a verdict counts by its principle's weight. Where
    some were drawn, they were drawn by weight, and count alike. Unlabelled verdicts are left out;
    where nothing is left the target is None, with the reasons. A single verdict has no spread.
    """
    target, spread, why = None, None, ""
    known = [
        (verdict.target, principle.weight if group.all_asked else 1.0)
        for verdict, principle in zip(verdicts, group.principles, strict=True)
        if verdict.target is not None
    ]
    if not known:
        why = ", ".join(sorted({v.unlabelled for v in verdicts})) or NO_PRINCIPLE
    elif len(known) == 1:
        target = known[0][0]
    else:
        total = math.fsum(weight for _, weight in known)
        target = math.fsum(weight * t for t, weight in known) / total
        spread = math.sqrt(math.fsum(weight * (t - target) ** 2 for t, weight in known) / total)
    id, prompt, calls = pair.id, pair.prompt, pair.calls
    return Pair(id, prompt, pair.a, pair.b, target, spread, tuple(verdicts), why, calls)
