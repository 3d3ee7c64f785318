"""Plots as inline SVG: sizes are attributes, colours come from the style sheet, as the policy asks.

Every text in them is escaped by `Markup.format`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

WIDTH, HEIGHT = 640, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 110, 12, 30  # margins of the plot with axes


def scale(left: float) -> Markup:
    """P(left is better) as a dot between left (1) and right (0)."""
    said = f"The AI's probability: {100 * left:.0f}% left, {100 * (1 - left):.0f}% right"
    x = 12 + 296 * (1 - left)
    return Markup(
        '<svg class="scaled" viewBox="0 0 320 44" width="320" height="44" role="img" '
        'aria-label="{0}">'
        '<line class="grid" x1="12" x2="308" y1="14" y2="14"/>'
        '<line class="bound" x1="160" x2="160" y1="6" y2="22"/>'
        '<circle class="dot" cx="{1:.1f}" cy="14" r="6"/>'
        '<text x="12" y="40">left {2:.0f}%</text>'
        '<text class="end" x="308" y="40">right {3:.0f}%</text></svg>'
    ).format(said, x, 100 * left, 100 * (1 - left))


def interval(value: float, low: float | None, high: float | None, bound: float) -> Markup:
    """A share between 0 and 1 with its interval, and a bound to compare it with."""
    line = Markup("")
    if low is not None and high is not None:
        line = Markup('<line class="whisker" x1="{}%" x2="{}%" y1="10" y2="10"/>').format(
            _across(low), _across(high)
        )
    return Markup(
        '<svg width="100%" height="20" aria-hidden="true">'
        '<line class="grid" x1="1%" x2="99%" y1="10" y2="10"/>'
        '<line class="bound" x1="{0}%" x2="{0}%" y1="0" y2="20"/>{1}'
        '<circle class="dot" cx="{2}%" cy="10" r="4.5"/></svg>'
    ).format(_across(bound), line, _across(value))


def _across(share: float) -> str:
    return f"{1 + 98 * min(max(share, 0), 1):.2f}"


def evidence(passing: Sequence[float], failing: Sequence[float], alpha: float) -> Markup:
    """The two supermartingales of a gate after each item, on a logarithmic scale.

    `passing` and `failing` begin with the value after the first item; each decides at 1 / alpha.
    """
    tops = [value for value in (*passing, *failing) if value > 0 and math.isfinite(value)]
    highest = max([1 / alpha, *tops]) * 2
    low, high = -2.0, math.log10(highest)
    n = max(len(passing), len(failing), 10)

    def at(i: float, value: float) -> tuple[float, float]:
        log = math.log10(min(max(value, 10**low), highest))
        x = LEFT + i / n * (WIDTH - LEFT - RIGHT)
        return x, HEIGHT - BOTTOM - (log - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def line(values: Sequence[float], kind: str) -> Markup:
        points = " ".join("{:.1f},{:.1f}".format(*at(i, v)) for i, v in enumerate([1.0, *values]))
        return Markup('<polyline class="{}" points="{}"/>').format(kind, points)

    marks = [_tick(at(0, 10.0**p)[1], _power(p)) for p in range(int(low), math.ceil(high))]
    y = at(0, 1 / alpha)[1]
    marks.append(
        Markup('<line class="bound" x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}"/>').format(
            LEFT, WIDTH - RIGHT, y=y
        )
    )
    marks += [line(failing, "path failing"), line(passing, "path")]
    marks += [
        Markup('<text x="{}" y="{:.1f}">{}</text>').format(WIDTH - RIGHT + 8, y, label)
        for y, label in _apart(
            (at(n, passing[-1] if passing else 1)[1] + 4, "for PASS"),
            (at(n, failing[-1] if failing else 1)[1] + 4, "for FAIL"),
            (at(n, 1 / alpha)[1] + 4, f"decides at {1 / alpha:g}"),
        )
    ]
    marks.append(_below(n))
    said = f"Evidence after {len(passing)} items"
    if passing and failing:
        said += f": {passing[-1]:.3g} for PASS, {failing[-1]:.3g} for FAIL, of {1 / alpha:g} needed"
    return Markup(
        '<svg class="scaled" viewBox="0 0 {} {}" width="{}" height="{}" role="img" '
        'aria-label="{}">{}</svg>'
    ).format(WIDTH, HEIGHT, WIDTH, HEIGHT, said, Markup("").join(marks))


def _apart(*labels: tuple[float, str]) -> list[tuple[float, str]]:
    """Labels moved down where they would cover one another."""
    placed: list[tuple[float, str]] = []
    for y, text in sorted(labels):
        placed.append((max(y, placed[-1][0] + 14) if placed else y, text))
    return placed


def _tick(y: float, label: str) -> Markup:
    return Markup(
        '<line class="grid" x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}"/>'
        '<text class="end" x="{}" y="{:.1f}">{}</text>'
    ).format(LEFT, WIDTH - RIGHT, LEFT - 8, y + 4, label, y=y)


def _power(exponent: int) -> str:
    return f"{10**exponent:,}" if exponent >= 0 else f"{10.0**exponent:g}"


def _below(n: int) -> Markup:
    """The axis of items."""
    y = HEIGHT - 8
    return Markup(
        '<text x="{}" y="{y}">0</text><text class="end" x="{}" y="{y}">{} items</text>'
    ).format(LEFT, WIDTH - RIGHT, n, y=y)
