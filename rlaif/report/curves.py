"""The curves of a training, and those of a policy that learned from its own answers as plots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlaif.jsonl import rows
from rlaif.report import plots
from rlaif.report.data import Finished

TITLES = {
    "reward": "Reward, in standard deviations of the start",
    "probe/reward": "Reward on held-out prompts",
    "probe/violations": "Violations on held-out prompts, by the oracle",
    "probe/helpful": "Helpful on held-out prompts, by the oracle",
    "kl": "KL to the reference, nats an answer",
    "reward_after_kl": "Reward after the cost of KL",
    "entropy": "Entropy, nats a token",
    "length": "Length, tokens an answer",
    "eos_rate": "Share of answers that end",
    "policy_loss": "Loss of the policy",
    "value_loss": "Loss of the critic",
    "explained_variance": "Variance that the critic explains",
    "clip_fraction": "Share clipped: of tokens, with RLOO of answers",
    "approx_kl": "KL of one update, nats a token",
    "mismatch": "Trainer and engine apart, nats a token",
    "beta": "Beta, cost of a nat",
}
"""Figures of curves.jsonl in the order in which they are shown."""

KINDS = ("ppo", "grpo", "rloo")
"""The kinds of policy that learn from their own answers in one training."""


def panel(run: Finished) -> dict[str, Any]:
    """A plot for each figure that the policy's curves have, by its title; none for other kinds."""
    path = run.folder / "policy" / "curves.jsonl"
    if "policy" not in run.stages or run.config.get("policy", {}).get("kind") not in KINDS:
        return {}
    found = {title: curve(path, name) for name, title in TITLES.items()}
    return {title: plots.loss(points, title) for title, points in found.items() if len(points) > 1}


def curve(path: Path, name: str) -> list[tuple[float, float]]:
    """A figure over the steps of a training (curves.jsonl), at most some 400 points."""
    if not path.is_file():
        return []
    points = [
        (float(row["step"]), float(row[name]))
        for row in rows(path, dict[str, Any])
        if _number(row, "step") and _number(row, name)
    ]
    return points[:: max(len(points) // 400, 1)]


def _number(row: Mapping[str, Any], name: str) -> bool:
    value = row.get(name)
    return isinstance(value, (int, float)) and value == value and abs(value) != float("inf")
