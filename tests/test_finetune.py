"""Finetuning: which answers are learned, that they are, and that a killed training goes on."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rlaif.config.run import FinetuneConfig
from rlaif.errors import ConfigError, DataError
from rlaif.finetune import fit, lessons
from rlaif.jsonl import writing
from rlaif.records import Chain, Message, Step
from rlaif.training.examples import Encoder
from tests import tiny_training as tiny

# --- which answers --------------------------------------------------------------------------------


def step(round: int, text: str, **fields: Any) -> Step:
    return Step(round, "kind", text, **fields)


def learned(tmp_path: Path, *chains: Chain, **config: Any) -> tuple[list[str], dict[str, int]]:
    """The answers that are learned, and the count of those that are not by reason."""
    path = tmp_path / "chains.jsonl"
    with writing(path) as write:
        for chain in chains:
            write(chain)
    found = list(lessons(path, FinetuneConfig.model_validate(config), seed=0))
    return [x.answer for x in found if not x.left_out], dict(
        Counter(x.left_out for x in found if x.left_out)
    )


REVISED = Chain(tiny.prompt(0), "draft", (step(1, "one"), step(2, "two"), step(3, "three")))


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [("last", ["three"]), ("all", ["one", "two", "three"]), ([1, 3], ["one", "three"])],
)
def test_rounds_choose_revisions(tmp_path: Path, rounds: Any, expected: list[str]) -> None:
    assert learned(tmp_path, REVISED, rounds=rounds) == (expected, {})


def test_what_failed_teaches_nothing_and_is_counted(tmp_path: Path) -> None:
    lost = Chain(tiny.prompt(1), "", unanswered="too_long")
    torn = Chain(tiny.prompt(2), "draft", (step(1, "one"), step(2, "one", unanswered="refused")))
    bare = Chain(tiny.prompt(3), "draft")
    blank = Chain(tiny.prompt(4), "draft", (step(1, " "),))
    empty = Chain(tiny.prompt(5), "", (step(1, "", skipped=True),))
    answers, left_out = learned(tmp_path, lost, torn, bare, blank, empty, REVISED)
    assert answers == ["three"]
    assert left_out == {"no_draft": 1, "unanswered": 1, "no_rounds": 1, "empty": 2}
    assert learned(tmp_path, torn, rounds="all") == (["one"], {"unanswered": 1})


def test_a_round_without_a_fault_is_not_learned_unless_it_is_the_last(tmp_path: Path) -> None:
    steps = (step(1, "draft", skipped=True), step(2, "two"), step(3, "two", skipped=True))
    chain = Chain(tiny.prompt(0), "draft", steps)
    assert learned(tmp_path, chain, rounds="all") == (["two"], {"no_fault_found": 2})
    assert learned(tmp_path, chain, rounds="last") == (["two"], {})


def test_an_answer_is_learned_once(tmp_path: Path) -> None:
    chain = Chain(tiny.prompt(0), "draft", (step(1, "one"), step(2, "one")))
    assert learned(tmp_path, chain, rounds="all") == (["one"], {"repeated": 1})


FAULTLESS = [
    Chain(tiny.prompt(i), f"fine {i}", (step(1, f"fine {i}", skipped=True),)) for i in range(40)
]
MENDED = [Chain(tiny.prompt(100 + i), "draft", (step(1, f"one {i}"),)) for i in range(12)]


def test_faultless_drafts_are_learned_and_helpful_share_limits_them(tmp_path: Path) -> None:
    answers, _ = learned(tmp_path, *FAULTLESS, *MENDED)
    assert len(answers) == 52
    answers, left_out = learned(tmp_path, *FAULTLESS, *MENDED, helpful={"share": 0.25})
    assert Counter(a.split()[0] for a in answers) == {"one": 12, "fine": 4}
    assert left_out == {"over_helpful_share": 36}
    more, _ = learned(tmp_path, *FAULTLESS, *MENDED, helpful={"share": 0.5})
    assert set(answers) < set(more)
    assert len(more) == 24


def test_a_share_that_cannot_be_met_takes_all_there_is(tmp_path: Path) -> None:
    answers, left_out = learned(tmp_path, *FAULTLESS[:3], *MENDED, helpful={"share": 0.5})
    assert (len(answers), left_out) == (15, {})


def test_helpful_answers_come_from_a_file(tmp_path: Path) -> None:
    with writing(tmp_path / "helpful.jsonl") as write:
        for i in range(30):
            turns = [Message("user", "hi"), Message("assistant", "hi"), Message("user", f"q{i}")]
            write({"prompt": f"q{i}" if i % 2 else turns, "response": f"help {i}"})
    helpful = {"share": 0.2, "path": str(tmp_path / "helpful.jsonl")}
    answers, _ = learned(tmp_path, *FAULTLESS, *MENDED, helpful=helpful)
    assert Counter(a.split()[0] for a in answers) == {"one": 12, "fine": 40, "help": 13}


def test_an_empty_helpful_answer_teaches_nothing_and_is_counted(tmp_path: Path) -> None:
    with writing(tmp_path / "helpful.jsonl") as write:
        for i in range(30):
            write({"prompt": f"q{i}", "response": " " if i % 3 else f"help {i}"})
    helpful = {"share": 0.2, "path": str(tmp_path / "helpful.jsonl")}
    answers, left_out = learned(tmp_path, *FAULTLESS, *MENDED, helpful=helpful)
    assert Counter(a.split()[0] for a in answers) == {"one": 12, "fine": 40, "help": 10}
    assert left_out == {"empty": 20}


@pytest.mark.parametrize("row", ['{"prompt": 3}', '{"prompt": [], "response": "b"}'])
def test_a_wrong_row_of_the_helpful_file_is_named(tmp_path: Path, row: str) -> None:
    (tmp_path / "helpful.jsonl").write_text(f'{{"prompt": "a", "response": "b"}}\n{row}\n')
    with pytest.raises(DataError, match=r"helpful\.jsonl:2"):
        learned(tmp_path, REVISED, helpful={"path": str(tmp_path / "helpful.jsonl")})


# --- training -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.chains(tmp_path_factory.mktemp("data") / "critique")


@pytest.fixture(scope="module")
def given(model: Path, chains: Path) -> dict[str, Any]:
    return {"chains": chains, "model": model, "revision": None}


CONFIG = FinetuneConfig(**tiny.QUICK, epochs=3, micro_batch=2, save_every=2)  # 9 steps
MADE = ("model/model.safetensors", "model/config.json", "curves.jsonl")


@pytest.fixture(scope="module")
def whole(given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nothing disturbed."""
    into = tmp_path_factory.mktemp("whole")
    metrics = tiny.fit(fit, into, CONFIG, **given)
    assert (metrics["examples"], metrics["steps"]) == (12, 9)
    assert metrics["kinds"] == {"revision": 12}
    return into


def test_the_model_is_saved_as_the_one_it_came_from(whole: Path, model: Path) -> None:
    assert {p.name for p in (whole / "model").iterdir()} == {p.name for p in model.iterdir()}
    unchanged = [p.name for p in model.iterdir() if p.name != "model.safetensors"]
    assert tiny.same_files(whole / "model", model, unchanged)
    before, after = tiny.weights(model), tiny.weights(whole / "model")
    assert {k: (w.shape, w.dtype) for k, w in before.items()} == {
        k: (w.shape, w.dtype) for k, w in after.items()
    }


def test_every_weight_has_moved(whole: Path, model: Path) -> None:
    before, after = tiny.weights(model), tiny.weights(whole / "model")
    assert not [name for name in before if before[name].equal(after[name])]


def test_a_single_step_learns(given: dict[str, Any], model: Path, tmp_path: Path) -> None:
    once = CONFIG.model_copy(update={"epochs": 1, "batch_size": 12})
    assert tiny.fit(fit, tmp_path, once, **given)["steps"] == 1
    before, after = tiny.weights(model), tiny.weights(tmp_path / "model")
    assert not [name for name in before if before[name].equal(after[name])]


def test_the_curve_has_a_row_for_each_step(whole: Path) -> None:
    rows = [json.loads(line) for line in (whole / "curves.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 10))
    assert {"loss", "grad_norm", "learning_rate", "mean_token_accuracy"} <= rows[0].keys()
    assert rows[-1]["loss"] < rows[0]["loss"]
    rates = [row["learning_rate"] for row in rows]
    assert rates.index(max(rates)) < 3
    assert rates[-1] < 0.1 * max(rates)


def test_the_same_training_makes_the_same_bytes(
    whole: Path, given: dict[str, Any], tmp_path: Path
) -> None:
    tiny.fit(fit, tmp_path, CONFIG, **given)
    assert tiny.same_files(tmp_path, whole, MADE)


def test_the_micro_batch_does_not_change_the_result(
    whole: Path, given: dict[str, Any], tmp_path: Path
) -> None:
    config = CONFIG.model_copy(
        update={"micro_batch": None, "trl": {"gradient_checkpointing": True}}
    )
    tiny.fit(fit, tmp_path, config, **given)
    ours, theirs = (tiny.weights(folder / "model") for folder in (tmp_path, whole))
    for name, weight in ours.items():
        assert weight.float().sub(theirs[name].float()).abs().max() < 0.01


def test_a_killed_training_ends_as_if_nothing_had_been(
    whole: Path, given: dict[str, Any], tmp_path: Path
) -> None:
    """`kill -9` in a real process, after a checkpoint; then also half of another checkpoint."""
    tiny.begin(tmp_path, CONFIG, **given)
    child = tiny.child("rlaif.finetune:fit", tmp_path)
    checkpoints = tmp_path / "checkpoints"
    while not list(checkpoints.glob("*/complete")):
        assert child.poll() is None, (tmp_path / "train.log").read_text()[-2000:]
        time.sleep(0.002)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    assert not (tmp_path / "result.json").exists()
    torn = shutil.copytree(next(checkpoints.glob("checkpoint-*")), checkpoints / "checkpoint-8")
    (torn / "complete").unlink()
    (torn / "model.safetensors").write_bytes(b"torn")
    tiny.fit(fit, tmp_path, CONFIG, **given)
    assert tiny.same_files(tmp_path, whole, MADE)


def test_a_training_that_is_told_to_stop_keeps_its_last_step(
    whole: Path, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.stop_after(3, monkeypatch)
    with pytest.raises(SystemExit, match="143"):
        tiny.fit(fit, tmp_path, CONFIG, **given)
    assert (tmp_path / "checkpoints/checkpoint-4/complete").exists()
    monkeypatch.undo()
    tiny.fit(fit, tmp_path, CONFIG, **given)
    assert tiny.same_files(tmp_path, whole, MADE)


def test_a_training_killed_before_its_model_was_saved_only_saves_it(
    whole: Path, given: dict[str, Any], tmp_path: Path
) -> None:
    tiny.fit(fit, tmp_path, CONFIG, **given)
    shutil.rmtree(tmp_path / "model")
    (tmp_path / "result.json").unlink()
    assert tiny.fit(fit, tmp_path, CONFIG, **given)["steps"] == 9
    assert tiny.same_files(tmp_path, whole, MADE)


def test_adapters_leave_the_rest_of_the_model_alone(
    model: Path, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = FinetuneConfig.model_validate({**tiny.QUICK, "epochs": 2, "lora": {"dropout": 0.1}})
    tiny.fit(fit, tmp_path / "whole", config, **given)
    before, after = tiny.weights(model), tiny.weights(tmp_path / "whole/model")
    moved = {name for name in before if not before[name].equal(after[name])}
    assert moved == {name for name in before if "_proj" in name}
    tiny.stop_after(2, monkeypatch)
    with pytest.raises(SystemExit):
        tiny.fit(fit, tmp_path / "stopped", config, **given)
    monkeypatch.undo()
    tiny.fit(fit, tmp_path / "stopped", config, **given)
    assert tiny.same_files(tmp_path / "stopped", tmp_path / "whole", MADE)


def test_long_examples_are_left_out_and_counted(given: dict[str, Any], tmp_path: Path) -> None:
    encode, path = Encoder(given["model"], 999), given["chains"] / "chains.jsonl"
    found = [encode(x.prompt, x.answer) for x in lessons(path, FinetuneConfig(), seed=0)]
    lengths = sorted(len(prompt + answer) for prompt, answer in found)
    config = FinetuneConfig.model_validate(tiny.QUICK | {"max_length": lengths[5]})
    metrics = tiny.fit(fit, tmp_path, config, **given)
    kept = sum(n <= lengths[5] for n in lengths)
    assert (metrics["examples"], metrics["left_out"]) == (kept, {"too_long": 12 - kept})
    assert metrics["tokens"] == sum(lengths[:kept])


def test_nothing_to_learn_is_an_error(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="12 too_long: there are no revisions"):
        tiny.fit(fit, tmp_path, FinetuneConfig(max_length=3), **given)


def test_an_unknown_model_is_an_error(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such model folder|cannot be had"):
        tiny.fit(fit, tmp_path, FinetuneConfig(), **given | {"model": "./nowhere"})


@pytest.mark.vllm
def test_what_was_learned_is_served(model: Path, tmp_path: Path) -> None:
    """Learn one answer by heart; vLLM gives it, and stops where it ends."""
    from rlaif.engine import EngineConfig, serving
    from rlaif.records import Answer, Call, Sampling

    chains = tiny.chains(tmp_path / "critique", n=1)
    (lesson,) = lessons(chains / "chains.jsonl", FinetuneConfig(), seed=0)
    config = FinetuneConfig(**tiny.QUICK, epochs=60)
    given = {"chains": chains, "model": model, "revision": None}
    metrics = tiny.fit(fit, tmp_path / "into", config, **given)
    assert metrics["token_accuracy"] == 1.0
    call = Call(lesson.prompt, Sampling(temperature=0, max_tokens=40))
    with serving(EngineConfig(model=str(tmp_path / "into/model"), logs=tmp_path)) as engine:
        (answer,) = engine.answers([call])
    assert isinstance(answer, Answer)
    assert (answer.text, answer.finish) == (lesson.answer, "stop")
