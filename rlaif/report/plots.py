"""The plots of the report as inline SVG; every text in them is escaped by `Markup.format`.

A strip's horizontal positions are percentages, so that it takes the width of the page while its
text and dots keep their size. Colours and fonts come from the page's style sheet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

Share = Mapping[str, Any]
"""`{value, low, high, n}`."""

ROW = 13  # height that a series takes in a strip, in pixels
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 42  # margins of a plot with axes


def percent(share: Share | None, digits: int = 1) -> str:
    """A share for people; an en dash where there is none."""
    if not share or share.get("value") is None:
        return "\N{EN DASH}"
    return f"{100 * share['value']:.{digits}f}%"


def between(share: Share | None, digits: int = 1) -> str:
    """The bounds of a share's interval."""
    if not share or share.get("low") is None:
        return ""
    return f"{100 * share['low']:.{digits}f} to {100 * share['high']:.{digits}f}%"


def strip(shares: Mapping[str, Share], top: float) -> Markup:
    """Dots with whiskers, one series above the other, on a scale from 0 to `top`."""
    shown = {name: s for name, s in shares.items() if s.get("value") is not None}
    height = ROW * max(len(shown), 1) + 8
    marks = Markup("").join(
        _whisker(name, share, top, 4 + ROW * (i + 0.5))
        for i, (name, share) in enumerate(shown.items())
    )
    grid = Markup("").join(
        Markup('<line class="grid" x1="{0}%" x2="{0}%" y1="0" y2="100%"/>').format(_x(tick, top))
        for tick in ticks(top)
    )
    said = "; ".join(f"{name} {percent(s)}" for name, s in shown.items()) or "not measured"
    return Markup(
        '<svg class="strip" width="100%" height="{}" role="img" aria-label="{}">{}{}</svg>'
    ).format(height, said, grid, marks)


def axis(top: float) -> Markup:
    """The scale below strips from 0 to `top`."""
    anchors = ("start", "middle", "middle", "middle", "end")
    labels = Markup("").join(
        Markup('<text x="{}%" y="14" class="{}">{}</text>').format(
            _x(tick, top), anchor, f"{100 * tick:g}%"
        )
        for tick, anchor in zip(ticks(top), anchors, strict=True)
    )
    return Markup('<svg class="strip" width="100%" height="18" aria-hidden="true">{}</svg>').format(
        labels
    )


def ceiling(shares: Iterable[Share]) -> float:
    """A round number at or above every interval's upper bound, at most 1."""
    most = max((s["high"] for s in shares if s.get("high") is not None), default=1.0)
    return next((t for t in (0.05, 0.1, 0.2, 0.4, 0.6, 0.8) if most <= t), 1.0)


def ticks(top: float) -> list[float]:
    """Four steps from 0 to `top`."""
    return [round(top * i / 4, 6) for i in range(5)]


def _x(value: float, top: float) -> str:
    return f"{100 * min(value / top, 1):.2f}"


def _whisker(name: str, share: Share, top: float, y: float) -> Markup:
    low, high = share.get("low"), share.get("high")
    line = Markup("")
    if low is not None and high is not None:
        line = Markup('<line class="whisker" x1="{}%" x2="{}%" y1="{y}" y2="{y}"/>').format(
            _x(low, top), _x(high, top), y=f"{y:.1f}"
        )
    return Markup('<g class="{}">{}<circle cx="{}%" cy="{}" r="4"/><title>{}</title></g>').format(
        name, line, _x(share["value"], top), f"{y:.1f}", _said(name, share)
    )


def _said(name: str, share: Share) -> str:
    bounds = f" ({between(share)})" if between(share) else ""
    return f"{name}: {percent(share)}{bounds}, n = {share.get('n', 0):,}"


# --- plots with two axes --------------------------------------------------------------------------


@dataclass(frozen=True)
class Frame:
    """A plot's size in pixels, and the values at its edges."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: int = 360
    height: int = 260

    def at(self, x: float, y: float) -> tuple[str, str]:
        """Where a point lies."""
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1)
        return (
            f"{LEFT + across * (self.width - LEFT - RIGHT):.1f}",
            f"{self.height - BOTTOM - up * (self.height - TOP - BOTTOM):.1f}",
        )

    def line(self, points: Sequence[tuple[float, float]], kind: str) -> Markup:
        """A line through points."""
        path = " ".join(",".join(self.at(*point)) for point in points)
        return Markup('<polyline class="{}" points="{}"/>').format(kind, path)

    def upright(self, x: float, low: float, high: float) -> Markup:
        """A whisker."""
        (x1, y1), (_, y2) = self.at(x, low), self.at(x, high)
        return Markup('<line class="whisker" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
            x1, y1, y2
        )

    def drawn(
        self, what: str, x: Sequence[tuple[float, str]], y: Sequence[tuple[float, str]],
        names: tuple[str, str], *marks: Markup,
    ) -> Markup:  # fmt: skip
        """The plot: grid, labels of both axes, their names, and the marks."""
        rise = 18 if names[1] else 0  # room for the name of the upright axis
        middle = f"{LEFT + (self.width - LEFT - RIGHT) / 2:.0f}"
        parts = [
            *(self._across(value, label) for value, label in y),
            *(self._below(value, label) for value, label in x),
            *marks,
            Markup('<text class="middle name" x="{}" y="{}">{}</text>').format(
                middle, self.height - 6, names[0]
            ),
            Markup('<text class="name" x="0" y="-6">{}</text>').format(names[1]),
        ]  # fmt: skip
        return Markup(
            '<svg class="plot" viewBox="0 {} {} {}" role="img" aria-label="{}">{}</svg>'
        ).format(-rise, self.width, self.height + rise, what, Markup("").join(parts))

    def _across(self, value: float, label: str) -> Markup:
        x, y = self.at(self.x[0], value)
        return Markup(
            '<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/>'
            '<text class="end" x="{}" y="{}">{}</text>'
        ).format(x, self.width - RIGHT, LEFT - 7, float(y) + 4, label, y=y)

    def _below(self, value: float, label: str) -> Markup:
        x, _ = self.at(value, self.y[0])
        return Markup('<text class="middle" x="{}" y="{}">{}</text>').format(
            x, self.height - BOTTOM + 18, label
        )


def calibration(points: Iterable[Mapping[str, Any]], what: str, up: str) -> Markup:
    """What is `up`, the share right or the mean label, against stated confidence; the diagonal is
    perfect."""
    frame = Frame((0.5, 1.0), (0.0, 1.0), height=300)
    marks = [frame.line([(0.5, 0.5), (1, 1)], "diagonal")]
    marks += [_calibrated(frame, point["confidence"], point["accuracy"]) for point in points]
    scale = [(v / 10, f"{10 * v}%") for v in (5, 6, 7, 8, 9, 10)]
    shares = [(v / 4, f"{25 * v}%") for v in range(5)]
    return frame.drawn(what, scale, shares, ("stated probability", up), *marks)


def _calibrated(frame: Frame, confidence: float, share: Share) -> Markup:
    x, y = frame.at(confidence, share["value"])
    radius = min(2.5 + math.sqrt(share["n"]) / 3, 9)
    low, high = share.get("low"), share.get("high")
    whisker = Markup("")
    if low is not None and high is not None:
        whisker = frame.upright(confidence, low, high)
    return Markup(
        '<g class="label">{}<circle cx="{}" cy="{}" r="{:.1f}"/><title>{}</title></g>'
    ).format(whisker, x, y, radius, _said(f"stated {100 * confidence:.0f}%", share))


def rounds(series: Mapping[str, Sequence[Share]], what: str) -> Markup:
    """Shares after each round, with whiskers."""
    n = max(len(points) for points in series.values())
    frame = Frame((-0.3, n - 0.7), (0.0, 1.0), width=440)
    marks = []
    for name, points in series.items():
        known = [(i, p) for i, p in enumerate(points) if p.get("value") is not None]
        line = frame.line([(i, p["value"]) for i, p in known], "trend")
        dots = Markup("").join(_dot(frame, name, i, p) for i, p in known)
        marks.append(Markup('<g class="{}">{}{}</g>').format(name, line, dots))
    below = [(i, "draft" if not i else f"{i}") for i in range(n)]
    up = [(v / 4, f"{25 * v}%") for v in range(5)]
    return frame.drawn(what, below, up, ("round of critique and revision", ""), *marks)


def _dot(frame: Frame, name: str, i: int, share: Share) -> Markup:
    x, y = frame.at(i, share["value"])
    return Markup('<g>{}<circle cx="{}" cy="{}" r="4"/><title>{}</title></g>').format(
        frame.upright(i, share["low"], share["high"]), x, y, _said(f"{name}, round {i}", share)
    )


def loss(points: Sequence[tuple[float, float]], what: str) -> Markup:
    """A figure over training steps: every step faint, a running mean strong."""
    steps, values = [x for x, _ in points], [y for _, y in points]
    low, high = min(values), max(values)
    pad = (high - low) * 0.06 or 0.05
    frame = Frame((steps[0], steps[-1]), (low - pad, high + pad), width=250, height=180)
    smooth = _smoothed(points)
    middle = (low + high) / 2
    x = [(steps[0], f"{steps[0]:g}"), (steps[-1], f"{steps[-1]:g}")]
    digits = 2 if high - low > 0.05 else 4
    y = [(v, f"{v:.{digits}f}") for v in ((low, middle, high) if high > low else (low,))]
    marks = (frame.line(points, "faint"), frame.line(smooth, "strong"))
    return frame.drawn(what, x, y, ("step", ""), *marks)


def _smoothed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Running mean over a tenth of the points."""
    half = max(len(points) // 20, 1)
    out = []
    for i, (x, _) in enumerate(points):
        near = [y for _, y in points[max(i - half, 0) : i + half + 1]]
        out.append((x, sum(near) / len(near)))
    return out
