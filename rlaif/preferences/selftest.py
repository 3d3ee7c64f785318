"""The self-test before anything is sent: a judge whose opinion is known must be recovered.

A planted judge reads the rendered prompts and answers with known probabilities: how much it likes
each answer under each principle, plus a taste for the first place. It goes through the very code
and templates that ask the real judge. What must come back, and does only if answers, principle and
label stand where they should:

- pairwise, with d = s(a) - s(b) and the bias t, both in logits: orders sigmoid(d + t) and
  sigmoid(d - t), and their mean as target. The bias cancels in the mean of the two logits, which is
  d; the mean of the probabilities is on the right side of 0.5 for any t, and nearer to it;
- pointwise, with v the logit of Yes and t a taste for Yes: sigmoid((v(b) - v(a)) / scale), from
  which t is gone altogether (as long as no v meets the floor);
- either way, swapping a and b turns every target into 1 - target.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NoReturn

from rlaif.calibration import logit, sigmoid
from rlaif.config.run import PreferencesConfig
from rlaif.constitution import Constitution, Principle
from rlaif.engine import Model, ScriptedEngine
from rlaif.errors import ConfigError
from rlaif.preferences.judging import Group, Method, labelled, rationales
from rlaif.preferences.pairs import Candidates, Drawn, pairs
from rlaif.records import Call, Message, Pair, Prompt, Verdict
from rlaif.templates import Templates

REQUEST = "Planted request: which of the planted answers is it?"
LIKED = {"one": -1.25, "two": 0.5, "three": 2.0}
"""How much the planted judge likes each planted answer, in logits."""

ANSWERS = {f"Planted answer {name} begins, {'and goes on, ' * 300}ends {name}.": liked
           for name, liked in LIKED.items()}  # fmt: skip
TURNS = {"self-test-follows": 1.0, "self-test-opposes": -0.6}
"""By planted principle, what the liking is multiplied with."""

BIAS = 0.75
MASS = 0.8  # of the probability falls on the two labels
CLOSE = 1e-9

MethodOf = Callable[[PreferencesConfig, Constitution, Templates, int], Method]


def check(
    method_of: MethodOf,
    config: PreferencesConfig,
    constitution: Constitution,
    templates: Templates,
    seed: int,
) -> None:
    """Ask the planted judge, and compare.

    Raises:
        ConfigError: what comes back is not what was planted; it names the template.
    """
    every = config.model_copy(update={"principles": 0, "max_pairs": None})
    method = method_of(every, _planted(constitution), templates, seed)
    judge = _Judge(config, templates)
    straight = list(_groups(method, seed))
    swapped = [replace(g, pairs=tuple(pair.swap() for pair in g.pairs)) for g in straight]
    there, back = (list(_asked(method, judge, groups)) for groups in (straight, swapped))
    if len(there) != math.comb(len(ANSWERS), 2) or len(back) != len(there):
        judge.fail("pairs are lost")
    for pair, other in zip(there, back, strict=True):
        _compare(pair, other, judge, config)


def _planted(constitution: Constitution) -> Constitution:
    """The constitution with its principles switched off (its examples stay) and ours added."""
    off = [p.model_copy(update={"weight": 0.0}) for p in constitution.principles]
    ours = [
        Principle(id=id, critique=(_wording(id),), revise=(_wording(id),), prefer=(_wording(id),))
        for id in TURNS
    ]
    principles, examples = (*off, *ours), constitution.examples
    return Constitution(id="self-test", version="1", principles=principles, examples=examples)


def _wording(id: str) -> str:
    return f"Planted principle {id}: what does it say?"


def _groups(method: Method, seed: int) -> Iterator[Group]:
    prompt = Prompt("self-test", (Message("user", REQUEST),))
    row = Candidates(prompt, tuple(Drawn(text) for text in ANSWERS))
    yield from method.groups(prompt, pairs(row, seed=seed))


def _asked(method: Method, judge: _Judge, groups: list[Group]) -> Iterator[Pair]:
    model = Model.of(ScriptedEngine(judge, identity="planted"))
    written = list(rationales(method, model, groups)) if method.writes_first else None
    yield from labelled(method, model, groups, iter(written) if written is not None else None)


def _compare(pair: Pair, other: Pair, judge: _Judge, config: PreferencesConfig) -> None:
    """One pair and its mirror image, with what was planted."""
    read = [v for v in (*pair.verdicts, *other.verdicts) if v.target is not None]
    if pair.target is None or other.target is None or len(read) != 2 * len(TURNS):
        judge.fail("a label that was planted came back as unlabelled")
    if abs(pair.target + other.target - 1) > CLOSE:
        judge.fail("swapping the two answers does not turn the label round")
    for verdict in pair.verdicts:
        orders, target = expected(pair, verdict, config)
        found = (*verdict.orders, verdict.target or 0.0)
        if any(abs(x - y) > CLOSE for x, y in zip(found, (*orders, target), strict=True)):
            judge.fail(
                f"a label came back as {verdict.target:.4f} that was planted as {target:.4f}"
            )


def expected(
    pair: Pair, verdict: Verdict, config: PreferencesConfig
) -> tuple[tuple[float, float], float]:
    """What the orders and the target of a verdict must be (see the module's docstring)."""
    turn = TURNS[verdict.principle]
    a, b = turn * ANSWERS[pair.a], turn * ANSWERS[pair.b]
    low, high = config.clamp or (0.0, 1.0)
    if config.method == "pairwise":
        first, second = (min(max(sigmoid(a - b + t), low), high) for t in (BIAS, -BIAS))
        return (first, second), (first + second) / 2
    most = logit(1 - config.floor) if config.floor else math.inf
    yes_a, yes_b = (min(max(BIAS - liked, -most), most) for liked in (a, b))
    target = min(max(sigmoid((yes_b - yes_a) / config.scale), low), high)
    return (sigmoid(BIAS - a), sigmoid(BIAS - b)), target


class _Judge:
    """Says how likely each label is, from nothing but the prompt as it was rendered."""

    def __init__(self, config: PreferencesConfig, templates: Templates) -> None:
        self._pairwise = config.method == "pairwise"
        self._writes = config.reasoning or config.weigh_critique
        self._folder, self._template = templates.folder, "prefer"

    def __call__(self, call: Call) -> str | tuple[float, float]:
        self._template = self._of(call)
        prompt = "\n".join(message.content for message in call.messages)
        if REQUEST not in prompt:
            self.fail("the last turn of the conversation is not in the prompt")
        shown = self._shown(prompt)
        turn = self._turn(prompt)
        written = f"Planted rationale on {turn} and {shown}."
        if not call.labels:
            return written
        if self._writes and written not in prompt:
            self.fail("the prompt for the label does not hold what the judge wrote before")
        p = sigmoid(
            turn * (shown[0] - shown[1]) + BIAS if self._pairwise else BIAS - turn * shown[0]
        )
        return MASS * p, MASS * (1 - p)

    def _of(self, call: Call) -> str:
        if self._pairwise:
            return "prefer_reasoned" if self._writes else "prefer"
        return "violates" if call.labels else "critique"

    def _shown(self, prompt: str) -> list[float]:
        """How much the answers are liked that the prompt shows whole, in their order."""
        places = sorted((prompt.find(text), liked) for text, liked in ANSWERS.items())
        shown = [liked for place, liked in places if place >= 0]
        wanted = 2 if self._pairwise else 1
        if len(shown) != wanted:
            self.fail(f"the prompt shows {len(shown)} of {wanted} responses, whole and unchanged")
        return shown

    def _turn(self, prompt: str) -> float:
        asked = [turn for id, turn in TURNS.items() if _wording(id) in prompt]
        if len(asked) != 1:
            self.fail("the principle is not in the prompt")
        return asked[0]

    def fail(self, what: str) -> NoReturn:
        """Stop the stage.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"the self-test of the labels failed: {what}",
            where=str(self._folder / f"{self._template}.j2"),
            remedy="show the conversation, each response whole (response_a before response_b), the "
            "principle and, if there is one, what the judge wrote, as the shipped template does; "
            "if it is the shipped one, the code that labels is broken: please report it",
        )
