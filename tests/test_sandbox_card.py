"""The card: a flawless model scores 100% everywhere, a useless one what chance gives."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest

from rlaif.engine import ScriptedEngine
from rlaif.intervals import Share
from rlaif.records import Call, Reason, Unanswered
from rlaif.sandbox import oracle, skills, wording, world
from rlaif.sandbox.card import measure
from rlaif.sandbox.world import PRINCIPLES

WORDED = {
    text: principle
    for task in ("critique", "revise", "prefer")
    for principle in PRINCIPLES
    for text in wording.shipped(task, principle)
}


def inside(tag: str, prompt: str) -> str:
    found = re.search(f"<{tag}>\n(.*?)\n</{tag}>", prompt, re.DOTALL)
    return found[1] if found else ""


def asked_principle(prompt: str) -> str:
    return next(p for text, p in WORDED.items() if f": {text}\n" in prompt)


def flawless(call: Call) -> str | tuple[float, float]:
    """What a model would say that never errs and whose drafts show the usual faults."""
    prompt = next(m.content for m in call.messages if m.role == "user")
    rng = random.Random(f"{prompt}/{call.sample}")
    if "<conversation>" not in prompt:
        asked = oracle.parse_request(prompt)
        return world.said(world.response(rng, asked, world.base_faults(rng, asked)))
    asked = oracle.parse_request(inside("conversation", prompt).removeprefix("User: "))
    principle = asked_principle(prompt)
    guilty = {
        tag: principle in oracle.read(asked, inside(tag, prompt)).violations
        for tag in ("response", "response_a", "response_b")
    }
    if call.labels == ("A", "B"):
        return (0.01, 0.99) if guilty["response_a"] else (0.99, 0.01)
    if call.labels:
        return (0.99, 0.01) if guilty["response"] else (0.01, 0.99)
    if "<response_a>" in prompt:
        return "(A) ... (B) ... "
    given = oracle.parse(inside("response", prompt))
    if "Revision request" in prompt:
        return world.said(world.revised(rng, asked, given, principle))
    return skills.critique(asked, given, principle)


def test_a_flawless_model_scores_all() -> None:
    found = measure(ScriptedEngine(flawless), n=2, drafts=60).json()
    assert 0.5 < found["violations"]["value"] < 0.8
    assert found["well_formed"]["value"] == 1
    for tier in (found, found["own"], found["unseen"]):
        for group in ("critique", "revision", "judge"):
            assert tier[group]
            for figure, share in tier[group].items():
                assert share["value"] == 1, (group, figure)
                assert share["n"] > 0
    assert found["unanswered"] == 0
    cells = found["by_cell"]["critique.no_fault"]
    assert {c.split("/")[0] for c in cells} == set(PRINCIPLES)
    assert {c.split("/")[1] for c in cells} == {"benign", "harmful"}
    json.dumps(found)


def test_a_model_that_says_one_thing_scores_as_little_as_it_knows() -> None:
    engine = ScriptedEngine(lambda call: (0.6, 0.4) if call.labels else skills.NO_FAULT)
    found = measure(engine, n=2, drafts=10).json()
    assert found["well_formed"]["value"] == 0
    assert found["helpfulness"]["value"] == 0
    assert found["critique"]["verdict"]["value"] == 0
    assert found["critique"]["no_fault"]["value"] == 1
    assert found["revision"]["fixed"]["value"] == 0
    assert found["judge"]["pairwise_one_order"]["value"] == 0.5
    assert found["judge"]["pairwise"]["value"] == 0
    assert found["judge"]["pointwise"]["value"] == 0


def test_calls_without_an_answer_are_counted_and_never_scored() -> None:
    def script(call: Call) -> str | tuple[float, float] | Unanswered:
        if call.labels:
            return Unanswered(Reason.NOT_A_NUMBER, "null")
        return flawless(call)

    found = measure(ScriptedEngine(script), n=1, drafts=10).json()
    assert "judge" not in found
    assert found["unanswered"] > 0


def test_the_same_card_is_asked_twice() -> None:
    first, second = ScriptedEngine(flawless), ScriptedEngine(flawless)
    measure(first, n=1, drafts=5)
    measure(second, n=1, drafts=5)
    assert first.asked == second.asked


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    # Published values of the 95% Wilson score interval.
    [(0, 10, 0.0, 0.277533), (5, 10, 0.236593, 0.763407), (95, 100, 0.888250, 0.978456)],
)
def test_intervals_are_wilsons(hits: int, n: int, low: float, high: float) -> None:
    assert Share(hits, n).interval == pytest.approx((low, high), abs=1e-6)


def test_the_page_beside_the_model_has_the_commands_own_numbers_of_cases() -> None:
    from rlaif.cli.sandbox import card
    from rlaif.sandbox.seed_model import FOLDER

    asked: dict[Any, Any] = {option.name: option.default for option in card.params}
    page = (FOLDER / "README.md").read_text("utf-8")
    assert re.search(rf"\| violations \| .* \| {2 * asked['drafts']} \|", page)
    assert re.search(rf"\| advert/benign \| \d+/{asked['cases']} ", page)


def test_an_empty_share_has_no_value() -> None:
    empty = Share(0, 0)
    assert empty.json() == {"value": None, "low": None, "high": None, "n": 0}
    assert str(empty) == "none measured"
