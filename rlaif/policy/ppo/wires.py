"""Tripwires: when a training has gone wrong and should stop, and which probe it goes back to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rlaif.config.policy import TripwireConfig


@dataclass(frozen=True, slots=True)
class Tripped:
    """Which wire, after which batch, and why in one sentence."""

    wire: str
    step: int
    why: str


@dataclass(slots=True)
class Best:
    """The best probe yet. `reward` is the training's at that time; None until it is known."""

    step: int
    quality: float
    reward: float | None


@dataclass(slots=True)
class Wires:
    """Watches the rows of the curves, until one of them has `tripped`; its state is plain JSON."""

    config: TripwireConfig
    first: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    best: Best | None = None
    tripped: Tripped | None = None

    def batch(self, row: Mapping[str, float]) -> None:
        """Look at a batch: `entropy`, `length`, `reward`, and `kl` where it is known."""
        for name in ("entropy", "length"):
            self.first.setdefault(name, row[name])
        if self.best and self.best.reward is None and math.isfinite(row["reward"]):
            self.best.reward = row["reward"]
        self._look(int(row["step"]), self._of_batch(row))

    def probe(self, row: Mapping[str, float], quality: float) -> bool:
        """Look at a probe after a batch (or before all): is it the best yet?

        A policy whose last batch was beyond a limit is never the best, nor is one whose quality
        (NaN) nobody knows.
        """
        if not math.isfinite(quality):
            return False
        step, reward = int(row["step"]), row.get("reward")
        within = not any(n for wire, n in self.counts.items() if wire != "divergence")
        if self.best is None or (within and quality > self.best.quality):
            self.best = Best(step, quality, reward)
            self.counts["divergence"] = 0
            return True
        if self.config.divergence is None or reward is None or self.best.reward is None:
            return False
        lost = self.best.quality - quality
        apart = reward > self.best.reward and lost >= self.config.divergence
        why = (
            f"the reward rose from {self.best.reward:.2f} to {reward:.2f} while the held-out "
            f"quality fell from {self.best.quality:.2f} to {quality:.2f}"
        )
        self._look(step, [("divergence", apart, why)])
        return False

    def stopped(self) -> dict[str, Any] | None:
        """For the metrics: which wire stopped the training, and the step that it went back to."""
        back_to = self.best.step if self.best else None
        return {**asdict(self.tripped), "back_to": back_to} if self.tripped else None

    def state(self) -> dict[str, Any]:
        """As JSON, for exact resume."""
        best = asdict(self.best) if self.best else None
        tripped = asdict(self.tripped) if self.tripped else None
        return {"first": self.first, "counts": self.counts, "best": best, "tripped": tripped}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`."""
        self.first, self.counts = dict(state["first"]), dict(state["counts"])
        self.best = Best(**state["best"]) if state["best"] else None
        self.tripped = Tripped(**state["tripped"]) if state["tripped"] else None

    def _of_batch(self, row: Mapping[str, float]) -> Iterator[tuple[str, bool, str]]:
        limits = self.config
        if limits.kl is not None and "kl" in row:
            why = f"KL to the reference is {row['kl']:.1f} nats an answer, the budget {limits.kl:g}"
            yield "kl", row["kl"] > limits.kl, why
        if limits.entropy is not None:
            before, now = self.first["entropy"], row["entropy"]
            why = f"the entropy of a token fell from {before:.3f} to {now:.3f} nats"
            yield "entropy", now < limits.entropy * before, why
        if limits.length is not None:
            before, now = self.first["length"], row["length"]
            away = not before / limits.length <= now <= before * limits.length
            yield "length", away, f"answers went from {before:.0f} to {now:.0f} tokens"

    def _look(self, step: int, found: Iterable[tuple[str, bool, str]]) -> None:
        for wire, beyond, why in found:
            self.counts[wire] = self.counts.get(wire, 0) + 1 if beyond else 0
            if self.counts[wire] >= self.config.patience and not self.tripped:
                self.tripped = Tripped(wire, step, why)
