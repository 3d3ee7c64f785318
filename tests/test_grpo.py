"""GRPO and RLOO on our rewards: a bandit with a known optimum, exact resume, what has no reward."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rlaif.config.policy import GrpoConfig, RewardsConfig, RlooConfig
from rlaif.errors import ConfigError
from rlaif.jsonl import writing
from rlaif.policy import groups, grpo, rloo
from rlaif.policy.rewards import Rewards
from rlaif.records import Message, Prompt
from tests import tiny_training as tiny

Kind = type[GrpoConfig] | type[RlooConfig]
FITS: dict[Kind, Callable[[Path], None]] = {GrpoConfig: grpo.fit, RlooConfig: rloo.fit}
BOTH = pytest.mark.parametrize("kind", FITS)
QUICK: dict[str, Any] = tiny.QUICK | {"batch_size": 8, "samples": 4, "max_tokens": 6}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.model(tmp_path_factory.mktemp("tiny"), dtype="float32")


@pytest.fixture(scope="module")
def reward_model(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.reward_model(model, tmp_path_factory.mktemp("reward"))


def prompts(folder: Path, n: int, heldout: int = 0) -> Path:
    """The folder of a prompts stage."""
    folder.mkdir()
    for split, numbers in (("train", range(n)), ("heldout", range(100, 100 + heldout))):
        with writing(folder / f"{split}.jsonl") as write:
            for i in numbers:
                write(Prompt(f"p{i}", (Message("user", f"say {i}"),)))
    return folder


@pytest.fixture(scope="module")
def given(
    model: Path, reward_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    folder = prompts(tmp_path_factory.mktemp("data") / "prompts", 6)
    models = {"reward": str(reward_model)}
    return {"model": model, "prompts": folder, "reward_models": models, "judge": None}


def fit(into: Path, config: GrpoConfig | RlooConfig, given: dict[str, Any]) -> dict[str, Any]:
    return tiny.fit(FITS[type(config)], into, config, **given)


# --- a bandit -------------------------------------------------------------------------------------

ARMS = 4


def worth(prompt: str, token: int) -> float:
    """Of every four tokens one is best; which one depends on the prompt."""
    number = int(re.findall(r"\d+", prompt)[-1])
    return (token + number) % ARMS / (ARMS - 1)


def pays(source: Callable[..., list[float | str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the answers be worth what `source` says."""

    @contextmanager
    def opened(config: RewardsConfig, **_: Any) -> Iterator[Rewards]:
        yield Rewards(config, {"reward": (1.0, source)})

    monkeypatch.setattr(groups, "opened", opened)


def pulled(
    prompts: Sequence[Prompt], answers: Sequence[str], ids: Sequence[list[int]]
) -> list[float | str]:
    return [worth(p.messages[0].content, i[-1]) for p, i in zip(prompts, ids, strict=True)]


def expected(model: Path, folder: Path) -> float:
    """The mean reward of the model's first token, over all tokens: no draw is made."""
    from rlaif.jsonl import rows
    from rlaif.training import models

    net, tokenizer = models.load_model(model), models.load_tokenizer(model)
    found = []
    for prompt in rows(folder / "train.jsonl", Prompt):
        turns = [{"role": "user", "content": prompt.messages[0].content}]
        asked: Any = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        p = net(**asked).logits[0, -1].softmax(0)
        found.append(sum(q * worth(turns[0]["content"], i) for i, q in enumerate(p.tolist())))
    return math.fsum(found) / len(found)


@BOTH
def test_it_finds_the_best_arm(
    kind: Kind, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pays(pulled, monkeypatch)
    bandit = {**given, "prompts": prompts(tmp_path / "prompts", 2)}
    config = kind(
        batch_size=64, samples=32, max_tokens=1, max_length=64, learning_rate=1e-2, beta=0.0,
        epochs=60,
    )  # fmt: skip
    before = expected(given["model"], bandit["prompts"])
    metrics = fit(tmp_path / "into", config, bandit)
    after = expected(tmp_path / "into" / "model", bandit["prompts"])
    assert before < 0.6
    assert after >= 0.95  # the best arm is worth 1
    assert metrics["reward"] == pytest.approx(after, abs=0.05)


# --- the stage ------------------------------------------------------------------------------------

MADE = ("model/model.safetensors", "model/config.json", "curves.jsonl")


@BOTH
def test_every_weight_moves_and_the_figures_are_there(
    kind: Kind, given: dict[str, Any], model: Path, tmp_path: Path
) -> None:
    metrics = fit(tmp_path, kind(**QUICK, beta=0.1), given)
    assert (metrics["examples"], metrics["steps"], metrics["left_out"]) == (6, 3, {})
    before, after = tiny.weights(model), tiny.weights(tmp_path / "model")
    assert not [name for name in before if before[name].equal(after[name])]
    curve = [json.loads(line) for line in (tmp_path / "curves.jsonl").read_text().splitlines()]
    assert {"reward", "score", "kl", "entropy", "length", "eos_rate"} <= {*curve[-1]}
    assert curve[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert metrics["kl"] != 0
    assert metrics["rewards"]["scored"] == metrics["rewards"]["sources"]["reward"]["n"] == 24
    assert metrics["reward"] == metrics["reward/reward"] == curve[-1]["reward/reward"]


@BOTH
def test_a_stopped_training_ends_as_if_nothing_had_been(
    kind: Kind, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Probes and all."""
    given = {**given, "prompts": prompts(tmp_path / "prompts", 6, heldout=3)}
    config = kind(**QUICK, epochs=2, save_every=5, probe_every=2)
    whole = fit(tmp_path / "whole", config, given)
    tiny.stop_after(3, monkeypatch)
    with pytest.raises(SystemExit):
        fit(tmp_path / "torn", config, given)
    monkeypatch.undo()
    torn = fit(tmp_path / "torn", config, given)
    assert tiny.same_files(tmp_path / "torn", tmp_path / "whole", MADE)
    assert {**torn, "seconds": 0} == {**whole, "seconds": 0}
    assert (whole["probe"]["first"]["step"], whole["probe"]["last"]["step"]) == (0, 6)
    assert (whole["planned_steps"], whole["answers"], whole["stopped"]) == (6, 48, None)


@BOTH
def test_adapters_leave_the_rest_of_the_model_alone(
    kind: Kind, given: dict[str, Any], model: Path, tmp_path: Path
) -> None:
    config = kind.model_validate({**QUICK, "beta": 0.1, "lora": {"r": 4}})
    fit(tmp_path, config, given)
    before, after = tiny.weights(model), tiny.weights(tmp_path / "model")
    moved = {name for name in before if not before[name].equal(after[name])}
    assert moved == {name for name in before if "_proj" in name}


# --- tripwires ------------------------------------------------------------------------------------

NO_WIRES = dict.fromkeys(("kl", "entropy", "length", "divergence"))


def low(
    prompts: Sequence[Prompt], answers: Sequence[str], ids: Sequence[list[int]]
) -> list[float | str]:
    """A fifth of the tokens pay 1, the others nothing."""
    return [float(i[-1] < 60) for i in ids]


@pytest.mark.parametrize(
    ("kind", "wire", "limit"),
    [
        (GrpoConfig, "kl", 0.3),
        (RlooConfig, "kl", 0.3),
        (RlooConfig, "entropy", 0.8),
        (GrpoConfig, "length", 1.5),
        (GrpoConfig, "divergence", 0.2),
    ],
)
def test_a_wire_stops_the_training_and_goes_back(
    kind: Kind, wire: str, limit: float, given: dict[str, Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Each for real: rewards that lead away from the reference, to one token, to short answers, and
    to what the oracle calls bad."""
    from rlaif.training import models

    tokenizer: Any = models.load_tokenizer(given["model"])
    paying = {tokenizer.decode([i], skip_special_tokens=True) for i in range(60)}

    def truth(prompt: Prompt, text: str) -> dict[str, Any]:
        wrong = [text] if text in paying else []
        return {"violations": wrong, "helpful": None, "well_formed": True}

    def shorter(
        prompts: Sequence[Prompt], answers: Sequence[str], ids: Sequence[list[int]]
    ) -> list[float | str]:
        return [-float(len(i)) for i in ids]

    pays(shorter if wire == "length" else low, monkeypatch)
    monkeypatch.setattr("rlaif.policy.watch.reader", lambda oracle: oracle and truth)
    config = kind.model_validate(
        {
            "batch_size": 32, "samples": 16, "max_tokens": 6 if wire == "length" else 1,
            "max_length": 64, "learning_rate": 1e-2, "beta": 1e-3, "epochs": 60, "probe_every": 2,
            "oracle": "sandbox" if wire == "divergence" else None,
            "wires": NO_WIRES | {wire: limit, "patience": 2},
        }
    )  # fmt: skip
    folder = prompts(tmp_path / "prompts", 2, heldout=4)
    metrics = fit(tmp_path / "into", config, {**given, "prompts": folder})
    stopped = metrics["stopped"]
    assert stopped["wire"] == wire
    assert stopped["why"]
    assert metrics["steps"] == stopped["step"] < metrics["planned_steps"]
    assert stopped["back_to"] < stopped["step"]
    before, after = tiny.weights(given["model"]), tiny.weights(tmp_path / "into" / "model")
    back = all(before[name].equal(after[name]) for name in before)
    assert back == (stopped["back_to"] == 0)


# --- answers without a reward ---------------------------------------------------------------------


@BOTH
def test_where_nothing_has_a_reward_nothing_is_learned(
    kind: Kind,
    given: dict[str, Any],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pays(lambda prompts, answers, ids: ["unavailable"] * len(answers), monkeypatch)
    config = kind.model_validate({**QUICK, "beta": 0.0, "trl": {"weight_decay": 0.0}})
    metrics = fit(tmp_path, config, given)
    assert metrics["rewards"]["unscored"] == {"unavailable": 24}
    assert metrics["reward"] is None
    before, after = tiny.weights(model), tiny.weights(tmp_path / "model")
    assert all(before[name].equal(after[name]) for name in before)


@BOTH
def test_an_answer_without_a_reward_is_not_one_of_zero(
    kind: Kind, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are all worth 1: of them nothing is to be learned, unless 0 were among them."""

    def some(
        prompts: Sequence[Prompt], answers: Sequence[str], ids: Sequence[list[int]]
    ) -> list[float | str]:
        return ["unavailable" if n % 4 == 0 else 1.0 for n in range(len(answers))]

    pays(some, monkeypatch)
    metrics = fit(tmp_path, kind(**QUICK, beta=0.0, rewards=RewardsConfig(normalise=False)), given)
    curve = [json.loads(line) for line in (tmp_path / "curves.jsonl").read_text().splitlines()]
    assert [row["grad_norm"] for row in curve] == [0.0] * 3
    assert metrics["rewards"]["unscored"] == {"unavailable": 6}
    assert metrics["reward"] == 1.0


# --- options --------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"batch_size": 12, "samples": 8}, "`samples` must divide `batch_size`"),
        ({"max_length": 256, "max_tokens": 256}, "leaves a prompt no room"),
        ({"samples": 1}, "greater than or equal to 2"),
        ({"temperature": 0}, "greater than 0"),
    ],
)
def test_what_does_not_add_up_is_an_error(kind: Kind, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        kind.model_validate(given)


@BOTH
@pytest.mark.parametrize("trl", [{}, {"num_iterations": 2}, {"steps_per_generation": 2}])
def test_every_step_is_watched_however_often_answers_are_used(
    kind: Kind, trl: dict[str, Any], given: dict[str, Any], tmp_path: Path
) -> None:
    folder, into = prompts(tmp_path / "prompts", 8, heldout=2), tmp_path / "into"
    config = kind(**QUICK, probe_every=2, trl=trl)
    metrics = fit(into, config, {**given, "prompts": folder})
    rows = [json.loads(line) for line in (into / "curves.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["step"]]
    assert len(steps) == metrics["steps"] > 3
    assert all({"length", "eos_rate", "entropy"} <= row.keys() for row in steps)
    assert any("kl" in row for row in steps)  # RLOO's is of the answers as they are drawn
    probed = {row["step"] for row in rows if "probe/reward" in row}
    assert probed == {*range(0, metrics["steps"] + 1, 2)}
    if kind is GrpoConfig and "num_iterations" in trl:
        assert any(row["clip_fraction"] for row in steps)  # of answers that are used again


@BOTH
def test_too_few_prompts_for_a_batch_are_an_error(
    kind: Kind, given: dict[str, Any], tmp_path: Path
) -> None:
    config = kind(**{**QUICK, "batch_size": 32})
    with pytest.raises(ConfigError, match="6 prompts, and a batch takes 8") as caught:
        fit(tmp_path / "into", config, given)
    assert "lower batch_size" in caught.value.remedy


def test_trl_cannot_go_on_from_a_beginning(given: dict[str, Any], tmp_path: Path) -> None:
    text = "{% block user %}{{ request }}{% endblock %}{% block assistant %}Well{% endblock %}"
    (tmp_path / "draft.j2").write_text(text)
    with pytest.raises(ConfigError, match="begins every answer anew"):
        fit(tmp_path / "stage", GrpoConfig(**QUICK), {**given, "templates": str(tmp_path)})


def test_a_prompt_without_room_for_an_answer_is_left_out(
    given: dict[str, Any], tmp_path: Path
) -> None:
    folder = prompts(tmp_path / "prompts", 2)
    with (folder / "train.jsonl").open("a") as file:
        long = {"id": "long", "messages": [{"role": "user", "content": "boat " * 60}]}
        file.write(json.dumps(long) + "\n")
    metrics = fit(tmp_path / "into", GrpoConfig(**QUICK), {**given, "prompts": folder})
    assert (metrics["examples"], metrics["left_out"]) == (2, {"too_long": 1})
