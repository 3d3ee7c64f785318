"""What the card asks the seed model: balanced cases, drawn from the world or by the model.

Every case is drawn by a seed of its own, so that a second card asks the same questions. A tier says
what is unseen about its cases; topics are held out from training in every tier.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from rlaif.sandbox import oracle, world
from rlaif.sandbox.wording import N_UNSEEN, Task, shipped
from rlaif.sandbox.world import PRINCIPLES, Request, said


@dataclass(frozen=True, slots=True)
class Tier:
    """A set of cases: with wordings, or pairs of fault and object, that training never showed."""

    name: str
    unseen_wordings: bool = False
    unseen_combinations: bool = False


WORLD = Tier("world")
OWN = Tier("own samples")
UNSEEN = (Tier("wordings", unseen_wordings=True), Tier("combinations", unseen_combinations=True))


@dataclass(frozen=True, slots=True)
class Case:
    """One response to one request under one principle, and whether it shows the fault."""

    asked: Request
    text: str
    principle: str
    guilty: bool

    @property
    def cell(self) -> str:
        return f"{self.principle}/{'harmful' if self.asked.harmful else 'benign'}"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two responses to one request; the first shows the principle's fault, the second does not."""

    asked: Request
    guilty: str
    innocent: str
    principle: str


def requests(n: int, seed: str = "card") -> list[Request]:
    """`n` requests on held-out topics."""
    return [world.request(random.Random(f"{seed}/{i}"), unseen=True) for i in range(n)]


def words(tier: Tier, task: Task, principle: str, key: str) -> str:
    """One of the wordings that `constitution/sandbox.yaml` ships, of the tier's kind."""
    ways = shipped(task, principle)
    return random.Random(key).choice(ways[-N_UNSEEN:] if tier.unseen_wordings else ways[:-N_UNSEEN])


def cases(tier: Tier, n: int) -> Iterator[Case]:
    """`n` cases for each principle, request type and verdict that can be."""
    for principle in PRINCIPLES:
        for harmful in (False, True):
            for guilty in (True, False):
                for i in range(n):
                    rng = random.Random(f"{tier.name}/{principle}/{harmful}/{guilty}/{i}")
                    if asked := _request(rng, tier, principle, harmful, guilty):
                        yield Case(
                            asked, _response(rng, asked, principle, guilty), principle, guilty
                        )


def pairs(tier: Tier, n: int) -> Iterator[Pair]:
    """`n` untied pairs for each principle and request type that can be."""
    for principle in PRINCIPLES:
        for harmful in (False, True):
            for i in range(n):
                rng = random.Random(f"pair/{tier.name}/{principle}/{harmful}/{i}")
                if asked := _request(rng, tier, principle, harmful, guilty=True):
                    bad, good = (_response(rng, asked, principle, g) for g in (True, False))
                    yield Pair(asked, bad, good, principle)


def own_cases(drafts: list[tuple[Request, str]], n: int) -> Iterator[Case]:
    """Cases from the model's own answers: at most `n` a principle, request type and verdict."""
    left: dict[tuple[str, bool], int] = {}
    for i, (asked, text) in enumerate(drafts):
        reading = oracle.read(asked, text)
        for principle in random.Random(f"own/{i}").sample(PRINCIPLES, len(PRINCIPLES)):
            case = Case(asked, text, principle, principle in reading.violations)
            key = (case.cell, case.guilty)
            if left.setdefault(key, n) > 0:
                left[key] -= 1
                yield case


def own_pairs(drafts: list[tuple[Request, str]], n: int) -> Iterator[Pair]:
    """Untied pairs among the model's own answers to one request: at most `n` for each principle."""
    left: dict[str, int] = dict.fromkeys(PRINCIPLES, n)
    answers: dict[str, list[tuple[Request, str]]] = {}
    for asked, text in drafts:
        answers.setdefault(asked.text, []).append((asked, text))
    for (asked, a), (_, b) in (pair[:2] for pair in answers.values() if len(pair) > 1):
        bad_a, bad_b = (oracle.read(asked, text).violations for text in (a, b))
        for principle in sorted(bad_a ^ bad_b):
            if left[principle]:
                left[principle] -= 1
                yield Pair(asked, *((a, b) if principle in bad_a else (b, a)), principle)


def _request(
    rng: random.Random, tier: Tier, principle: str, harmful: bool, guilty: bool
) -> Request | None:
    """A request whose response can show the fault, if it should; None where it never can."""
    for _ in range(2000):
        asked = world.request(rng, harmful=harmful, unseen=True)
        if guilty and not world.possible(asked, principle):
            return None
        if world.seen_together(asked, principle) != (tier.unseen_combinations and guilty):
            return asked
    return None


def _response(rng: random.Random, asked: Request, principle: str, guilty: bool) -> str:
    """A response that shows the fault or not, and others at their usual rates."""
    while True:
        faults = world.base_faults(rng, asked) - {principle}
        others = {f for f in faults if world.seen_together(asked, f)}
        if guilty:
            others.discard(
                "offtopic"
                if principle == "evasive"
                else "evasive"
                if principle == "offtopic"
                else ""
            )
        wanted = frozenset(others | ({principle} if guilty else set()))
        if len([f for f in wanted if f in world.ADDED]) <= 2:
            return said(world.response(rng, asked, wanted))
