"""Evaluation: figures recomputed by hand from the rows, and what may never enter them."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlaif import training
from rlaif.calibration import Calibration, logit, scaled, sigmoid, temperature
from rlaif.completions import Store
from rlaif.config.run import EvaluationConfig
from rlaif.engine import Model
from rlaif.engine.scripted import ScriptedEngine
from rlaif.evaluation import evaluation, label_quality
from rlaif.evaluation.figures import figures
from rlaif.evaluation.kl import divergence
from rlaif.evaluation.monitors import Frequent, boilerplate, phrases, refuses
from rlaif.evaluation.rounds import by_round
from rlaif.evaluation.truth import sandbox
from rlaif.evaluation.wins import length_controlled
from rlaif.intervals import Clusters, Share, bounded, difference, mean, ratio, share
from rlaif.jsonl import rows, writing
from rlaif.prompts import prompts
from rlaif.records import (
    Answer,
    Call,
    Chain,
    Message,
    Pair,
    Prompt,
    Reason,
    Sampled,
    Step,
    Unanswered,
    Verdict,
    Win,
)
from rlaif.sandbox.world import PRINCIPLES
from rlaif.shipped import folder
from rlaif.templates import Templates
from tests import finished_run
from tests.finished_run import CARED, config, law, player, requests

# --- intervals ------------------------------------------------------------------------------------


def test_a_share_of_independent_answers_has_wilsons_interval() -> None:
    sums = Clusters(2)
    for i in range(200):
        sums.add(i < 37, 1)
    wilson = Share(37, 200).interval
    assert wilson
    found = share(sums)
    assert found.value == 37 / 200
    assert (found.low, found.high) == pytest.approx(wilson, abs=2e-3)  # n - 1 for n


def test_answers_that_go_together_count_as_one() -> None:
    alone, copied = Clusters(2), Clusters(2)
    for i in range(60):
        alone.add(i < 20, 1)
        copied.add(8 * (i < 20), 8)
    assert share(copied).low == pytest.approx(share(alone).low, abs=0.005)
    assert share(copied).n == 480


def test_no_share_is_certain() -> None:
    sums = Clusters(2)
    for _ in range(30):
        sums.add(0, 4)
    found = share(sums)
    assert found.low == 0
    assert found.high == pytest.approx(Share(0, 30).interval[1])  # type: ignore[index]


@pytest.mark.parametrize("seed", [0, 1])
def test_deltas_agree_with_the_bootstrap(seed: int) -> None:
    rng = random.Random(seed)
    data = []
    for _ in range(150):
        hard, n = rng.random(), rng.choice((1, 2, 3))
        old = sum(rng.random() < 0.2 + 0.7 * hard for _ in range(n))
        data.append((sum(rng.random() < 0.6 * hard + 0.2 for _ in range(n)), n, old, n))
    sums = Clusters(4)
    for row in data:
        sums.add(*row)

    def drawn(of: Any) -> list[float]:
        return sorted(
            of(*map(sum, zip(*rng.choices(data, k=150), strict=True))) for _ in range(2000)
        )

    for measured, of in (
        (difference(sums), lambda y, n, y0, n0: y / n - y0 / n0),
        (ratio(sums), lambda y, n, y0, n0: (y / n) / (y0 / n0)),
    ):
        values = drawn(of)
        assert measured.low == pytest.approx(values[50], abs=0.02)
        assert measured.high == pytest.approx(values[1949], abs=0.02)


def test_equal_models_differ_by_nothing_but_not_surely() -> None:
    sums = Clusters(4)
    for _ in range(40):
        sums.add(1, 1, 1, 1)
    for found, same in ((difference(sums), 0), (ratio(sums), 1)):
        assert found.value == same
        assert found.low is not None
        assert found.high is not None
        assert found.low < same < found.high


def test_undefined_says_why() -> None:
    assert share(Clusters(2)).json() == {
        "value": None, "low": None, "high": None, "n": 0, "why": "nothing to count"
    }  # fmt: skip
    none_helped = Clusters(4)
    none_helped.add(1, 1, 0, 1)
    assert "is 0" in ratio(none_helped).why
    assert mean(Clusters(2)).why


# --- calibration ----------------------------------------------------------------------------------


def test_calibration_by_hand() -> None:
    found = Calibration()
    for p, truth in ((0.9, True), (0.9, False), (0.1, False), (0.62, True)):
        found.add(p, truth)
    assert (found.accuracy.value, found.accuracy.n) == (3 / 4, 4)
    assert found.ece == pytest.approx((abs(2 - 2.7) + abs(1 - 0.62)) / 4)
    assert found.brier == pytest.approx((0.01 + 0.81 + 0.01 + 0.38**2) / 4)
    assert [cell["accuracy"]["n"] for cell in found.curve] == [1, 3]


def test_turning_a_pair_changes_nothing() -> None:
    rng, one, other = random.Random(0), Calibration(), Calibration()
    for _ in range(500):
        p, truth = rng.random(), rng.random() < 0.5
        one.add(p, truth)
        other.add(1 - p, not truth)
    assert one.curve == other.curve
    assert one.ece == pytest.approx(other.ece)


def test_temperature_is_recovered() -> None:
    rng = random.Random(0)
    true = [rng.random() for _ in range(4000)]
    sharp = [(scaled(p, 1 / 3), rng.random() < p) for p in true]  # three times too sure
    found = temperature([(logit(p), truth) for p, truth in sharp])
    assert found == pytest.approx(3, rel=0.1)
    assert temperature([]) is None
    assert sigmoid(-1000) == 0
    assert sigmoid(1000) == 1


# --- the stage ------------------------------------------------------------------------------------


class Played:
    """One evaluation with scripted models."""

    def __init__(self, root: Path, models: dict[str, Model], judge: Model, **section: Any) -> None:
        self.root, self.models, self.judge = root, models, judge
        self.section = EvaluationConfig.model_validate({"oracle": "sandbox", "kl": 0} | section)

    def run(self, name: str = "evaluation", n: int = 40, **more: Any) -> dict[str, Any]:
        asked, self.into = self.root / "prompts", self.root / name
        if not asked.exists():
            file = requests(self.root / "p.jsonl", train=3, heldout=n)
            asked.mkdir()
            prompts(asked, config(prompts=file).prompts, seed=0)
        self.into.mkdir()
        constitution = more.pop("constitution", law())
        return evaluation(
            self.into,
            self.section,
            prompts=asked,
            models=self.models,
            judge=self.judge,
            constitution=constitution,
            templates=Templates(folder("prompts")),
            seed=0,
            **more,
        )

    @property
    def samples(self) -> list[Sampled]:
        return list(rows(self.into / "samples.jsonl", Sampled))

    @property
    def wins(self) -> list[Win]:
        return list(rows(self.into / "wins.jsonl", Win))


def three(rates: Sequence[float] = (1.0, 0.5, 0.1)) -> dict[str, Model]:
    names = ("seed", "finetuned", "policy")
    return {name: player(name, rate) for name, rate in zip(names, rates, strict=True)}


def test_figures_are_those_of_the_rows(tmp_path: Path) -> None:
    played = Played(tmp_path, three(), player("judge"), samples=2)
    found = played.run()
    assert sorted(p.name for p in played.into.iterdir()) == ["samples.jsonl", "wins.jsonl"]
    assert Counter(s.model for s in played.samples) == dict.fromkeys(three(), 80)
    for name in three():
        mine = [s for s in played.samples if s.model == name]
        assert found["violations"][name]["value"] == pytest.approx(
            sum(bool(s.truth["violations"]) for s in mine) / 80
        )
        benign = [s for s in mine if s.truth["helpful"] is not None]
        assert found["helpfulness"][name]["value"] == pytest.approx(
            sum(s.truth["helpful"] for s in benign) / len(benign), rel=1e-4
        )
        assert found["helpfulness"][name]["n"] == len(benign)
        for id in PRINCIPLES:
            assert found["principles"][id][name]["value"] == pytest.approx(
                sum(id in s.truth["violations"] for s in mine) / 80
            )
        words = sum(len(s.text.split()) for s in mine) / 80
        assert found["lengths"]["words"][name]["value"] == pytest.approx(words, rel=1e-4)
    assert found["by"] == "oracle"
    assert found["violations"]["change"]["policy"]["high"] < 0
    kept, (seed, policy) = found["helpfulness"]["kept"], (
        found["helpfulness"][m]["value"] for m in ("seed", "policy")
    )  # fmt: skip
    assert kept["value"] == pytest.approx(policy / seed, rel=1e-3)


def test_one_model_is_asked_completely_before_the_next(tmp_path: Path) -> None:
    order: list[str] = []

    def noting(name: str) -> Model:
        return Model.of(ScriptedEngine(lambda call: order.append(name) or _reply(call)))

    Played(tmp_path, {m: noting(m) for m in three()}, noting("judge")).run(n=10)
    assert [m for m, before in zip(order, ["", *order], strict=False) if m != before] == [
        "seed", "finetuned", "policy", "judge"
    ]  # fmt: skip


def _reply(call: Call) -> Any:
    return (0.3, 0.6) if call.labels else f"Some words {call.sample}."


def test_all_models_meet_the_same_principles(tmp_path: Path) -> None:
    played = Played(tmp_path, three(), player("judge"), principles=2)
    played.run()
    met: dict[str, set[tuple[str, ...]]] = {}
    for sampled in played.samples:
        met.setdefault(sampled.prompt.id, set()).add(tuple(sampled.violates))
    assert all(len(sets) == 1 for sets in met.values())
    assert all(len(ids) == 2 for sets in met.values() for ids in sets)
    assert len({ids for sets in met.values() for ids in sets}) > 5


def test_wins_average_both_orders_and_equal_answers_tie(tmp_path: Path) -> None:
    same = player("seed")
    judge = player("judge", bias=1.5)
    played = Played(tmp_path, {"seed": same, "finetuned": same, "policy": player("p", 0.1)}, judge)
    found = played.run()
    tied = [w for w in played.wins if w.model == "finetuned"]
    assert {w.win for w in tied} == {0.5}
    assert not any(w.calls for w in tied)
    for win in played.wins:
        if win.calls:
            assert win.win == pytest.approx(sum(win.orders) / 2)
    wins = found["wins"]
    assert wins["finetuned"]["rate"]["value"] == 0.5
    assert wins["finetuned"]["ties"] == 40
    hits = [1.0 if w.win > 0.5 else 0.0 for w in played.wins if w.model == "policy" and w.win]  # type: ignore[operator]
    assert wins["policy"]["rate"]["value"] == pytest.approx(sum(hits) / len(hits))
    assert found["judge"]["position"]["value"] > 0.6  # it likes A


def test_what_has_no_answer_is_counted_and_left_out(tmp_path: Path) -> None:
    def broken(call: Call) -> Any:
        last = call.messages[-1].content
        if len(last) % 3 == 0:
            return Unanswered(Reason.TOO_LONG, "")
        return _reply(call)

    models = {"seed": player("seed"), "policy": Model.of(ScriptedEngine(broken))}
    played = Played(tmp_path, models, player("judge"))
    found = played.run()
    lost = [s for s in played.samples if s.unanswered]
    assert 0 < len(lost) < 40
    assert found["unanswered"] == {"too_long": len(lost)}
    assert not any(s.violates or s.truth for s in lost)
    assert found["violations"]["policy"]["n"] == 40 - len(lost)
    assert found["violations"]["seed"]["n"] == 40
    missing = [w for w in played.wins if w.win is None]
    assert {w.unanswered for w in missing} == {"no answer to judge (too_long)"}
    assert len(missing) == len(lost)
    assert found["wins"]["policy"]["rate"]["n"] == 40 - len(lost)


def test_a_judge_that_fails_gives_no_verdict(tmp_path: Path) -> None:
    asked, compared = itertools.count(), itertools.count()

    def failing(call: Call) -> Any:
        """All but three of nine questions about an answer, and every second of a comparison."""
        lost = next(compared) % 2 if call.labels == ("A", "B") else next(asked) % 3
        return Unanswered(Reason.UNAVAILABLE, "") if lost else (0.6, 0.4)

    played = Played(tmp_path, three(), Model.of(ScriptedEngine(failing)), oracle=None)
    found = played.run(n=5)
    assert all(len(s.violates) == 3 for s in played.samples)
    assert found["judge"]["unanswered"] == {"unavailable": 3 * 5 * 6}
    assert found["wins"]["policy"]["unanswered"] == {"unavailable": 5}


def test_without_an_oracle_the_judge_speaks_and_says_so(tmp_path: Path) -> None:
    played = Played(tmp_path, three(), player("judge"), oracle=None)
    found = played.run()
    assert found["by"] == "judge"
    assert found["violations"] == found["judged"]["violations"]
    assert found["violations"]["seed"]["value"] > found["violations"]["policy"]["value"]
    assert found["helpfulness"]["kept"]["value"] is None
    assert found["helpfulness"]["kept"]["why"]
    assert found["helpfulness"]["policy"]["n"] > 0  # wins under principles tagged helpful
    assert found["well_formed"]["policy"]["why"]
    assert not any(s.truth for s in played.samples)


def test_where_the_oracle_knows_no_prompt_the_judge_speaks(tmp_path: Path) -> None:
    file, asked = tmp_path / "p.jsonl", tmp_path / "prompts"
    told = [{"prompt": f"Who was Ada {n}?", "split": "heldout" if n else "train"} for n in range(5)]
    file.write_text("".join(json.dumps(row) + "\n" for row in told), "utf-8")
    asked.mkdir()
    prompts(asked, config(prompts=file).prompts, seed=0)
    models = {name: Model.of(ScriptedEngine(_reply, identity=name)) for name in three()}
    found = Played(tmp_path, models, models["seed"]).run()
    assert found["by"] == "judge"
    assert found["violations"] == found["judged"]["violations"]
    assert found["violations"]["policy"]["n"] == 4


def test_a_fault_outside_the_constitution_is_still_seen(tmp_path: Path) -> None:
    played = Played(tmp_path, three(), player("judge"))
    found = played.run(constitution=law().without("harm"))
    assert "harm" not in {id for s in played.samples for id in s.violates}
    assert found["principles"]["harm"]["seed"]["value"] > 0
    assert found["principles"]["harm"]["seed"]["n"] == 40


def test_again_it_sends_nothing_and_writes_the_same(tmp_path: Path) -> None:
    engines = {m: ScriptedEngine(_reply, identity=m) for m in (*three(), "judge")}
    found, asked = [], []
    with Store(tmp_path / "s.sqlite3") as store:
        for name in ("one", "two"):
            models = {m: Model.of(engine, store) for m, engine in engines.items()}
            found.append(Played(tmp_path, models, models.pop("judge")).run(name, n=10))
            asked.append(sum(len(engine.asked) for engine in engines.values()))
    assert asked[0] == asked[1]
    assert [told.pop("calls")["sent"] for told in found] == [asked[0], 0]
    assert found[0] == found[1]
    for file in ("samples.jsonl", "wins.jsonl"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_metrics_are_plain_json(tmp_path: Path) -> None:
    found = Played(tmp_path, three(), player("judge")).run(n=6)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["kl"]["policy"]["answer"]["why"] == "switched off (evaluation.kl: 0)"


# --- labels and rounds ----------------------------------------------------------------------------

ASKED = Prompt("p", (Message("user", "How do I clean the lamp?"),))
CLEAN = "To clean the lamp, add a little mild soap. That is all for now."
RUDE = "To clean the lamp, add a little mild soap. Dimwits like you tire me."


def preferred(folder: Path, *verdicts: Verdict, method: str = "pairwise") -> Path:
    """A preferences stage with one pair (a is rude) for each verdict on insults."""
    folder.mkdir()
    made_from = {"section": {"method": method}}
    (folder / "stage.json").write_text(json.dumps(finished_run.record(made_from=made_from)))
    with writing(folder / "pairs.jsonl") as write:
        for i, verdict in enumerate(verdicts):
            asked = Prompt(f"p{i}", ASKED.messages)
            write(Pair(f"{i}", asked, RUDE, CLEAN, verdict.target, verdicts=(verdict,)))
    return folder


def test_label_quality_by_hand(tmp_path: Path) -> None:
    found = label_quality(
        preferred(
            tmp_path / "pairs",
            Verdict("insult", 0.2, (0.4, 0.0001)),  # right, in both orders
            Verdict("insult", 0.4, (0.7, 0.1)),  # right, but not with a first
            Verdict("insult", 0.9, (0.9, 0.9)),  # wrong
            Verdict("advert", 0.9, (0.9, 0.9)),  # neither is at fault: a tie
            Verdict("insult", None, unlabelled="too_long"),
        ),
        sandbox,
    )
    assert (found["accuracy"]["value"], found["accuracy"]["n"]) == (0.66667, 3)
    assert (found["one_order"]["value"], found["one_order"]["n"]) == (0.5, 6)
    assert found["ties"] == 1
    assert found["unlabelled"] == Share(1, 5).json()
    assert found["reasons"] == {"too_long": 1}
    assert found["ece"] == pytest.approx((0.2 + 0.4 + 0.9) / 3, abs=1e-3)
    assert (found["pairs"]["accuracy"]["value"], found["pairs"]["accuracy"]["n"]) == (0.5, 4)


def test_labels_of_one_prompt_are_no_independent_draws() -> None:
    """Each prompt six times: the interval is that of the prompts."""
    once, often = Calibration(), Calibration()
    for i in range(200):
        once.add(0.9, i % 5 > 0, f"{i}")
        for _ in range(6):
            often.add(0.9, i % 5 > 0, f"{i}")
    one, other = once.accuracy, often.accuracy
    assert (one.n, other.n) == (200, 1200)
    assert (other.low, other.high) == pytest.approx((one.low, one.high), abs=1e-3)


def test_the_judge_is_no_surer_for_three_models_that_say_the_same(tmp_path: Path) -> None:
    same = player("seed")
    models = dict.fromkeys(three(), same)
    found = Played(tmp_path, models, player("judge")).run()["judge"]["accuracy"]
    unsure = [accuracy for accuracy in found.values() if accuracy["value"] < 1]
    assert unsure
    for accuracy in unsure:
        alone = Share(round(40 * accuracy["value"]), 40).interval
        assert accuracy["n"] == 120
        assert (accuracy["low"], accuracy["high"]) == pytest.approx(alone, abs=0.02)


def test_pointwise_labels_have_no_order(tmp_path: Path) -> None:
    verdict = Verdict("insult", 0.2, (0.8, 0.1))
    found = label_quality(preferred(tmp_path / "pairs", verdict, method="pointwise"), sandbox)
    assert found["accuracy"]["value"] == 1
    assert found["one_order"]["value"] is None
    assert found["one_order"]["why"] == "pointwise labels have no order"


def test_a_prompt_unknown_to_the_oracle_is_left_out(tmp_path: Path) -> None:
    real = Prompt("r", (Message("user", "Who was Ada Lovelace?"),))
    assert sandbox(real, CLEAN) == {}
    folder = preferred(tmp_path / "pairs")
    with writing(folder / "pairs.jsonl") as write:
        write(Pair("1", real, RUDE, CLEAN, 0.9, verdicts=(Verdict("insult", 0.9, (0.9, 0.9)),)))
    assert label_quality(folder, sandbox)["accuracy"]["n"] == 0


def test_rounds(tmp_path: Path) -> None:
    """The second chain met no principle, the third none before round 2: their answers stood."""
    steps = (Step(1, "advert", RUDE, skipped=True), Step(2, "insult", CLEAN))
    with writing(tmp_path / "chains.jsonl") as write:
        write(Chain(ASKED, RUDE, steps))
        write(Chain(ASKED, CLEAN, ()))
        write(Chain(ASKED, RUDE, (Step(2, "insult", CLEAN),)))
        write(Chain(ASKED, "", unanswered="too_long"))
    found = by_round(tmp_path, sandbox)
    assert [r["violations"]["value"] for r in found] == pytest.approx([2 / 3, 2 / 3, 0], abs=1e-4)
    assert [r["violations"]["n"] for r in found] == [3, 3, 3]


# --- wins at equal length, and monitors -----------------------------------------------------------


def test_a_win_by_length_alone_is_none_at_equal_length() -> None:
    rng = random.Random(0)
    data = [(sigmoid(0.08 * d), float(d)) for d in (rng.randint(-10, 40) for _ in range(400))]
    raw = sum(win for win, _ in data) / 400
    found = length_controlled(data)
    assert raw > 0.65
    assert found.value == pytest.approx(0.5, abs=0.03)


def test_no_mean_of_sure_wins_is_certain() -> None:
    found = length_controlled([(1.0, float(n % 7)) for n in range(40)])
    assert found.low is not None
    assert found.low < 0.97
    sums = Clusters(2)
    for _ in range(40):
        sums.add(1.0, 1)
    soft = bounded(sums)
    assert (soft.value, soft.high) == (1.0, 1.0)
    assert soft.low is not None
    assert 0.9 < soft.low < 0.99


def test_few_prompts_have_wide_intervals() -> None:
    """In 95 of 100 the truth lies within, also where each of ten prompts has eight answers."""
    rng, within = random.Random(0), 0
    for _ in range(600):
        sums = Clusters(2)
        for _ in range(10):
            p = rng.betavariate(1.2, 1.2)
            sums.add(sum(rng.random() < p for _ in range(8)), 8)
        found = share(sums)
        assert found.low is not None
        assert found.high is not None
        within += found.low <= 0.5 <= found.high
    assert within / 600 > 0.935


def test_an_answer_that_was_not_read_under_every_principle_is_in_no_figure(tmp_path: Path) -> None:
    def judged(model: str, n: int, lost: bool) -> Sampled:
        violates = {"insult": 0.1} if lost else {"insult": 0.1, "privacy": 0.9}
        prompt = replace(ASKED, id=f"p{n}")
        return Sampled(model, prompt, "Hi.", violates=violates, unread=int(lost))

    with writing(tmp_path / "samples.jsonl") as write:
        for n in range(20):
            write(judged("seed", n, False))
            write(judged("policy", n, n % 2 > 0))
    (tmp_path / "wins.jsonl").touch()
    found = figures(tmp_path, ["seed", "policy"], law(), faults=())["violations"]
    assert (found["policy"]["value"], found["policy"]["n"]) == (1.0, 10)
    assert found["change"]["policy"]["value"] == 0.0


def test_a_true_win_stays_one_at_equal_length() -> None:
    rng = random.Random(0)
    data = [(0.8 if rng.random() < 0.9 else 0.1, rng.gauss(0, 9)) for _ in range(300)]
    found = length_controlled(data)
    assert found.value == pytest.approx(sum(win for win, _ in data) / 300, abs=0.01)
    assert found.low is not None
    assert found.low > 0.6
    same = length_controlled([(win, 0.0) for win, _ in data])
    assert same.value == pytest.approx(found.value, abs=0.01)
    assert length_controlled(data[:5]).value is None


def test_a_catchphrase_is_found(tmp_path: Path) -> None:
    played = Played(tmp_path, three() | {"policy": player("p", 0.1, preaches=0.4)}, player("judge"))
    found = played.run(n=80)["boilerplate"]
    first = next(phrase for phrase in found["policy"] if phrase["text"] in CARED.casefold())
    mine = [s for s in played.samples if s.model == "policy"]
    share_now = sum(first["text"] in s.text.casefold() for s in mine) / len(mine)
    assert first["now"]["value"] == pytest.approx(share_now, abs=1e-4)
    assert first["seed"]["value"] == 0
    assert boilerplate(played.into / "samples.jsonl", ["seed"]) == {}


def test_counting_is_exact_enough_in_bounded_memory() -> None:
    counts, rng = Frequent(width=200), random.Random(0)
    for n in range(3000):
        counts.add({"often" if n % 4 == 0 else f"rare {rng.random()}", f"{n}"})
    assert counts.most(1) == ["often"]
    assert len(counts._counts) < 1000


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("I can\u2019t help with that.", True),
        ("I can not help you steal the boat.", True),
        ("Sorry, but no.", True),
        ("You can not fail to like it.", False),
        ("Use a soft cloth.", False),
    ],
)
def test_refusals(text: str, refused: bool) -> None:
    assert refuses(text) == refused


def test_phrases_are_of_five_words() -> None:
    assert phrases("One two, three. Four five six!") == {
        "one two three four five", "two three four five six"
    }  # fmt: skip
    assert phrases("too short") == set()


# --- divergence -----------------------------------------------------------------------------------


def test_no_weights_no_divergence(tmp_path: Path) -> None:
    templates = Templates(folder("prompts"))
    (tmp_path / "samples.jsonl").touch()
    here = str(tmp_path)
    found = divergence(
        tmp_path, ["seed", "policy"], {"seed": here, "policy": here}, templates, answers=5
    )
    assert "no config.json" in found["policy"]["answer"]["why"]
    assert not (tmp_path / "kl").exists()
    found = divergence(tmp_path, ["seed", "policy"], {}, templates, answers=5)
    assert "not known" in found["policy"]["token"]["why"]


def test_servers_make_room_before_two_models_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []

    def launched(entry: str, folder: Path, *, saving: str) -> None:
        happened.append(f"launched, {saving}")
        (folder / "kl.json").write_text("{}")

    monkeypatch.setattr(training, "launch", launched)
    played = Played(tmp_path, three(), player("judge"), kl=3)
    weights = dict.fromkeys(played.models, "somewhere")
    played.run(n=2, weights=weights, make_room=lambda: happened.append("room"))
    assert happened == ["room", "launched, set `evaluation.kl: 0`"]


def test_the_start_models_weights_come_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    from rlaif.evaluation import kl
    from tests.faults.tiny_model import save_tiny_model

    kept = tmp_path / "models--org--start"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "v1").write_text("a" * 40)
    start = save_tiny_model(kept / "snapshots" / ("a" * 40), width=32, layers=1)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(kl, "_launch", kl.measure)
    with writing(tmp_path / "samples.jsonl") as write:
        write(Sampled("policy", ASKED, "An answer."))
    weights = {"seed": "org/start", "policy": str(start)}
    found = divergence(
        tmp_path, list(weights), weights, Templates(folder("prompts")), answers=1, revision="v1"
    )
    assert found["policy"]["answer"]["value"] == 0
    assert found["policy"]["answer"]["n"] == 1


@pytest.mark.slow
def test_divergence_is_measured_in_a_child(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    import torch
    from transformers import LlamaForCausalLM

    from rlaif.evaluation.kl import Weights, kl
    from tests.faults.tiny_model import save_tiny_model

    start = save_tiny_model(tmp_path / "start", width=32, layers=1)
    other = save_tiny_model(tmp_path / "other", width=32, layers=1)
    moved = LlamaForCausalLM.from_pretrained(other)
    with torch.no_grad():
        moved.model.embed_tokens.weight.mul_(1.05)
    moved.save_pretrained(other)
    into = tmp_path / "evaluation"
    into.mkdir()
    with writing(into / "samples.jsonl") as write:
        for model in ("seed", "finetuned", "policy"):
            for text in ("One answer.", "Another, longer answer."):
                write(Sampled(model, ASKED, text))
        write(Sampled("policy", ASKED, "", unanswered="too_long"))
    weights = {"seed": str(start), "finetuned": str(start), "policy": str(other)}
    found = divergence(into, list(weights), weights, Templates(folder("prompts")), answers=10)

    a, b = Weights(other), Weights(start)
    total = tokens = 0.0
    for text in ("One answer.", "Another, longer answer."):
        prompt, answer = a.encode(ASKED.messages, text)
        for t in range(len(answer)):
            context = torch.tensor([prompt + answer[:t]])
            p, q = (m.model(context).logits[0, -1].double().softmax(-1) for m in (a, b))
            total += (p * (p / q).log()).sum().item()
        tokens += len(answer)
    assert found["finetuned"]["answer"]["value"] == 0
    assert found["policy"]["answer"]["n"] == 2
    assert found["policy"]["answer"]["value"] == pytest.approx(total / 2, rel=1e-3)
    assert found["policy"]["token"]["value"] == pytest.approx(total / tokens, rel=1e-3)
    assert found["policy"]["token"]["n"] == tokens
    assert total > 0
    assert kl(a, b, ASKED.messages, "word " * 5000) is None  # longer than the context
    assert not (into / "kl").exists()
    assert math.isfinite(total)


def test_answers_that_were_cut_are_judged_as_they_stand_and_counted(tmp_path: Path) -> None:
    def long(call: Call) -> Any:
        return Answer("It goes on and", "length", 5, 4)

    models = {"seed": player("seed"), "policy": Model.of(ScriptedEngine(long))}
    played = Played(tmp_path, models, player("judge"))
    found = played.run(n=5)
    assert found["cut"] == {"seed": Share(0, 5).json(), "policy": Share(5, 5).json()}
    assert {s.cut for s in played.samples if s.model == "policy"} == {True}
    assert not any(s.cut for s in played.samples if s.model == "seed")
    assert all(s.violates for s in played.samples)
    assert found["judged"]["violations"]["policy"]["n"] == 5
