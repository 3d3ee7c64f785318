"""PPO as a training: what is learned and what is not, exactness, resume, tripwires."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from rlaif import shipped
from rlaif.config.policy import PpoConfig, RewardsConfig
from rlaif.config.section import LoraConfig
from rlaif.errors import TrainingFailed
from rlaif.jsonl import writing
from rlaif.policy.rewards import Rewards
from rlaif.records import Message, Prompt
from tests import finished_run
from tests import tiny_training as tiny

Row = dict[str, float]
DEMO_PPO = Path(shipped.__file__).parent / "sandbox" / "demo_ppo.yaml"
QUICK: dict[str, Any] = {
    "batch_size": 4, "minibatches": 2, "ppo_epochs": 2, "max_tokens": 6, "max_length": 40,
    "learning_rate": 1e-3, "epochs": 1, "probe_every": 2, "probe_prompts": 4, "save_every": 1,
    "rollouts": "transformers",
}  # fmt: skip
NO_WIRES = {"kl": None, "entropy": None, "length": None, "divergence": None}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.model(tmp_path_factory.mktemp("tiny"), dtype="float32")


@pytest.fixture(scope="module")
def reward_model(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.reward_model(model, tmp_path_factory.mktemp("reward"))


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    for split, numbers in (("train", range(16)), ("heldout", range(100, 124))):
        with writing(folder / f"{split}.jsonl") as write:
            for i in numbers:
                write(Prompt(f"p{i}", (Message("user", f"say {tiny.text(i)}"),)))
    return folder


@pytest.fixture
def given(model: Path, reward_model: Path, prompts: Path) -> dict[str, Any]:
    """What the stage asks for, beside the config."""
    folders = {"reward": str(reward_model)}
    return {
        "model": str(model), "prompts": str(prompts), "reward_models": folders, "judge": None,
        "critic": str(reward_model),
    }  # fmt: skip


def config(**more: Any) -> PpoConfig:
    wires = NO_WIRES | more.pop("wires", {})
    return PpoConfig.model_validate(QUICK | more | {"wires": wires})


def trained(into: Path, given: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    from rlaif.policy.ppo import fit

    return tiny.fit(fit, into, config(**more), **given)


def curves(into: Path) -> list[Row]:
    return [json.loads(line) for line in (into / "curves.jsonl").read_text().splitlines()]


@contextmanager
def session(into: Path, given: Mapping[str, Any], **more: Any) -> Iterator[Any]:
    """The parts of a training, before its first step."""
    from rlaif import training
    from rlaif.policy.ppo.running import Session
    from rlaif.policy.rewards import opened

    made = config(**more)
    tiny.begin(into, made, **given)
    folders = {name: Path(folder) for name, folder in given["reward_models"].items()}
    with opened(made.rewards, reward_models=folders, judge=None, seed=0) as rewards:
        yield Session(into, made, training.job(into), rewards)


def paid(monkeypatch: pytest.MonkeyPatch, worth: Callable[[list[int], str], float]) -> None:
    """Let the rewards be a function of (all tokens, text)."""

    @contextmanager
    def opened(asked: RewardsConfig, **_: Any) -> Iterator[Rewards]:
        def source(prompts: Any, answers: Any, ids: Any) -> list[float | str]:
            return [worth(i, answer) for i, answer in zip(ids, answers, strict=True)]

        yield Rewards(asked, {"reward": (1.0, source)})

    monkeypatch.setattr("rlaif.policy.ppo.running.opened", opened)


# --- the config -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"trl": {"beta": 1}}, "no options in `trl`"),
        ({"samples": 3}, "must divide"),
        ({"max_tokens": 40}, "leaves a prompt no room"),
        ({"launch": ("--cpu", "--num_processes", "2")}, "starts one process alone"),
    ],
)
def test_a_config_that_cannot_be_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        config(**wrong)


# --- a whole training -----------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, {"r": 2, "alpha": 4}])
def test_what_should_move_has_moved_and_nothing_else(
    given: dict[str, Any], tmp_path: Path, lora: Any
) -> None:
    import torch

    from rlaif.policy.ppo.batches import Rollout, collated

    with session(tmp_path / "one", given, lora=lora) as made:
        policy, critic = made.policy, made._critic.model
        rollout = Rollout(made._prompts.batch(0, 1)[0][0], [7, 8, 9], [10, 11], [0.0, 0.0], False)
        micro = collated([rollout], [0], 4)
        before = [dict(m.named_parameters()) for m in (policy.learner.model, critic)]
        copies = [{n: p.detach().clone() for n, p in found.items()} for found in before]
        reference = policy.reference(micro)[0]
        assert torch.equal(reference, policy.log_probs(micro))
        made.train()
        for found, old in zip(before, copies, strict=True):
            for name, weight in found.items():
                assert weight.requires_grad == (not torch.equal(weight, old[name])), name
        assert torch.equal(policy.reference(micro)[0], reference)
        assert not torch.equal(policy.log_probs(micro), reference)
        moved = sum(p.requires_grad for p in policy.learner.model.parameters())
        assert moved == (2 * 7 if lora else len(copies[0]))
        metrics = made.metrics()
        policy.save(tmp_path / "one/model", made.encode.tokenizer)
    assert tiny.same_files(Path(given["critic"]), reward_model_of(given), ["model.safetensors"])
    assert metrics["steps"] == 2
    assert metrics["answers"] == 16
    saved, start = tiny.weights(tmp_path / "one/model"), tiny.weights(Path(given["model"]))
    assert saved.keys() == start.keys()
    assert {w.dtype for w in saved.values()} == {w.dtype for w in start.values()}


def reward_model_of(given: Mapping[str, Any]) -> Path:
    return Path(given["reward_models"]["reward"])


def test_the_curves_and_the_metrics_say_what_happened(
    given: dict[str, Any], tmp_path: Path
) -> None:
    metrics = trained(tmp_path / "one", given, epochs=2, temperature=0.7, kl_target=0.001)
    rows = curves(tmp_path / "one")
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert [("probe/reward" in row) for row in rows] == [True, False, True, False, True]
    for row in rows[1:]:
        assert row["mismatch"] < 1e-5  # the log-probabilities of what was drawn, at 0.7
        assert row["kl_k3"] >= 0
        assert row["reward_after_kl"] == pytest.approx(
            row["score"] - row["beta"] * row["kl"] - (1 - row["eos_rate"]), abs=1e-4
        )
    assert rows[1]["kl"] == pytest.approx(0, abs=1e-6)
    assert rows[1]["beta"] == 0.05 > rows[2]["beta"]  # no KL yet: beta falls
    assert rows[4]["beta"] > rows[3]["beta"]  # too much: beta rises
    assert metrics["stopped"] is None
    assert metrics["probe"]["first"]["step"] == 0
    assert metrics["rewards"]["scored"] == 32
    progress = json.loads((tmp_path / "one/progress.json").read_text())
    assert (progress["step"], progress["total"]) == (4, 4)


def test_the_critic_begins_as_the_reward_model_and_without_one_at_zero(
    given: dict[str, Any],
) -> None:
    import torch

    from rlaif.policy.ppo.critic import load_critic
    from rlaif.reward.scoring import RewardModel

    critic = load_critic(Path(given["critic"]), Path(given["model"]), None)
    ids = [5, 9, 12, 40]
    inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, 4).long()}
    values = critic(3, **inputs)  # of the states before the last three tokens
    rewards = list(RewardModel(Path(given["critic"])).of_ids([ids[:1], ids[:2], ids[:3]]))
    assert values.tolist()[0] == pytest.approx(rewards, abs=1e-5)
    assert critic.head.weight.dtype == torch.float32
    assert not load_critic(None, Path(given["model"]), None)(3, **inputs).any()


def test_the_critic_speaks_in_the_units_of_the_rewards(
    given: dict[str, Any], tmp_path: Path
) -> None:
    """Which are standard deviations, whatever the reward model's own are."""
    from safetensors.torch import load_file, save_file

    from rlaif.training.models import HEAD

    loud = shutil.copytree(given["critic"], tmp_path / "loud")
    weights = load_file(loud / "model.safetensors")
    save_file(weights | {HEAD: weights[HEAD] * 10}, loud / "model.safetensors", {"format": "pt"})
    given_loud = given | {"critic": str(loud), "reward_models": {"reward": str(loud)}}
    first = []
    for name, asked in (("quiet", given), ("loud", given_loud)):
        with session(tmp_path / name, asked) as made:
            row = made._ppo.step()
            seen = made._rewards.metrics()["sources"]["reward"]
            units = (1 / seen["std"], -seen["mean"] / seen["std"])
            assert made._critic.bare.units == pytest.approx(units)
            assert made._state()["units"] == made._critic.bare.units
            first.append((row["explained_variance"], row["value_loss"]))
    assert first[0] == pytest.approx(first[1], rel=1e-3)


def test_a_critic_of_other_rewards_begins_at_zero(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlaif import policy

    seen: dict[str, Any] = {}
    monkeypatch.setattr(policy.training, "train", lambda *args, **more: seen.update(more) or {})
    own = tmp_path / "reward"
    shutil.copytree(given["critic"], own / "model")
    judged = config(rewards={"models": [], "judge": {}})
    more: dict[str, Any] = {"pairs": tmp_path, "model": "", "seed": 0, "rewarded": own}
    policy.policy(tmp_path, judged, **more)
    assert seen["critic"] is None
    other = {"name": "other", "path": str(own / "model")}
    watched = config(rewards={"models": [{"weight": 0.0}, other]})  # read, and not counted
    policy.policy(tmp_path, watched, **more)
    assert seen["critic"] is None
    policy.policy(tmp_path, config(), **more)
    assert seen["critic"] == own / "model"


def test_a_prompt_that_comes_twice_in_a_batch_is_answered_anew(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with session(tmp_path / "one", given, batch_size=16, minibatches=4) as made:
        ppo, seeds = made._ppo, []
        engine = ppo._engine
        drawn = lambda asked: seeds.extend(r.seed for r in asked) or engine.draw(asked)  # noqa: E731
        monkeypatch.setattr(ppo, "_engine", SimpleNamespace(draw=drawn))
        rollouts = ppo._drawn(1)
    assert len({r.prompt.id for r in rollouts}) < len(rollouts) == len(set(seeds)) == 64


def test_an_answer_without_a_reward_teaches_nothing(given: dict[str, Any], tmp_path: Path) -> None:
    from rlaif.policy.ppo.batches import Rollout
    from rlaif.policy.ppo.curves import Totals

    with session(tmp_path / "one", given) as made:
        asked = made._prompts.batch(0, 1)[0][0]
        known = [Rollout(asked, [7], [8, 9, n], [0.0] * 3, finished=True) for n in (10, 11)]
        unknown = Rollout(asked, [7, 6], [9, 9], [0.0, 0.0], finished=True)
        reckoner = made._ppo._reckoner
        without = reckoner.experience(known, [1.0, 3.0], 0.1, Totals())
        beside = reckoner.experience([*known, unknown], [1.0, 3.0, math.nan], 0.1, Totals())
    assert not beside.mask[2].any()
    for name in ("mask", "advantages", "returns", "weight"):
        one, other = getattr(without, name), getattr(beside, name)[:2]
        assert torch.allclose(one * without.mask, other * without.mask, atol=1e-5), name


@pytest.mark.parametrize(
    ("estimator", "nats"), [("k1", 0.5), ("k2", 0.125), ("k3", math.exp(-0.5) - 0.5)]
)
def test_the_reward_pays_for_the_divergence(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, estimator: str,
    nats: float,
) -> None:  # fmt: skip
    from rlaif.policy.ppo.batches import Rollout
    from rlaif.policy.ppo.curves import Totals

    with session(tmp_path, given, kl_estimator=estimator, gamma=1, lam=1) as made:
        policy, asked = made.policy, made._prompts.batch(0, 1)[0][0]
        monkeypatch.setattr(policy, "reference", lambda micro: (policy.log_probs(micro) - 0.5,))
        drawn = [Rollout(asked, [7], [8, 9], [0.0, 0.0], finished=True)]
        found = made._ppo._reckoner.experience(drawn, [1.0], 0.1, Totals())
    assert found.returns[0].tolist() == pytest.approx([1 - 0.2 * nats, 1 - 0.1 * nats], abs=1e-5)


def test_options_do_what_they_say(given: dict[str, Any], tmp_path: Path) -> None:
    from rlaif.policy.ppo.batches import Rollout
    from rlaif.policy.ppo.curves import Totals

    def experience(name: str, **more: Any) -> Any:
        with session(tmp_path / name, given, **more) as made:
            asked = made._prompts.batch(0, 1)[0][0]
            drawn = [Rollout(asked, [7], [8, n], [-9.0, -0.1], finished=True) for n in (9, 10)]
            return made._ppo._reckoner.experience(drawn, [1.0, 5.0], 0.1, Totals())

    plain, corrected = experience("plain"), experience("corrected", correction=1.5)
    assert (plain.weight == 1).all()
    assert (corrected.weight[:, 0] == 1.5).all()  # far likelier now than when it was drawn
    assert (corrected.weight[:, 1] < 1).all()
    whitened = experience("whitened", whiten_rewards=True)
    assert not torch.allclose(plain.returns, whitened.returns, atol=1e-3)
    trained(tmp_path / "warm", given, critic_warmup=1, critic_learning_rate=1e-3)
    first, second = curves(tmp_path / "warm")[1:3]
    assert (first["grad_norm"], second["grad_norm"] > 0) == (0.0, True)
    assert first["critic_grad_norm"] > 0
    assert second["learning_rate"] < first["learning_rate"] == config().learning_rate


def test_a_cut_answer_costs_the_penalty(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlaif.policy.ppo.batches import Rollout
    from rlaif.policy.ppo.curves import Totals

    with session(tmp_path / "one", given, no_eos_penalty=3.0, beta=0.0, gamma=1, lam=1) as made:
        asked = made._prompts.batch(0, 1)[0][0]
        rollouts = [Rollout(asked, [7], [8, 9], [0.0, 0.0], finished) for finished in (True, False)]
        reckoner = made._ppo._reckoner
        monkeypatch.setattr(reckoner, "_config", made._config.model_copy(
            update={"whiten_advantages": False}
        ))  # fmt: skip
        found = reckoner.experience(rollouts, [1.0, 1.0], 0.0, Totals())
    assert found.returns.tolist() == [pytest.approx([1, 1]), pytest.approx([-2, -2])]


# --- exactness ------------------------------------------------------------------------------------


def batch(n: int = 6) -> list[Any]:
    from rlaif.policy.ppo.batches import Rollout

    dice = random.Random(0)

    def ids(most: int) -> list[int]:
        return [dice.randrange(5, 250) for _ in range(dice.randint(1, most))]

    prompt = Prompt("p", (Message("user", "x"),))
    return [Rollout(prompt, ids(9), t := ids(7), [-1.0] * len(t), True) for _ in range(n)]


def losses(made: Any, padded: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Both losses of a batch and their gradients, its micro batch changed by `padded`."""
    from rlaif.policy.ppo import trainer
    from rlaif.policy.ppo.batches import collated
    from rlaif.policy.ppo.curves import Totals

    rollouts = batch()
    made._ppo.state.step = 1
    experience = made._ppo._reckoner.experience(rollouts, [0.5, -1, 2, 0, 1, 1], 0.1, Totals())
    micro = padded(collated(rollouts, range(6), 4))
    wider = {
        name: widened(getattr(experience, name), micro.mask.shape[1])
        for name in ("mask", "old", "values", "advantages", "returns", "weight")
    }
    wider["old"] = wider["old"] - 0.1  # a ratio that is not 1
    experience = trainer.Experience(**wider)
    found, gradients = [], []
    for loss, learner in (
        (made._ppo._policy_loss, made.policy.learner),
        (made._ppo._value_loss, made._critic),
    ):
        value = loss(micro, experience, float(experience.mask.sum()), Totals())()
        value.backward()
        found.append(value.item())
        gradients += [p.grad.clone() for p in learner.model.parameters()]
        learner.model.zero_grad()
    return found, gradients


def widened(table: Any, longest: int) -> Any:
    import torch

    return torch.nn.functional.pad(table, (0, longest - table.shape[1]))


@pytest.mark.parametrize(("left", "right"), [(5, 0), (0, 4), (3, 7)])
def test_more_padding_changes_neither_losses_nor_gradients(
    given: dict[str, Any], tmp_path: Path, left: int, right: int
) -> None:
    import torch

    from rlaif.policy.ppo.batches import Micro

    def padded(micro: Any) -> Any:
        def wide(table: Any, value: int, front: int) -> Any:
            return torch.nn.functional.pad(table, (front, right), value=value)

        return Micro(
            micro.rows, wide(micro.input_ids, 4, left), wide(micro.attention_mask, 0, left),
            wide(micro.answer, 4, 0), wide(micro.mask, 0, 0),
        )  # fmt: skip

    with session(tmp_path / "one", given) as made:
        plain, gradients = losses(made, lambda micro: micro)
        found, others = losses(made, padded)
    assert found == pytest.approx(plain, rel=1e-6, abs=1e-6)
    for a, b in zip(gradients, others, strict=True):
        assert (a - b).abs().max() <= 1e-6 * max(1.0, a.abs().max())
    assert max(g.abs().max() for g in gradients) > 1e-3


def test_micro_batches_add_up_to_one_big_batch(given: dict[str, Any], tmp_path: Path) -> None:
    """After all steps on the first batch of answers, whose lengths differ."""
    found = {}
    for size in (1, 3, 4):
        with session(tmp_path / f"{size}", given, micro_batch=size, learning_rate=1e-4) as made:
            made._ppo.step()
            models = made.policy.learner.model, made._critic.model
            found[size] = [p.detach().clone() for m in models for p in m.parameters()]
    for size in (1, 3):
        pairs = zip(found[size], found[4], strict=True)
        assert max(float((a - b).abs().max()) for a, b in pairs) < 1e-6


def test_micro_batches_are_cut_where_it_costs_least() -> None:
    from rlaif.policy.ppo.batches import Rollout, micro_batches

    def answered(lengths: list[int], size: int, overhead: int | None) -> list[list[int]]:
        prompt = Prompt("p", (Message("user", "x"),))
        rollouts = [Rollout(prompt, [7, 8], [9] * n, [0.0] * n, True) for n in lengths]
        cut = micro_batches(rollouts, range(len(lengths)), size, 4, overhead=overhead)
        return [[lengths[row] for row in micro.rows.tolist()] for micro in cut]

    mixed = [40, 3, 5, 41, 4]
    assert answered(mixed, 3, None) == [[3, 4, 5], [40, 41]]
    assert answered(mixed, 5, 16) == [[3, 4, 5], [40, 41]]
    assert answered(mixed, 5, 1000) == [[3, 4, 5, 40, 41]]
    assert answered(mixed, 5, 0) == [[3], [4], [5], [40], [41]]
    assert answered([6] * 5, 2, 16) in ([[6], [6, 6], [6, 6]], [[6, 6], [6, 6], [6]])

    dice = random.Random(0)
    for _ in range(20):  # no cut is cheaper: all of them, of six answers
        lengths = sorted(dice.randrange(1, 30) for _ in range(6))

        def cost(cut: list[list[int]]) -> int:
            return sum(len(part) * (2 + max(part)) + 9 for part in cut)

        ways = [[[lengths[0]]]]
        for n in lengths[1:]:
            ways = [way for w in ways for way in ([*w, [n]], [*w[:-1], [*w[-1], n]])]
        cheapest = min(cost(way) for way in ways if max(map(len, way)) <= 4)
        assert cost(answered(lengths, 4, 9)) == cheapest


def test_dropout_is_off(model: Path, tmp_path: Path, given: dict[str, Any]) -> None:
    import torch

    from rlaif.policy.ppo.batches import collated

    wet = shutil.copytree(model, tmp_path / "wet")
    settings = json.loads((wet / "config.json").read_text()) | {"attention_dropout": 0.5}
    (wet / "config.json").write_text(json.dumps(settings))
    micro = collated(batch(), range(6), 4)
    with session(tmp_path / "one", given | {"model": str(wet)}) as made:
        made.policy.learner.model.train()
        first, second = (made.policy.log_probs(micro) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("of", ["policy", "value"])
def test_an_infinite_gradient_leaves_no_checkpoint(
    of: str, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlaif.policy.ppo import objective

    loss = getattr(objective, f"{of}_loss")

    def steep(new: torch.Tensor, *others: Any) -> Any:
        new.register_hook(lambda gradient: gradient * math.inf)
        return loss(new, *others)

    monkeypatch.setattr(objective, f"{of}_loss", steep)
    with pytest.raises(TrainingFailed, match="grad_norm is nan in batch 1"):
        trained(tmp_path, given, minibatches=1, ppo_epochs=1)
    assert not list(tmp_path.glob("checkpoints/checkpoint-*"))


# --- drawing --------------------------------------------------------------------------------------


def test_a_draw_hangs_on_its_seed_alone(given: dict[str, Any], tmp_path: Path) -> None:
    from rlaif.policy.ppo.rollouts import Request, seed_of

    with session(tmp_path / "one", given) as made:
        drawing = made._ppo._engine
        asked = [[7, 8, 9], [10], [11, 12, 13, 14, 15]]
        requests = [Request(ids, seed_of(0, i)) for i, ids in enumerate(asked)]
        together = drawing.draw(requests)
        alone = [drawing.draw([request])[0] for request in reversed(requests)][::-1]
        others = drawing.draw([Request(r.asked, seed_of(1, r.seed)) for r in requests])
    assert [d.tokens for d in together] == [d.tokens for d in alone]
    assert [d.tokens for d in together] != [d.tokens for d in others]


def test_draws_follow_the_distribution_at_its_temperature() -> None:
    import torch

    from rlaif.policy.ppo.rollouts import Keyed

    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0]])
    keyed = Keyed(range(4000), 1, 0.5, "cpu")
    scores = keyed(torch.zeros(4000, 1).long(), logits.expand(4000, 4))
    wanted = (logits / 0.5).softmax(-1)[0]
    shares = torch.bincount(scores.argmax(-1), minlength=4) / 4000
    assert shares.tolist() == pytest.approx(wanted.tolist(), abs=0.02)
    drawn = wanted.log()[scores.argmax(-1)]
    assert torch.allclose(keyed.logprobs[0], drawn)


def test_served_weights_are_those_that_are_saved(given: dict[str, Any], tmp_path: Path) -> None:
    import torch

    with session(tmp_path / "one", given, lora=LoraConfig(r=2).model_dump()) as made:
        made.train()
        served = dict(made.policy.weights())
        made.policy.save(tmp_path / "one/model", made.encode.tokenizer)
    saved = tiny.weights(tmp_path / "one/model")
    assert served.keys() == saved.keys()
    assert all(torch.allclose(served[name], saved[name], atol=1e-6) for name in saved)


@pytest.mark.vllm
def test_vllm_draws_with_the_weights_as_they_are(
    given: dict[str, Any], tmp_path: Path, model: Path
) -> None:
    """In a child process: its log-probabilities equal the trainer's before and after updates."""
    from rlaif.policy.ppo import fit

    entry = f"{fit.__module__}:fit"
    into = tmp_path / "one"
    tiny.begin(
        into, config(rollouts="vllm", epochs=2, learning_rate=1e-2, temperature=0.8), **given
    )
    assert tiny.child(entry, into).wait(280) == 0, (into / "train.log").read_text()[-3000:]
    rows = curves(into)[1:]
    assert len(rows) == 4
    assert max(row["mismatch"] for row in rows) < 1e-4
    assert rows[-1]["kl"] > 0.1  # or there was no update to see


# --- resume ---------------------------------------------------------------------------------------


def told_after(step: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal to ourselves, once the row of a step is written."""
    from rlaif.policy.ppo import curves

    def said(path: Path, value: Any) -> None:
        if value["step"] == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(curves, "write_whole", said)


MADE = ["curves.jsonl", "model/model.safetensors"]
LONG: dict[str, Any] = {"epochs": 2, "kl_target": 0.01, "lora": {"r": 2}}


@pytest.fixture(scope="module")
def undisturbed(
    model: Path, reward_model: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    into = tmp_path_factory.mktemp("undisturbed")
    folders = {"reward": str(reward_model)}
    given = {"model": str(model), "prompts": str(prompts), "reward_models": folders}
    trained(into, {**given, "judge": None, "critic": str(reward_model)}, **LONG)
    return into


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_training_that_was_stopped_goes_on_exactly(
    given: dict[str, Any], tmp_path: Path, undisturbed: Path, step: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with monkeypatch.context() as patched:
        told_after(step, signal.SIGTERM, patched)
        with pytest.raises(SystemExit) as ended:
            trained(
                tmp_path / "one",
                given,
                **LONG,
            )
    assert ended.value.code == 143
    assert len(curves(tmp_path / "one")) == step + 1
    trained(tmp_path / "one", given, **LONG)
    assert tiny.same_files(tmp_path / "one", undisturbed, MADE)


def test_a_training_that_was_killed_goes_on_from_its_last_checkpoint(
    given: dict[str, Any], tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torn files and all: a row too many, half a row, half a checkpoint."""
    into = tmp_path / "one"
    with monkeypatch.context() as patched:
        told_after(2, signal.SIGTERM, patched)
        with pytest.raises(SystemExit):
            trained(into, given, **LONG)
    (into / "checkpoints/checkpoint-3/policy").mkdir(parents=True)
    with (into / "curves.jsonl").open("a") as file:
        file.write('{"step": 3, "reward": 9}\n{"step": 4, "rew')
    trained(into, given, **LONG)
    assert tiny.same_files(into, undisturbed, MADE)


# --- a known optimum, and tripwires ---------------------------------------------------------------

BANDIT: dict[str, Any] = {
    "max_tokens": 1, "batch_size": 16, "minibatches": 1, "ppo_epochs": 4, "samples": 2,
    "learning_rate": 5e-3, "epochs": 15, "beta": 0.0, "no_eos_penalty": 0.0, "probe_every": 5,
    "save_every": 1000, "schedule": "constant",
}  # fmt: skip


def low(ids: list[int], text: str) -> float:
    """A fifth of the tokens pay 1, the others nothing."""
    return float(ids[-1] < 60)


def test_a_bandit_reaches_its_optimum(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paid(monkeypatch, low)
    trained(tmp_path / "one", given, **BANDIT)
    rows = curves(tmp_path / "one")
    assert rows[1]["reward/reward"] < 0.6
    assert sum(row["reward/reward"] for row in rows[-5:]) / 5 >= 0.95


@pytest.mark.parametrize(
    ("wire", "limit", "more"),
    [
        ("kl", 0.3, {}),
        ("entropy", 0.8, {}),
        ("length", 1.5, {"max_tokens": 6, "learning_rate": 1e-2}),
        ("divergence", 0.2, {"oracle": "sandbox", "probe_every": 1, "probe_prompts": 24}),
    ],
)
def test_a_wire_stops_the_training_and_goes_back(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wire: str,
    limit: float, more: dict[str, Any],
) -> None:  # fmt: skip
    """Each for real: rewards that lead away from the reference, to one token, to short answers, and
    to what the oracle calls bad."""
    import torch

    worth: dict[str, Callable[[list[int], str], float]] = {"length": lambda ids, _: -len(ids)}
    paid(monkeypatch, worth.get(wire, low))

    def truth(prompt: Prompt, text: str) -> dict[str, Any]:
        return {
            "violations": [text] if text in paying else [],
            "helpful": None,
            "well_formed": True,
        }

    from rlaif.training import models

    tokenizer: Any = models.load_tokenizer(Path(given["model"]))
    paying = {tokenizer.decode([i], skip_special_tokens=True) for i in range(60)}
    monkeypatch.setattr("rlaif.policy.ppo.running.reader", lambda oracle: oracle and truth)
    wires = NO_WIRES | {wire: limit, "patience": 2}
    metrics = trained(tmp_path / "one", given, **(BANDIT | more | {"wires": wires}))
    stopped = metrics["stopped"]
    assert stopped["wire"] == wire
    assert stopped["why"]
    assert metrics["steps"] == stopped["step"] < metrics["planned_steps"]
    assert stopped["back_to"] < stopped["step"]
    if stopped["back_to"] == 0:
        saved, start = tiny.weights(tmp_path / "one/model"), tiny.weights(Path(given["model"]))
        assert all(torch.equal(saved[name], start[name]) for name in start)


def test_a_policy_is_kept_while_a_checkpoint_may_go_back_to_it(tmp_path: Path) -> None:
    from rlaif.policy.ppo.checkpoint import best_folder, forget

    for step, best in ((10, 5), (20, 12)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        state = json.dumps({"wires": {"best": {"step": best}}})
        (tmp_path / f"checkpoint-{step}" / "state.json").write_text(state)
    for step in (2, 5, 12, 25):
        best_folder(tmp_path, step).mkdir()
    forget(tmp_path, "state.json")
    assert {p.name for p in tmp_path.glob("best-*")} == {"best-5", "best-12", "best-25"}
    shutil.rmtree(tmp_path / "checkpoint-10")
    forget(tmp_path, "state.json")
    assert {p.name for p in tmp_path.glob("best-*")} == {"best-12", "best-25"}


def test_torn_checkpoints_push_out_no_whole_one(tmp_path: Path) -> None:
    """Two saves that were killed, at later steps than the one that a training is now gone on to."""
    from rlaif.policy.ppo.checkpoint import Checkpoints

    alone = SimpleNamespace(is_main_process=True, wait_for_everyone=lambda: None)
    learner: Any = SimpleNamespace(
        accelerator=alone, save=lambda folder: folder.mkdir(parents=True)
    )
    kept = Checkpoints(tmp_path, learner, learner, save=lambda folder: None)
    state = {"wires": {"best": None}}
    kept.save(10, state)
    for torn in (13, 14):
        (tmp_path / f"checkpoint-{torn}" / "policy").mkdir(parents=True)
    kept.save(12, state)
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint-10", "checkpoint-12"}


def test_without_held_out_prompts_there_is_no_way_back(
    given: dict[str, Any], tmp_path: Path
) -> None:
    asked = shutil.copytree(given["prompts"], tmp_path / "prompts")
    (asked / "heldout.jsonl").write_text("")
    wires = {"kl": 1e-9, "patience": 1}
    metrics = trained(tmp_path / "one", given | {"prompts": str(asked)}, epochs=3, wires=wires)
    assert not metrics["probe"]
    assert metrics["stopped"]["wire"] == "kl"
    assert metrics["stopped"]["back_to"] is None


def test_one_batch_beyond_a_limit_is_chance() -> None:
    from rlaif.config.policy import TripwireConfig
    from rlaif.policy.ppo.wires import Wires

    wires = Wires(TripwireConfig(kl=1.0, patience=2))
    rows = [{"step": i, "kl": kl, "entropy": 1.0, "length": 9.0, "reward": 0.0}
            for i, kl in enumerate((2.0, 0.5, 2.0, 2.0))]  # fmt: skip
    tripped = []
    for row in rows:
        wires.batch(row)
        tripped.append(wires.tripped is not None)
    assert tripped == [False, False, False, True]
    again = Wires(TripwireConfig(kl=1.0, patience=2))
    again.restore(json.loads(json.dumps(wires.state())))
    assert again == wires


def test_a_policy_beyond_a_limit_is_never_the_best() -> None:
    from rlaif.config.policy import TripwireConfig
    from rlaif.policy.ppo.wires import Wires

    wires = Wires(TripwireConfig(length=2.0, patience=2))
    found = []
    for step, length in enumerate((10.0, 30.0, 12.0)):
        row = {"step": step, "kl": 0.0, "entropy": 1.0, "length": length, "reward": 0.0}
        wires.batch(row)
        found.append(wires.probe(row, quality=float(step)))
    assert found == [True, False, True]
    assert wires.tripped is None


# --- many processes -------------------------------------------------------------------------------


TWO = ("--multi_gpu", "--num_processes=2", "--mixed_precision=no")  # on CPUs, without a GPU
ONE_STEP: dict[str, Any] = {"minibatches": 1, "batch_size": 8, "probe_prompts": 5}


def launched(entry: str, into: Path, given: dict[str, Any], **more: Any) -> list[Row]:
    """The curves of a training in processes of its own."""
    from rlaif import training

    keys = {name: Path(given[name]) for name in ("prompts", "critic")}
    training.train(entry, into, config(**(ONE_STEP | more)), seed=0, **(given | keys))
    return curves(into)


@pytest.mark.parametrize(
    "entry",
    ["rlaif.policy.ppo:fit", pytest.param("tests.fsdp_on_cpu:fit", marks=pytest.mark.slow)],
    ids=["ddp", "fsdp"],
)
def test_two_processes_learn_what_one_would(
    entry: str, given: dict[str, Any], tmp_path: Path
) -> None:
    """Held-out prompts are odd in number: one process has fewer of them."""
    one = launched("rlaif.policy.ppo:fit", tmp_path / "one", given)
    two = launched(entry, tmp_path / "two", given, launch=TWO)
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-3)
    learned = [tiny.weights(tmp_path / way / "model") for way in ("one", "two")]
    for name, weight in learned[0].items():
        assert (weight - learned[1][name]).abs().max() < 1e-3, name


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.parametrize("lora", [None, {"r": 2, "alpha": 4}])
def test_each_process_draws_by_vllm_from_sharded_weights(
    lora: Any, given: dict[str, Any], tmp_path: Path
) -> None:
    more = {"launch": TWO, "rollouts": "vllm", "lora": lora}
    rows = launched("tests.fsdp_on_cpu:fit", tmp_path / "two", given, **more)
    assert [row["mismatch"] < 1e-4 for row in rows[1:]] == [True, True]
    assert rows[2]["kl"] != 0


def test_what_ppo_cannot_put_together_is_refused() -> None:
    from types import SimpleNamespace

    from rlaif.errors import ConfigError
    from rlaif.policy.ppo.learner import _refuse_zero3, refuse_fsdp1

    def run_by(fsdp: int | None, zero: int | None) -> Any:
        plugin = fsdp and SimpleNamespace(fsdp_version=fsdp)
        deepspeed = zero and SimpleNamespace(zero_stage=zero)
        state = SimpleNamespace(fsdp_plugin=plugin)
        return SimpleNamespace(state=state, deepspeed_plugin=deepspeed)

    for fsdp, zero in ((None, None), (2, None), (None, 2)):
        refuse_fsdp1(run_by(fsdp, zero))
        _refuse_zero3(run_by(fsdp, zero))
    with pytest.raises(ConfigError, match="FSDP 1"):
        refuse_fsdp1(run_by(1, None))
    with pytest.raises(ConfigError, match="ZeRO 3"):
        _refuse_zero3(run_by(None, 3))


# --- the pipeline and the report ------------------------------------------------------------------


def test_the_pipeline_gives_prompts_and_reward_model_and_remembers_them(
    model: Path, reward_model: Path, tmp_path: Path
) -> None:
    from rlaif.config import load
    from rlaif.pipeline import Pipeline
    from rlaif.stages import stage_record

    sizes = ["epochs=0.02", "batch_size=4", "minibatches=1", "max_tokens=8", "probe_prompts=4"]
    changes = ["name=small", f"model={model}", "policy.rollouts=transformers"]
    told = load(DEMO_PPO, [*changes, *(f"policy.{size}" for size in sizes)])

    def holds(folder: Path) -> Callable[[Path], dict[str, Any]]:
        def work(into: Path) -> dict[str, Any]:
            shutil.copytree(folder, into / "model")
            return {}

        return work

    with Pipeline.open(told, root=tmp_path, store=str(tmp_path / "store.db")) as run:
        asked = run.prompts()
        finetuned = run.run.stage("finetune", told.finetune, holds(model))
        rewarded = run.run.stage("reward", told.reward, holds(reward_model))
        made = run.policy(finetuned, finetuned, asked, rewarded)
        assert run.policy(finetuned, finetuned, asked, rewarded) == made  # reused
        record = stage_record(made)
        inputs = record["made_from"]["inputs"]
        assert inputs.keys() == {"prompts", "model", "reward", "prompts/draft.j2"}
        assert {"curves.jsonl", "model/model.safetensors"} <= record["outputs"].keys()
        page = run.report().read_text("utf-8")
        assert "Curves of the policy" in page
        assert "No tripwire stopped it." in page


def test_the_demo_with_ppo_is_the_demo_but_for_its_policy() -> None:
    from rlaif.config import load

    plain, ppo = load(DEMO_PPO.with_name("demo.yaml")), load(DEMO_PPO)
    assert ppo.policy.kind == "ppo"
    same = {"name": plain.name, "policy": plain.policy}
    assert ppo.model_copy(update=same) == plain


def test_the_report_says_which_wire_stopped_the_training(tmp_path: Path) -> None:
    from rlaif.report import figures_of, report

    stopped = {"wire": "kl", "step": 7, "why": "KL is <b>9</b> nats", "back_to": 4}
    metrics = {"steps": 7, "planned_steps": 9, "answers": 70, "stopped": stopped}
    told = finished_run.record(stage="policy", metrics=metrics, made_from={"inputs": {}})
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "stage.json").write_text(json.dumps(told))
    (folder / "curves.jsonl").write_text(
        "".join(json.dumps({"step": i, "reward": i / 7, "kl": 0.1 * i}) + "\n" for i in range(8))
    )
    (tmp_path / "run.json").write_text(json.dumps({"config": {"policy": {"kind": "ppo"}}}))
    page = report(tmp_path).read_text("utf-8")
    assert "A tripwire stopped it after batch 7: KL is &lt;b&gt;9&lt;/b&gt; nats." in page
    assert "best probe, after batch 4" in page
    assert page.count("KL to the reference, nats an answer") >= 1
    assert figures_of(tmp_path)["stopped"] == stopped
    assert any("tripwire" in doubt["what"] for doubt in figures_of(tmp_path)["distrust"])
