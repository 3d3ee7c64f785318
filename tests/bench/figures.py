"""How a benchmark ends: it prints its figures, says which bounds they miss, and exits with 1."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping


def concluded(figures: Mapping[str, float], misses: Iterable[str], *, as_json: bool) -> int:
    """Print the figures and the misses; the exit status."""
    if as_json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:34s} {value:10.3f}")
    failures = list(misses)
    for failure in failures:
        print(f"missed: {failure}", file=sys.stderr)
    return 1 if failures else 0
