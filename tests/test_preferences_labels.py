"""How labels are made: orders, bias and means against numbers worked by hand; the self-test."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.calibration import sigmoid
from rlaif.config.run import PreferencesConfig
from rlaif.constitution import Constitution, Law, Principle, load
from rlaif.engine import Model, ScriptedEngine
from rlaif.errors import ConfigError
from rlaif.preferences import method_of, selftest
from rlaif.preferences.aggregating import aggregated
from rlaif.preferences.counting import Figures, Tally
from rlaif.preferences.judging import Group, Method, labelled, rationales
from rlaif.preferences.pairs import Candidates, Drawn, pairs
from rlaif.records import Call, Message, Pair, Prompt, Verdict
from rlaif.shipped import folder
from rlaif.templates import Templates

TEMPLATES = Templates(folder("prompts"))
PROMPT = Prompt("p", (Message("user", "Why?"),))
METHODS = [
    {},
    {"reasoning": True},
    {"reasoning": True, "clamp": (0.4, 0.6)},
    {"method": "pointwise", "scale": 2.0},
    {"method": "pointwise", "floor": 0.3},
    {"method": "pointwise", "weigh_critique": True},
]


def principle(id: str, weight: float = 1.0) -> Principle:
    texts = {w: f"{w} by {id}" for w in ("critique", "revise", "prefer")}
    return Principle.model_validate({"id": id, "weight": weight} | texts)


def law(*weights: float) -> Constitution:
    principles = tuple(principle(f"p{n}", weight) for n, weight in enumerate(weights))
    return Constitution(id="law", version="1", principles=principles)


def ask(method: Method, judge: ScriptedEngine, groups: list[Group]) -> list[Pair]:
    model = Model.of(judge)
    written = iter(list(rationales(method, model, groups))) if method.writes_first else None
    return list(labelled(method, model, groups, written))


def grouped(method: Method, *texts: str) -> list[Group]:
    row = Candidates(PROMPT, tuple(Drawn(text) for text in texts))
    return list(method.groups(PROMPT, pairs(row, seed=0)))


# --- orders and bias ------------------------------------------------------------------------------


def whimsical(call: Call) -> str | tuple[float, float]:
    """A judge without reason, but the same to the same question."""
    digest = sha256("".join(m.content for m in call.messages).encode()).digest()
    p = (1 + int.from_bytes(digest[:4], "big")) / (2**32 + 2)
    return (p, 1 - p) if call.labels else f"I feel {p}."


@pytest.mark.parametrize("config", METHODS)
def test_swapping_the_answers_inverts_every_label(config: dict[str, Any]) -> None:
    method = method_of(PreferencesConfig(principles=0, **config), law(1, 2, 3), TEMPLATES, 0)
    groups = grouped(method, *(f"text {n}" for n in range(8)))
    swapped = [replace(g, pairs=tuple(pair.swap() for pair in g.pairs)) for g in groups]
    there, back = (ask(method, ScriptedEngine(whimsical), g) for g in (groups, swapped))
    assert len(there) == 28
    for pair, other in zip(there, back, strict=True):
        assert (pair.a, pair.b) == (other.b, other.a)
        assert pair.target == pytest.approx(1 - (other.target or 0), abs=1e-15)
        for verdict, mirrored in zip(pair.verdicts, other.verdicts, strict=True):
            assert verdict.target == pytest.approx(1 - (mirrored.target or 0), abs=1e-15)
    assert len({pair.target for pair in there}) > 5


@pytest.mark.parametrize(
    ("difference", "bias", "first", "second", "target"),
    [  # sigmoid(1.5), sigmoid(0.5) and their mean; a bias stronger than the difference; none
        (1.0, 0.5, 0.8175744762, 0.6224593312, 0.7200169037),
        (1.0, 3.0, 0.9820137900, 0.1192029220, 0.5506083560),
        (0.0, 2.0, 0.8807970780, 0.1192029220, 0.5),
        (-2.0, 0.0, 0.1192029220, 0.1192029220, 0.1192029220),
    ],
)
def test_averaging_cancels_a_bias_as_far_as_theory_says(
    difference: float, bias: float, first: float, second: float, target: float
) -> None:
    def script(call: Call) -> tuple[float, float]:
        user = call.messages[1].content
        d = difference if user.index("text a") < user.index("text b") else -difference
        return sigmoid(d + bias), sigmoid(-d - bias)

    method = method_of(PreferencesConfig(), law(1), TEMPLATES, 0)
    (pair,) = ask(method, ScriptedEngine(script), grouped(method, "text a", "text b"))
    (verdict,) = pair.verdicts
    orders, label = verdict.orders, pair.target or 0.0
    if pair.a == "text b":  # shown first and second the other way round
        orders, label = (1 - orders[1], 1 - orders[0]), 1 - label
    assert orders == pytest.approx((first, second), abs=1e-9)
    assert label == pytest.approx(target, abs=1e-9)
    cancelled = sum(math.log(p / (1 - p)) for p in orders) / 2
    assert cancelled == pytest.approx(difference, abs=1e-9)


@given(st.floats(-9, 9), st.floats(-9, 9))
def test_no_additive_bias_moves_a_label_past_a_half(difference: float, bias: float) -> None:
    target = (sigmoid(difference + bias) + sigmoid(difference - bias)) / 2
    assert (target - 0.5) * difference >= -1e-15
    assert abs(target - 0.5) <= abs(sigmoid(difference) - 0.5) + 1e-15


# --- several principles ---------------------------------------------------------------------------


def verdicts(*targets: float | None) -> list[Verdict]:
    return [
        Verdict(f"p{n}", t, unlabelled="" if t is not None else f"why{n}")
        for n, t in enumerate(targets)
    ]


def under(weights: Sequence[float], all_asked: bool) -> Group:
    return Group(PROMPT, (), law(*weights).principles, all_asked)


PAIR = Pair("id", PROMPT, "a", "b", None)


def test_all_principles_count_by_weight_and_drawn_ones_alike() -> None:
    asked = verdicts(0.9, 0.5)
    every = aggregated(PAIR, asked, under((3, 1), all_asked=True))
    assert every.target == pytest.approx(0.8)  # (3 * 0.9 + 0.5) / 4
    assert every.spread == pytest.approx(math.sqrt((3 * 0.1**2 + 0.3**2) / 4))
    drawn = aggregated(PAIR, asked, under((3, 1), all_asked=False))
    assert (drawn.target, drawn.spread) == pytest.approx((0.7, 0.2))
    assert drawn.verdicts == tuple(asked)


def test_what_is_unlabelled_does_not_count() -> None:
    some = aggregated(PAIR, verdicts(None, 0.25, None), under((5, 1, 1), all_asked=True))
    assert (some.target, some.spread, some.unlabelled) == (0.25, None, "")
    none = aggregated(PAIR, verdicts(None, None), under((1, 1), all_asked=True))
    assert (none.target, none.spread, none.unlabelled) == (None, None, "why0, why1")


def test_principles_are_drawn_for_the_prompt_by_weight() -> None:
    def drawn(id: str, k: int) -> tuple[tuple[str, ...], bool]:
        judges = Law(law(1, 3, 0), ("prefer",), k=k, seed=0)
        found, every = judges.met(replace(PROMPT, id=id))
        return tuple(p.id for p in found), every

    firsts = [drawn(f"item {n}", 1)[0] for n in range(2000)]
    assert firsts.count(("p1",)) / 2000 == pytest.approx(0.75, abs=0.03)
    assert {drawn(f"item {n}", 1)[1] for n in range(5)} == {False}
    for k in (0, 2, 9):
        found, every = drawn("item", k)
        assert (sorted(found), every) == (["p0", "p1"], True)


# --- figures --------------------------------------------------------------------------------------


def test_figures_of_verdicts_by_hand() -> None:
    figures = Figures()
    for orders in ((0.9, 0.7), (0.6, 0.2), (0.95, 0.85)):
        figures.add(Verdict("p", sum(orders) / 2, orders), f"{orders}", pairwise=True)
    figures.add(Verdict("p", None, unlabelled="refused"), "other", pairwise=True)
    found = figures.json()
    assert (found["n"], found["unlabelled"]) == (3, {"refused": 1})
    assert found["mean_target"] == pytest.approx(0.7)
    assert found["position_bias"] == pytest.approx((0.2 + 0.4 + 0.1) / 3, rel=1e-5)
    assert found["consistent"]["value"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["confident"]["value"] == pytest.approx(2 / 3, abs=1e-4)


def test_verdicts_on_one_prompt_are_no_independent_draws() -> None:
    once, often = Figures(), Figures()
    for i in range(200):
        verdict = Verdict("harm", 0.9, (0.9, 0.9)) if i % 5 else Verdict("harm", 0.6, (0.9, 0.3))
        once.add(verdict, f"{i}", pairwise=True)
        for _ in range(6):
            often.add(verdict, f"{i}", pairwise=True)
    one, other = once.json(), often.json()
    assert other["position_bias"] == pytest.approx(one["position_bias"])
    for name in ("consistent", "confident"):
        assert (one[name]["value"], one[name]["n"], other[name]["n"]) == (0.8, 200, 1200)
        assert other[name]["low"] == pytest.approx(one[name]["low"], abs=1e-3)


def test_a_taste_for_length_is_seen() -> None:
    tally = Tally(pairwise=True)
    for n in range(10):
        tally.pair(Pair("id", PROMPT, "x" * n, "x" * 5, sigmoid(n - 5), spread=0.1))
    assert 0.95 < tally.json()["length_preference"] <= 1
    assert tally.json()["spread"] == pytest.approx(0.1)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 30)), min_size=1, max_size=30))
def test_a_taste_for_length_is_pearsons_of_pairs_and_their_mirror_images(
    judged: list[tuple[float, int]],
) -> None:
    from statistics import correlation, pvariance

    tally, turned, points = Tally(pairwise=True), Tally(pairwise=True), []
    for target, words in judged:
        pair = Pair("id", PROMPT, "x" * words, "x" * 9, target)
        tally.pair(pair)
        turned.pair(pair.swap())
        points += [(target, words - 9), (1 - target, 9 - words)]
    found = tally.json()["length_preference"]
    assert turned.json()["length_preference"] == pytest.approx(found)
    xs, ys = zip(*points, strict=True)
    if min(pvariance(xs), pvariance(ys)) > 1e-6:
        assert found == pytest.approx(correlation(xs, ys), abs=1e-5)


# --- the self-test --------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [*METHODS, {"examples": 2}, {"examples": 2, "reasoning": True},
                                    {"examples": 1, "method": "pointwise"}])  # fmt: skip
def test_the_planted_judge_is_recovered(config: dict[str, Any]) -> None:
    constitution = load(folder("constitution") / "general.yaml")
    for seed in range(3):
        selftest.check(method_of, PreferencesConfig(**config), constitution, TEMPLATES, seed)


@pytest.fixture
def edited(tmp_path: Path) -> Path:
    shutil.copytree(folder("prompts"), tmp_path / "prompts")
    return tmp_path / "prompts"


REASONED, WEIGHED = {"reasoning": True}, {"method": "pointwise", "weigh_critique": True}


@pytest.mark.parametrize(
    ("config", "template", "old", "new", "said"),
    [
        ({}, "prefer", "response_a | f", "response_x | f", "label came back|label round"),
        ({}, "prefer", "response_b | f", "response_a | f", "1 of 2 responses"),
        ({}, "prefer", "response_b | f", "response_b[:500] | f", "1 of 2 responses"),
        ({}, "prefer", "response_a | f", "response_a | upper | f", "1 of 2 responses"),
        ({}, "prefer", "Question: {{ principle }}", "Which is better?", "principle is not in"),
        ({}, "prefer", "conversation | t", "conversation[:0] | t", "last turn"),
        (REASONED, "prefer_reasoned", "response_a | f", "response_x | f", "came back|round"),
        (REASONED, "prefer_reasoned", "{{ reasoning }} The", "The", "what the judge wrote"),
        (WEIGHED, "violates", "{{ critique | f", "{{ '' | f", "what the judge wrote"),
        (WEIGHED, "critique", "response | f", "'' | f", "0 of 1 responses"),
        (WEIGHED, "violates", "{{ principle }}", "", "principle is not in"),
    ],
)
def test_a_broken_template_is_caught_before_anything_is_sent(
    edited: Path, config: dict[str, Any], template: str, old: str, new: str, said: str
) -> None:
    path = edited / f"{template}.j2"
    text = path.read_text()
    assert text.count(old) == 1
    text = text.replace("response_b | f", "response_a | f") if "response_x" in new else text
    path.write_text(text.replace(old, new.replace("response_x", "response_b"), 1))
    with pytest.raises(ConfigError, match=rf"self-test .*({said})") as caught:
        selftest.check(method_of, PreferencesConfig(**config), law(1), Templates(edited), 0)
    assert str(path) in str(caught.value)
    assert "remedy:" in str(caught.value)


def test_a_method_that_confuses_the_orders_is_caught() -> None:
    def confused(*arguments: Any) -> Method:
        method = method_of(*arguments)
        straight = method.questions
        method.questions = lambda group: straight(group)[::-1]  # type: ignore[method-assign]
        return method

    with pytest.raises(ConfigError, match="self-test of the labels failed"):
        selftest.check(confused, PreferencesConfig(), law(1), TEMPLATES, 0)
