"""The probe: what the policy says to held-out prompts, with the same seeds each time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from accelerate import Accelerator

from rlaif.config.policy import RewardsConfig
from rlaif.evaluation.truth import Reader
from rlaif.policy.ppo.batches import Ids
from rlaif.policy.ppo.curves import Row, Totals
from rlaif.policy.ppo.prompts import Asked
from rlaif.policy.ppo.rollouts import Engine, Request, seed_of
from rlaif.policy.ppo.wires import Wires
from rlaif.policy.rewards import Rewards
from rlaif.policy.rewards.moments import Moments


class Gauge:
    """The reward in units that stay: standard deviations of the start model's held-out answers.

    The normaliser of the training follows the policy, so its own units do not say whether the
    reward rises. Without normalisation it is the plain sum.
    """

    def __init__(self, config: RewardsConfig) -> None:
        self._config = config
        self.weights = {model.name: model.weight for model in config.models}
        if config.judge:
            self.weights["judge"] = config.judge.weight
        self._moments: dict[str, Moments] | None = None

    def read(self, found: Mapping[str, float]) -> float:
        """The mean reward of answers, from the means of `Totals.rewards`."""
        total = -found.get("reward/length_penalty", 0.0)
        for name, weight in self.weights.items():
            value = found[f"reward/{name}"]
            if self._config.normalise and self._moments:
                value = self._moments[name].standard(value)
            total += weight * value
        return total

    def set(self, state: Mapping[str, Any]) -> None:
        """Take the units from a normaliser's state; they are set once."""
        self._moments = {name: Moments(*found) for name, found in state["moments"].items()}

    def state(self) -> dict[str, Any] | None:
        """As JSON, for exact resume."""
        if self._moments is None:
            return None
        return {"moments": {name: found.state() for name, found in self._moments.items()}}


def first_and_last(rows: Sequence[Row]) -> dict[str, Row] | None:
    """The figures of the first and the last probe by their short names, of the rows of the curves;
    None where there was no probe."""
    probes = [row for row in rows if "probe/reward" in row]
    if not probes:
        return None
    return {"first": _of_probe(probes[0]), "last": _of_probe(probes[-1])}


def _of_probe(row: Row) -> Row:
    found = {n.removeprefix("probe/"): v for n, v in row.items() if n.startswith("probe/")}
    return {"step": row["step"], **found}


class Probe:
    """Held-out prompts of this process."""

    def __init__(
        self,
        asked: Sequence[Asked],
        engine: Engine,
        rewards: Rewards,
        gauge: Gauge,
        decode: Callable[[Ids], str],
        truth: Reader | None,
        accelerator: Accelerator,
        seed: int,
    ) -> None:
        mine = slice(accelerator.process_index, None, accelerator.num_processes)
        self._asked, self._engine, self._accelerator = asked[mine], engine, accelerator
        self._rewards, self._gauge, self._decode, self._truth = rewards, gauge, decode, truth
        requests = [Request(ids, seed_of(seed, "probe", p.id)) for p, ids in asked]
        short = -len(asked) % accelerator.num_processes  # so many processes have one less
        self._requests = (requests + requests[:1] * short)[mine]

    def added(self, row: Row, wires: Wires, keep: Callable[[int], None]) -> Row:
        """The row with the probe's figures, which the wires have seen; `keep` is called with its
        step if the policy is the best yet."""
        found, quality = self.measure()
        row = row | {name: value for name, value in found.items() if not math.isnan(value)}
        if wires.probe(row, quality):
            keep(int(row["step"]))
        return row

    def measure(self) -> tuple[Row, float]:
        """Figures of the answers, named `probe/...`, and the quality: the share of good answers
        where somebody knows the truth, else the reward. The normaliser is left as it was."""
        drawn = self._engine.draw(self._requests) if self._requests else []
        drawn = drawn[: len(self._asked)]
        answers = [self._decode(d.tokens) for d in drawn]
        totals, n = Totals(), len(drawn)
        totals.rewards(self._scored(answers, [d.tokens for d in drawn]))
        totals.add("length", sum(len(d.tokens) for d in drawn), n)
        self._read(answers, totals)
        found = totals.means(self._accelerator)
        if self._gauge.state() is None:
            self._gauge.set(self._seen)
        found = {"reward": self._gauge.read(found), **found}
        quality = found.get("good", math.nan)
        named = {f"probe/{name}": value for name, value in found.items()}
        return named, found["reward"] if math.isnan(quality) else quality

    def _scored(self, answers: Sequence[str], tokens: Sequence[Ids]) -> Mapping[str, Any]:
        prompts = [prompt for prompt, _ in self._asked]
        ids = [asked + said for (_, asked), said in zip(self._asked, tokens, strict=True)]
        with self._rewards.measuring():
            self._rewards.score(prompts, answers, ids, [len(t) for t in tokens])
            self._seen = self._rewards.state()
        return dict(self._rewards.batch)

    def _read(self, answers: Sequence[str], totals: Totals) -> None:
        """What the truth is of each answer, where it is known."""
        if self._truth is None:
            return
        for name in ("good", "violations", "helpful"):
            totals.add(name, 0.0, 0)  # every process has the same figures, if it knows them or not
        for (prompt, _), answer in zip(self._asked, answers, strict=True):
            if found := self._truth(prompt, answer):
                good = found["well_formed"] and not found["violations"]
                totals.add("good", float(good and found["helpful"] is not False), 1)
                totals.add("violations", float(bool(found["violations"])), 1)
                totals.add("helpful", float(found["helpful"] or 0), found["helpful"] is not None)
