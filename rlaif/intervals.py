"""Proportions with their intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist


@dataclass(frozen=True, slots=True)
class Share:
    """`hits` of `n`, as a share with its Wilson score interval (Wilson 1927); None where n is 0."""

    hits: int
    n: int
    confidence: float = 0.95

    @property
    def value(self) -> float | None:
        return self.hits / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Lower and upper bound."""
        if not self.n:
            return None
        z = NormalDist().inv_cdf(0.5 + self.confidence / 2)
        p, scale = self.hits / self.n, 1 + z * z / self.n
        middle = (p + z * z / (2 * self.n)) / scale
        half = z / scale * math.sqrt(p * (1 - p) / self.n + z * z / (4 * self.n**2))
        return max(0.0, middle - half), min(1.0, middle + half)

    def json(self) -> dict[str, float | int | None]:
        """`value`, `low`, `high` and `n`, rounded to four places."""
        low, high = self.interval or (None, None)
        numbers = {"value": self.value, "low": low, "high": high}
        return {k: v if v is None else round(v, 4) for k, v in numbers.items()} | {"n": self.n}

    def __str__(self) -> str:
        if self.interval is None:
            return "none measured"
        low, high = self.interval
        return (
            f"{100 * self.hits / self.n:5.1f}%  [{100 * low:5.1f}, {100 * high:5.1f}]  n={self.n}"
        )
