"""What an answer is worth: sources and weights, normalisation, length, and what has no reward."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rlaif.completions import Store
from rlaif.config.policy import JudgeRewardConfig, RewardModelConfig, RewardsConfig
from rlaif.constitution import Constitution, Principle
from rlaif.engine import Model
from rlaif.engine.scripted import Reply, ScriptedEngine
from rlaif.errors import ConfigError
from rlaif.policy.rewards import Rewards, model_folders, opened
from rlaif.policy.rewards.judging import JudgeReward, judging
from rlaif.policy.rewards.moments import Moments
from rlaif.records import Call, Message, Prompt, Reason, Unanswered
from rlaif.shipped import folder
from rlaif.templates import Templates
from tests import tiny_training as tiny

ASKED = Prompt("p", (Message("user", "How?"),))
PLAIN = RewardsConfig(normalise=False)


def says(*values: float | str) -> Any:
    """A source that gives these rewards, whatever it is shown."""
    return lambda prompts, answers, ids: list(values[: len(answers)])


def score(rewards: Rewards, n: int, lengths: Sequence[int] | None = None) -> list[float]:
    return rewards.score([ASKED] * n, [f"answer {i}" for i in range(n)], [[1, 2]] * n, lengths)


# --- the sum --------------------------------------------------------------------------------------


def test_sources_add_up_by_weight() -> None:
    rewards = Rewards(PLAIN, {"kind": (2.0, says(1.0, 3.0)), "rude": (-0.5, says(4.0, 0.0))})
    assert score(rewards, 2) == [0.0, 6.0]
    assert rewards.batch == {"kind": (4.0, 2), "rude": (4.0, 2)}


def test_an_answer_that_one_source_cannot_score_has_no_reward() -> None:
    first, second = says(1.0, "too_long", "too_long", 2.0), says("no", 1.0, "no", 2.0)
    rewards = Rewards(PLAIN, {"a": (1.0, first), "b": (1.0, second)})
    found = score(rewards, 4)
    assert [math.isnan(value) for value in found] == [True, True, True, False]
    assert found[3] == 4.0
    told = rewards.metrics()
    assert (told["scored"], told["unscored"]) == (1, {"no": 1, "too_long": 2})
    assert told["sources"]["a"]["n"] == 2
    assert rewards.batch == {"a": (3.0, 2), "b": (3.0, 2)}


def test_a_mean_over_processes_is_of_the_answers_that_were_scored() -> None:
    from accelerate import Accelerator

    from rlaif.policy.ppo.curves import Totals

    rewards, totals = Rewards(PLAIN, {"a": (1.0, says(10.0, "no", "no"))}), Totals()
    for n in (3, 1):
        score(rewards, n)
        totals.rewards(rewards.batch)
    totals.rewards({"a": (0.0, 8)})
    assert totals.means(Accelerator(cpu=True))["reward/a"] == pytest.approx(20 / 10)


def test_length_costs_above_the_target_alone() -> None:
    config = RewardsConfig(normalise=False, length_target=10, length_penalty=0.5)
    rewards = Rewards(config, {"a": (1.0, says(1.0, 1.0, "no"))})
    found = score(rewards, 3, [10, 14, 90])
    assert found[:2] == [1.0, -1.0]
    assert math.isnan(found[2])
    assert rewards.batch["length_penalty"] == (0 + 2 + 40, 3)
    with pytest.raises(ValueError, match="needs the lengths"):
        score(rewards, 1)


def test_no_answers_have_no_rewards() -> None:
    assert score(Rewards(RewardsConfig(), {"a": (1.0, says())}), 0) == []


# --- normalisation --------------------------------------------------------------------------------


def test_moments_are_those_of_all_values_at_once() -> None:
    batches = [[1e6 + x for x in batch] for batch in ([1.0, 2.0, 4.0], [], [7.0], [-3.0, 0.5])]
    moments = Moments()
    for batch in batches:
        moments.add(batch)
    every = [value for batch in batches for value in batch]
    assert moments.mean == pytest.approx(statistics.fmean(every), rel=1e-12)
    assert moments.std == pytest.approx(statistics.pstdev(every), rel=1e-9)
    assert Moments(*moments.state()).json() == moments.json()


def test_each_source_is_normalised_before_it_is_weighted() -> None:
    sources = {"small": (1.0, says(0.0, 0.001)), "large": (3.0, says(0.0, 1000.0))}
    assert score(Rewards(RewardsConfig(), sources), 2) == pytest.approx([-4.0, 4.0])


def test_units_are_what_a_value_adds_to_the_sum() -> None:
    config = RewardsConfig()
    rewards = Rewards(config, {"a": (2.0, says(1.0, 5.0, 9.0)), "b": (1.0, says(0.0, 0.0, 0.0))})
    found = score(rewards, 3)
    scale, shift = rewards.units("a")
    assert [scale * value + shift for value in (1.0, 5.0, 9.0)] == pytest.approx(found)
    assert Rewards(PLAIN, {"a": (2.0, says())}).units("a") == (2.0, 0.0)


def test_measuring_leaves_no_trace_but_the_calls_that_were_made() -> None:
    asked = judge(ScriptedEngine(lambda call: (0.9, 0.1)))
    rewards = Rewards(RewardsConfig(models=(), judge={}), {"judge": (1.0, asked)})  # type: ignore[arg-type]
    score(rewards, 3)
    before = rewards.metrics()
    for _ in range(5):
        with rewards.measuring():
            rewards.score([ASKED] * 2, ["x", "y"], [[1]] * 2)
    after = rewards.metrics()
    assert after["calls"].pop("sent") == asked.counts.sent == before["calls"].pop("sent") / 3 * 13
    assert {k: after[k] for k in ("sources", "scored")} == {
        k: before[k] for k in ("sources", "scored")
    }


@pytest.mark.parametrize("n", [3, 6, 12, 24, 48])
@pytest.mark.parametrize("value", [0.1, 0.7, -0.2, 0.0, 1e-20])
def test_rounding_is_no_deviation(value: float, n: int) -> None:
    moments = Moments()
    moments.add([value] * n)
    assert moments.std == 1.0
    assert abs(moments.standard(value)) < 1e-15
    assert moments.json()["std"] == 0.0


def test_what_never_varies_is_only_centred() -> None:
    assert score(Rewards(RewardsConfig(), {"a": (1.0, says(5.0, 5.0))}), 2) == [0.0, 0.0]


def test_the_state_makes_the_same_rewards_anew() -> None:
    def rewards() -> Rewards:
        return Rewards(RewardsConfig(), {"a": (1.0, says(1.0, 2.0, 5.0, "no"))})

    whole, torn = rewards(), rewards()
    score(whole, 4)
    score(torn, 4)
    resumed = rewards()
    resumed.restore(json.loads(json.dumps(torn.state())))
    assert score(resumed, 3) == score(whole, 3)
    assert resumed.metrics() == whole.metrics()


TWO = """
import json, sys
from accelerate import PartialState
from rlaif.config.policy import RewardsConfig
from rlaif.policy.rewards import Rewards
rank = PartialState(cpu=True).process_index
mine = [[1.0, 2.0], [6.0, "no"]][rank]
rewards = Rewards(RewardsConfig(), {"a": (1.0, lambda prompts, answers, ids: mine)})
values = rewards.score([None] * 2, ["", ""], [[1], [1]])
with open(f"{sys.argv[1]}/{rank}.json", "w") as file:
    json.dump([values[0], rewards.metrics()], file)
PartialState().destroy_process_group()
"""


@pytest.mark.slow
def test_several_processes_normalise_alike(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(TWO)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [sys.executable, *launch, str(tmp_path / "two.py"), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    (low, first), (high, second) = (
        json.loads((tmp_path / f"{n}.json").read_text()) for n in (0, 1)
    )
    assert first == second
    assert (first["scored"], first["unscored"]) == (3, {"no": 1})
    std = statistics.pstdev([1.0, 2.0, 6.0])
    assert first["sources"]["a"] == {"n": 3, "mean": 3.0, "std": pytest.approx(std)}
    assert (low, high) == (pytest.approx(-2 / std), pytest.approx(3 / std))


# --- reward models --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny.model(tmp_path_factory.mktemp("model"), dtype="float32")
    return tiny.reward_model(model, tmp_path_factory.mktemp("reward"))


def test_the_runs_own_model_reads_tokens_another_reads_text(reward_model: Path) -> None:
    from rlaif.reward.scoring import RewardModel
    from rlaif.training.examples import Encoder

    asked, answered = Encoder(reward_model, 64)(ASKED.messages, "boats")
    cut = [*asked, *answered[:-1]]  # an answer without its end
    models = (RewardModelConfig(), RewardModelConfig(name="other", path=reward_model))
    config = RewardsConfig(models=models, normalise=False)
    given = model_folders(config, reward_model)
    with opened(config, reward_models=given, judge=None, seed=0) as rewards:
        rewards.score([ASKED], ["boats"], [cut])
    model = RewardModel(reward_model)
    own, other = model.of_ids([cut, [*asked, *answered]])
    found = {name: total for name, (total, _) in rewards.batch.items()}
    assert found == {"reward": pytest.approx(own), "other": pytest.approx(other)}
    assert own != pytest.approx(other)


def test_a_text_that_another_model_cannot_read_is_counted(reward_model: Path) -> None:
    models = (RewardModelConfig(name="other", path=reward_model),)
    config = RewardsConfig(models=models)
    given = model_folders(config, None)
    with opened(config, reward_models=given, judge=None, seed=0) as rewards:
        found = rewards.score([ASKED] * 2, ["boat", "boat " * 3000], [[1], [1]])
    assert [math.isnan(value) for value in found] == [False, True]
    assert rewards.metrics()["unscored"] == {"not_readable": 1}


def test_reward_models_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the reward stage is switched off"):
        model_folders(RewardsConfig(), None)
    with pytest.raises(ConfigError, match="this is no model"):
        model_folders(RewardsConfig(models=(RewardModelConfig(path=tmp_path),)), None)


def test_a_run_is_told_so_before_anything_is_spent(tmp_path: Path) -> None:
    from rlaif.checking import check
    from tests import finished_run

    asked = finished_run.requests(tmp_path / "p.jsonl", train=2, heldout=1)
    off = {"enabled": False}
    check(finished_run.config(prompts=asked, reward=off))
    check(finished_run.config(prompts=asked, policy={"kind": "grpo"}))
    with pytest.raises(ConfigError, match="the reward stage is switched off"):
        check(finished_run.config(prompts=asked, reward=off, policy={"kind": "grpo"}))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"models": []}, "name a reward model"),
        ({"models": [{}, {}]}, "a name of its own"),
        ({"models": [{"name": "judge"}], "judge": {}}, "a name of its own"),
        ({"length_target": 0}, "greater than 0"),
    ],
)
def test_what_does_not_add_up_is_an_error(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        RewardsConfig.model_validate(given)


# --- the judge ------------------------------------------------------------------------------------


def principle(id: str, **more: Any) -> Principle:
    wordings = {name: (f"{name} {id}?",) for name in ("critique", "revise", "prefer")}
    return Principle.model_validate({"id": id, **wordings, **more})


LAW = Constitution(
    id="law",
    version="1",
    principles=(
        principle("kind"),
        principle("brief", weight=3.0),
        principle("calm", applies_to=("angry",)),
        principle("silent", prefer=()),
    ),
)
P_YES = {"kind": 0.2, "brief": 0.6, "calm": 0.9}


def reply(call: Call) -> Reply:
    asked = call.messages[-2].content
    if "lost" in asked:
        return Unanswered(Reason.UNAVAILABLE, "no server")
    p = next(p for id, p in P_YES.items() if f"critique {id}?" in asked)
    return p, 1 - p


def judge(engine: ScriptedEngine, store: Store | None = None, **config: Any) -> JudgeReward:
    templates = Templates(folder("prompts"))
    model = Model.of(engine, store)
    return JudgeReward(JudgeRewardConfig(**config), model, LAW, templates, seed=0)


def test_the_judges_reward_is_the_mean_over_the_principles_that_apply() -> None:
    engine = ScriptedEngine(reply)
    angry = Prompt("q", ASKED.messages, ("angry",))
    found = judge(engine)([ASKED, angry], ["fine", "fine"], [])
    plain = (1 * (1 - 2 * 0.2) + 3 * (1 - 2 * 0.6)) / 4
    assert found == pytest.approx([plain, (4 * plain + (1 - 2 * 0.9)) / 5])
    assert len(engine.asked) == 5  # `silent` has no question for a judge
    assert {call.labels for call in engine.asked} == {(" Yes", " No")}
    (found,) = judge(engine, scale="log_odds")([ASKED], ["fine"], [])
    assert found == pytest.approx((math.log(0.8 / 0.2) + 3 * math.log(0.4 / 0.6)) / 4)


def test_all_that_apply_count_by_weight_also_if_more_were_wanted() -> None:
    whole, more = (judge(ScriptedEngine(reply), principles=k) for k in (0, 5))
    assert whole([ASKED], ["fine"], []) == more([ASKED], ["fine"], [])


def test_drawn_principles_count_alike_and_are_the_prompts_own() -> None:
    engine = ScriptedEngine(reply)
    prompts = [Prompt(f"p{i}", ASKED.messages) for i in range(20) for _ in range(2)]
    found = judge(engine, principles=1)(prompts, ["one", "other"] * 20, [])
    assert found[::2] == found[1::2]
    kinds = sorted({value for value in found if isinstance(value, float)})
    assert kinds == pytest.approx([1 - 2 * P_YES["brief"], 1 - 2 * P_YES["kind"]])


def test_what_the_judge_cannot_answer_has_a_reason_in_place_of_a_reward() -> None:
    found = judge(ScriptedEngine(reply))([ASKED] * 2, ["lost", "fine"], [])
    assert found[0] == "unavailable"
    assert isinstance(found[1], float)
    mild = LAW.model_copy(update={"principles": (principle("calm", applies_to=("angry",)),)})
    templates, model = Templates(folder("prompts")), Model.of(ScriptedEngine(reply))
    assert JudgeReward(JudgeRewardConfig(), model, mild, templates, 0)([ASKED], ["x"], []) == [
        "no_principle"
    ]


def test_no_verdict_is_paid_for_twice(tmp_path: Path) -> None:
    with Store(tmp_path / "store.sqlite3") as store:
        engine = ScriptedEngine(reply)
        first = judge(engine, store)([ASKED] * 3, ["a", "b", "a"], [])
        assert len(engine.asked) == 4
        again = ScriptedEngine(reply)
        assert judge(again, store)([ASKED] * 3, ["a", "b", "a"], []) == first
        assert not again.asked


def test_a_judge_is_described_in_json(tmp_path: Path) -> None:
    """Nothing is started before the first question that the store cannot answer."""
    from rlaif.config import EngineConfig

    told = {
        "engine": EngineConfig(model="org/judge").model_dump(mode="json"),
        "constitution": str(folder("constitution") / "sandbox.yaml"),
        "templates": str(folder("prompts")),
        "store": str(tmp_path / "store.sqlite3"),
    }
    config = JudgeRewardConfig(weight=2.0)
    with judging(config, json.loads(json.dumps(told)), seed=0) as asked:
        assert asked([], [], []) == []
    given = RewardsConfig(models=(), judge=config)
    with opened(given, reward_models={}, judge=told, seed=0) as rewards:
        assert score(rewards, 0) == []
    with (
        pytest.raises(ConfigError, match="there is no judge"),
        opened(given, reward_models={}, judge=None, seed=0),
    ):
        pass


def test_calls_to_the_judge_are_counted_over_an_interruption() -> None:
    def rewards() -> Rewards:
        return Rewards(PLAIN, {"judge": (1.0, judge(ScriptedEngine(reply)))})

    assert "calls" not in Rewards(PLAIN, {"a": (1.0, says(1.0))}).metrics()
    torn = rewards()
    score(torn, 3)
    score(torn, 2)
    assert torn.metrics()["calls"]["answered"] == 10  # two principles an answer
    resumed = rewards()
    resumed.restore(json.loads(json.dumps(torn.state())))
    resumed.score([ASKED] * 2, ["lost", "fine"], [[1]] * 2)
    told = resumed.metrics()["calls"]
    assert (told["sent"], told["answered"], told["unanswered"]) == (14, 12, {"unavailable": 2})
    assert told["said"] == {"unavailable": "no server"}


def test_the_judges_calls_are_the_policy_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlaif import policy, training
    from rlaif.config.policy import GrpoConfig
    from rlaif.estimating import Past
    from tests import finished_run

    asked = Rewards(PLAIN, {"judge": (1.0, judge(ScriptedEngine(reply)))})
    score(asked, 10)
    ended = {"steps": 5, "rewards": asked.metrics()}
    monkeypatch.setattr(training, "train", lambda *args, **given: ended)
    config = GrpoConfig.model_validate({"rewards": {"models": [], "judge": {}}})
    metrics = policy.policy(tmp_path, config, pairs=tmp_path, model="m", seed=0, prompts=tmp_path)
    assert metrics["calls"]["answered"] == 20
    assert "calls" not in metrics["rewards"]
    began = {"made_from": {"inputs": {"drafter": "start", "critic": "judge"}}}
    policy_made = {"finished": "now", "seconds": 60.0, "metrics": metrics}
    for stage, record in (("critique", began), ("policy", policy_made)):
        (tmp_path / "old" / stage).mkdir(parents=True)
        (tmp_path / "old" / stage / "stage.json").write_text(
            json.dumps(finished_run.record(**record))
        )
    now = finished_run.config(prompts=tmp_path / "p.jsonl")
    tokens, _ = Past(tmp_path, ("start", "judge"), now, 4).estimate("policy", 40)
    calls = metrics["calls"]
    assert tokens == 2 * (calls["prompt_tokens"] + calls["completion_tokens"])
