"""The stage: answers, pairs and labels, with a judge whose opinion stands in the answers."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rlaif.calibration import Calibration, logit, scaled, sigmoid, temperature
from rlaif.completions import Store, key
from rlaif.config.run import PreferencesConfig
from rlaif.constitution import Constitution, Principle
from rlaif.engine import Model, ScriptedEngine
from rlaif.errors import ConfigError, DataError
from rlaif.jsonl import rows, writing
from rlaif.preferences import Candidates, Rationale, preferences
from rlaif.records import Answer, Call, Message, Outcome, Pair, Prompt, Reason, Unanswered
from rlaif.shipped import folder
from rlaif.templates import Templates

TEMPLATES = Templates(folder("prompts"))
WORTH = re.compile(r"worth (-?[0-9.]+)!")
Script = Callable[[Call], Any]


def principle(id: str, **others: Any) -> Principle:
    texts = {w: f"{w} by {id}" for w in ("critique", "revise", "prefer")}
    return Principle.model_validate({"id": id} | texts | others)


def law(*principles: Principle) -> Constitution:
    return Constitution(id="law", version="1", principles=principles or (principle("one"),))


def answer_by_lot(call: Call) -> str:
    """An answer whose worth in logits is a function of the question."""
    worth = random.Random(f"{call.messages}{call.sample}").gauss(0, 1.5)
    return f"An answer worth {worth:.3f}!"


def worths(call: Call) -> list[float]:
    """How much the answers are worth that the judge is shown, in order."""
    user = next(m.content for m in reversed(call.messages) if m.role == "user")
    return [float(worth) for worth in WORTH.findall(user)]


def judge_with(bias: float = 0.0) -> Script:
    """P(A) = sigmoid(worth of the first - worth of the second + bias), or P(Yes) of one."""

    def script(call: Call) -> str | tuple[float, float]:
        shown = worths(call)
        if not call.labels:
            return f"Seen: {shown}."
        logit = shown[0] - shown[1] + bias if len(shown) == 2 else bias - shown[0]
        return 0.9 * sigmoid(logit), 0.9 * sigmoid(-logit)

    return script


@dataclass
class Stage:
    """A run of the stage, and what came of it."""

    folder: Path
    judge: ScriptedEngine
    policy: ScriptedEngine
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def pairs(self) -> list[Pair]:
        return list(rows(self.folder / "pairs.jsonl", Pair))

    @property
    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}


class Run:
    """Runs the stage again and again on the same prompts, each time into a new folder."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path, self.prompts = tmp_path, tmp_path / "prompts"
        self.prompts.mkdir()
        self.write(Prompt(f"p{n}", (Message("user", f"Question {n}?"),)) for n in range(20))

    def write(self, prompts: Iterator[Prompt] | list[Prompt]) -> None:
        with writing(self.prompts / "train.jsonl") as write:
            for prompt in prompts:
                write(prompt)

    def __call__(
        self,
        judge: Script | None = None,
        policy: Script = answer_by_lot,
        *,
        constitution: Constitution | None = None,
        store: Store | None = None,
        templates: Templates = TEMPLATES,
        seed: int = 0,
        **config: Any,
    ) -> Stage:
        into = self.tmp_path / f"run-{len(list(self.tmp_path.iterdir()))}"
        into.mkdir()
        judging = ScriptedEngine(judge or judge_with(), identity="judge")
        stage = Stage(into, judging, ScriptedEngine(policy, identity="policy"))
        stage.metrics = preferences(
            into,
            PreferencesConfig(**config),
            prompts=self.prompts,
            policy=Model.of(stage.policy, store),
            judge=Model.of(stage.judge, store),
            constitution=constitution or law(),
            templates=templates,
            seed=seed,
        )
        json.dumps(stage.metrics, allow_nan=False)
        return stage


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_answers_become_pairs_and_pairs_get_the_judges_probabilities(run: Run) -> None:
    done = run(judge_with(bias=0.5))
    assert len(done.pairs) == done.metrics["labelled"] == 20
    for pair in done.pairs:
        difference = float(WORTH.findall(pair.a)[0]) - float(WORTH.findall(pair.b)[0])
        orders = sigmoid(difference + 0.5), sigmoid(difference - 0.5)
        (verdict,) = pair.verdicts
        assert verdict.orders == pytest.approx(orders)
        assert pair.target == verdict.target == pytest.approx(sum(orders) / 2)
        assert (pair.spread, pair.unlabelled) == (None, "")


def test_a_label_can_be_traced_to_its_calls(run: Run) -> None:
    done = run(reasoning=True, principles=2, constitution=law(principle("one"), principle("two")))
    asked = {key("judge", call).hex(): call for call in done.judge.asked}
    drawn = {key("policy", call).hex(): call for call in done.policy.asked}
    assert done.pairs
    for pair in done.pairs:
        assert [answer_by_lot(drawn[call]) for call in pair.calls] == [pair.a, pair.b]
        for verdict in pair.verdicts:
            kinds = [bool(asked[call].labels) for call in verdict.calls]
            assert kinds == [False, True, False, True]
            for call in verdict.calls:
                assert f"prefer by {verdict.principle}" in asked[call].messages[1].content


def test_all_answers_are_drawn_before_the_judge_is_asked(run: Run) -> None:
    log: list[str] = []

    def noting(who: str, script: Script) -> Script:
        return lambda call: (log.append(who), script(call))[1]

    run(noting("judge", judge_with()), noting("policy", answer_by_lot), candidates=3)
    assert log == ["policy"] * 60 + ["judge"] * 120


def test_earlier_turns_are_history_and_seeds_differ(run: Run) -> None:
    turns = (Message("user", "Hi"), Message("assistant", "Yes?"), Message("user", "Why?"))
    run.write([Prompt("p", turns)])
    first, other = run(seed=1).policy.asked, run(seed=2).policy.asked
    assert first[0].messages == turns
    assert [call.sample for call in first] == [0, 1]
    assert {call.sampling.seed for call in first} == {1}
    assert first != other


def test_more_candidates_make_every_pair_and_equal_answers_none(run: Run) -> None:
    texts = "worth 1!", "worth 2!", "worth 1!", "worth 3!"
    done = run(policy=lambda call: texts[call.sample], candidates=4)
    count = {name: done.metrics[name] for name in ("answers", "pairs", "identical", "left_out")}
    assert count == {"answers": 80, "pairs": 60, "identical": 60, "left_out": 0}
    some = run(policy=lambda call: texts[call.sample], candidates=4, max_pairs=2)
    assert (some.metrics["pairs"], some.metrics["left_out"]) == (40, 20)
    assert {p.id for p in some.pairs} < {p.id for p in done.pairs}
    assert len({frozenset((p.a, p.b)) for p in some.pairs}) == 3


def test_the_side_says_nothing_and_ids_are_the_pairs_own(run: Run) -> None:
    run.write(Prompt(f"p{n}", (Message("user", f"Question {n}?"),)) for n in range(400))
    pairs = run(policy=lambda call: ("aa worth 1!", "b worth 0!")[call.sample]).pairs
    first = sum(pair.a.startswith("aa") for pair in pairs)
    assert 160 < first < 240
    again = run(policy=lambda call: ("b worth 0!", "aa worth 1!")[call.sample]).pairs
    assert [(p.id, p.a) for p in again] == [(p.id, p.a) for p in pairs]
    other = run(policy=lambda call: ("aa worth 1!", "b worth 0!")[call.sample], seed=1).pairs
    assert [p.id for p in other] == [p.id for p in pairs]
    assert 160 < sum(x.a == y.a for x, y in zip(pairs, other, strict=True)) < 240


def test_the_limit_takes_the_first_prompts(run: Run) -> None:
    assert [p.prompt.id for p in run(limit=3).pairs] == ["p0", "p1", "p2"]


@pytest.mark.parametrize(
    ("config", "calls"),
    [
        ({}, 3 * 2 * 2),
        ({"method": "pointwise"}, 3 * 2),
        ({"method": "pointwise", "weigh_critique": True}, 3 * 2 * 2),
        ({"reasoning": True}, 3 * 2 * 2 * 2),
    ],
)
def test_calls_for_three_candidates_under_two_principles(
    run: Run, config: dict[str, Any], calls: int
) -> None:
    two = law(principle("one"), principle("two"))
    done = run(candidates=3, principles=0, constitution=two, **config)
    assert done.metrics["labelled"] == 60
    assert Counter(done.judge.asked).most_common(1)[0][1] == 1
    assert len(done.judge.asked) == 20 * calls
    assert done.metrics["calls"]["sent"] == 20 * (calls + 3)
    assert ("rationales.jsonl" in done.files) == (len(config) > 1 or "reasoning" in config)


def test_pointwise_labels_are_the_difference_in_logits(run: Run) -> None:
    done = run(judge_with(bias=-2), method="pointwise", scale=2.0, floor=0.0)
    for pair in done.pairs:
        a, b = (float(WORTH.findall(text)[0]) for text in (pair.a, pair.b))
        assert pair.target == pytest.approx(sigmoid((a - b) / 2))
        assert pair.verdicts[0].orders == pytest.approx((sigmoid(-2 - a), sigmoid(-2 - b)))
    assert done.metrics["verdicts"]["position_bias"] is None
    assert done.metrics["verdicts"]["consistent"]["n"] == 0


def test_two_innocent_answers_get_no_sure_label(run: Run) -> None:
    """Probabilities of 1e-5 and 1e-7 say the same: no fault."""
    sure = run(judge_with(bias=-14), method="pointwise", floor=0.0).pairs
    assert max(abs((pair.target or 0) - 0.5) for pair in sure) > 0.2
    done = run(judge_with(bias=-14), method="pointwise")
    assert {pair.target for pair in done.pairs} == {0.5}
    for pair in done.pairs:  # what the judge really said stays on record
        assert 0 < min(pair.verdicts[0].orders) < max(pair.verdicts[0].orders) < 1e-3


def test_the_label_is_read_behind_the_reasoning_and_clamped(run: Run) -> None:
    done = run(judge_with(bias=3), reasoning=True, clamp=(0.4, 0.6))
    calls = [call for call in done.judge.asked if call.labels]
    for call in calls:
        assert call.messages[-1].content == f"Seen: {worths(call)}. The answer is: ("
    stops = {call.sampling.stop for call in done.judge.asked if not call.labels}
    assert stops == {("The answer is",)}
    assert {order for pair in done.pairs for order in pair.verdicts[0].orders} >= {0.4, 0.6}
    assert all(0.4 <= (pair.target or 0) <= 0.6 for pair in done.pairs)
    written = list(rows(done.folder / "rationales.jsonl", Rationale))
    assert len(written) == done.metrics["rationales"] == 40


def test_a_critique_is_weighed(run: Run) -> None:
    done = run(method="pointwise", weigh_critique=True)
    labelled = [call for call in done.judge.asked if call.labels]
    assert labelled
    for call in labelled:
        assert f"<critique>\nSeen: {worths(call)}.\n</critique>" in call.messages[1].content


def test_both_orders_are_better_than_one_and_can_be_calibrated(run: Run) -> None:
    """Truth drawn by the worths, a judge with a strong taste for the first place."""
    run.write(Prompt(f"p{n}", (Message("user", f"Question {n}?"),)) for n in range(1500))
    done, one = run(judge_with(bias=1.5)), Calibration()
    known: list[tuple[float, bool]] = []
    for pair in done.pairs:
        a, b = (float(WORTH.findall(text)[0]) for text in (pair.a, pair.b))
        truth = random.Random(pair.id).random() < sigmoid(a - b)
        known.append((pair.target or 0, truth))
        for order in pair.verdicts[0].orders:
            one.add(order, truth)
    raw, mended = Calibration(), Calibration()
    t = temperature([(logit(p), truth) for p, truth in known[:750]])
    for p, truth in known[750:]:
        raw.add(p, truth)
        mended.add(scaled(p, t or 0), truth)
    assert (raw.accuracy.value or 0) > (one.accuracy.value or 1) + 0.04
    assert (mended.ece or 1) <= 0.05 < (one.ece or 0)
    assert done.metrics["verdicts"]["position_bias"] > 0.4


# --- what cannot be read --------------------------------------------------------------------------


def broken(outcome: Outcome | str, when: Callable[[Call], bool]) -> Script:
    fine = judge_with()
    return lambda call: outcome if when(call) else fine(call)


def nan(value: float) -> Answer:
    return Answer("A", "length", 1, 1, (value, -1.0))


UNREADABLE: list[tuple[Outcome, str]] = [
    *((Unanswered(reason, "why"), reason.value) for reason in Reason),
    (nan(math.nan), "not_a_number"),
    (nan(-math.inf), "not_a_number"),
    (nan(0.5), "not_a_number"),
    (Answer("A", "length", 1, 1, ()), "not_a_number"),
]


@pytest.mark.parametrize(("outcome", "reason"), UNREADABLE)
@pytest.mark.parametrize("method", ["pairwise", "pointwise"])
def test_one_unreadable_label_leaves_the_pair_unlabelled(
    run: Run, outcome: Outcome, reason: str, method: str
) -> None:
    policy = lambda call: f"worth {call.sample}!"  # noqa: E731
    done = run(broken(outcome, lambda call: worths(call)[0] == 0), policy, method=method)
    for pair in done.pairs:
        assert (pair.target, pair.spread, pair.unlabelled) == (None, None, reason)
        (verdict,) = pair.verdicts
        assert (verdict.target, verdict.orders, verdict.unlabelled) == (None, (), reason)
        assert len(verdict.calls) == 2
    assert done.metrics["unlabelled"] == {reason: 20}
    assert done.metrics["verdicts"]["unlabelled"] == {reason: 20}
    assert (done.metrics["labelled"], done.metrics["pairs"]) == (0, 20)


def test_a_pair_keeps_the_verdicts_that_could_be_read(run: Run) -> None:
    failing = broken(
        Unanswered(Reason.TOO_LONG, ""), lambda call: "by two" in call.messages[1].content
    )
    done = run(failing, principles=0, constitution=law(principle("one"), principle("two")))
    for pair in done.pairs:
        targets = {verdict.principle: verdict.target for verdict in pair.verdicts}
        assert targets == {"one": pair.target, "two": None}
    assert done.metrics["principles"]["two"]["unlabelled"] == {"too_long": 20}
    assert done.metrics["unlabelled"] == {}


@pytest.mark.parametrize("config", [{"reasoning": True},
                                    {"method": "pointwise", "weigh_critique": True}])  # fmt: skip
@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (" \n", "empty"),
        (Answer("It goes on", "length", 1, 1), "length"),
        (Unanswered(Reason.UNAVAILABLE, "503"), "unavailable"),
    ],
)
def test_without_a_rationale_there_is_no_label_and_no_call_for_it(
    run: Run, config: dict[str, Any], outcome: Outcome | str, reason: str
) -> None:
    asked = itertools.count()
    lost = lambda call: not call.labels and next(asked) % 8 > 0  # noqa: E731
    done = run(broken(outcome, lost), **config)
    assert done.metrics["unlabelled"] == {reason: 20}
    assert done.metrics["rationales"] == 5
    assert len([call for call in done.judge.asked if call.labels]) == 5


def test_answers_that_fail_make_no_pair_and_are_counted(run: Run) -> None:
    bad = [Unanswered(Reason.TOO_LONG, ""), Answer("It goes on", "length", 9, 9), "", "worth 1!"]
    done = run(policy=lambda call: bad[call.sample], candidates=4)
    assert done.metrics["unanswered"] == {"empty": 20, "length": 20, "too_long": 20}
    assert (done.metrics["answers"], done.metrics["pairs"], done.pairs) == (20, 0, [])
    row = next(rows(done.folder / "answers.jsonl", Candidates))
    assert [drawn.unanswered for drawn in row.answers] == ["too_long", "length", "empty", ""]


def test_where_no_principle_applies_a_pair_says_so(run: Run) -> None:
    done = run(constitution=law(principle("one", applies_to=["other"])))
    assert done.metrics["unlabelled"] == {"no_principle": 20}
    assert done.judge.asked == []
    silent = law(principle("one", prefer=[]), principle("two", critique=[], revise=[]))
    pairwise = run(constitution=silent, principles=0)
    assert {v.principle for pair in pairwise.pairs for v in pair.verdicts} == {"two"}
    with pytest.raises(ConfigError, match="pointwise labels need one"):
        run(constitution=silent, principles=0, method="pointwise")


# --- paid once ------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [{}, {"reasoning": True}, {"method": "pointwise"}])
def test_a_second_identical_run_sends_nothing_and_writes_the_same(
    run: Run, config: dict[str, Any]
) -> None:
    with Store(run.tmp_path / "store.sqlite3") as store:
        first, second = (run(store=store, candidates=3, **config) for _ in range(2))
    assert second.metrics["calls"]["sent"] == 0
    assert second.judge.asked == second.policy.asked == []
    assert first.files == second.files


@pytest.mark.parametrize("k", [1, 4])
def test_editing_one_of_sixteen_principles_costs_a_sixteenth(run: Run, k: int) -> None:
    run.write(Prompt(f"p{n}", (Message("user", f"Question {n}?"),)) for n in range(320))
    sixteen = [principle(f"p{n}") for n in range(16)]
    edited = law(principle("p0", prefer="Something else?"), *sixteen[1:])
    with Store(run.tmp_path / "store.sqlite3") as store:
        first = run(store=store, principles=k, constitution=law(*sixteen))
        second = run(store=store, principles=k, constitution=edited)
    assert len(first.judge.asked) == 320 * 2 * k
    assert 0.5 / 16 < len(second.judge.asked) / len(first.judge.asked) <= 1.5 / 16
    assert second.policy.asked == []


# --- examples, configs ----------------------------------------------------------------------------


def worked(n: int, **others: str) -> dict[str, Any]:
    texts = {"conversation": f"Old question {n}?", "better": f"good {n}", "worse": f"bad {n}"}
    return {"principle": "one", "reasoning": f"because {n}"} | texts | others


def with_examples(*examples: dict[str, Any]) -> Constitution:
    fields = {"id": "law", "version": "1", "examples": {"prefer": examples}}
    return Constitution.model_validate(fields | {"principles": (principle("one"),)})


def test_worked_preferences_come_first_and_change_sides(run: Run) -> None:
    shown = with_examples(worked(0), worked(1), worked(2))
    asked = run(examples=2, constitution=shown).judge.asked
    begun_with = set()
    for call in asked:
        system, first, one, second, two, _, prefill = (m.content for m in call.messages)
        assert system
        assert prefill == "The answer is: ("
        letters = [answer.removeprefix("The answer is: (") for answer in (one, two)]
        assert sorted(letters) == ["A)", "B)"]
        for letter, question in zip(letters, (first, second), strict=True):
            better_first = letter == "A)"
            assert re.search(r"good.*bad" if better_first else r"bad.*good", question, re.S)
        begun_with.add(letters[0])
    assert begun_with == {"A)", "B)"}


@pytest.mark.parametrize("config", [{"method": "pointwise"}, {"reasoning": True}])
def test_a_single_worked_preference_stands_on_either_side(run: Run, config: dict[str, Any]) -> None:
    """Half of the prompts see it turned; every call of one prompt sees the same."""
    shown = with_examples(worked(0), worked(1), worked(2))
    seen: dict[str, set[str]] = {}
    for call in run(examples=1, constitution=shown, **config).judge.asked:
        (prompt,) = re.findall(r"\bQuestion \d+", call.messages[3].content)
        seen.setdefault(prompt, set()).add(call.messages[2].content.rsplit(": ")[-1])
    assert all(len(answers) == 1 for answers in seen.values())
    sides = Counter(answers.pop() for answers in seen.values())
    assert len(sides) == 2
    assert min(sides.values()) >= 4, sides  # of 20


def test_examples_that_are_not_there_are_an_error(run: Run) -> None:
    with pytest.raises(ConfigError, match=r"preferences\.examples.*no worked preference"):
        run(examples=1)
    with pytest.raises(ConfigError, match="no worked preference"):
        run(examples=1, reasoning=True, constitution=with_examples(worked(0, reasoning="")))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"method": "pointwise", "reasoning": True}, "reasoning"),
        ({"weigh_critique": True}, "weigh_critique"),
        ({"clamp": (0.6, 0.4)}, "clamp"),
        ({"clamp": (0.3, 0.6)}, "clamp"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"`{said}` is"):
        PreferencesConfig(**config)


def test_a_damaged_prompt_is_named(run: Run) -> None:
    (run.prompts / "train.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(DataError, match=r"train\.jsonl:1"):
        run()
