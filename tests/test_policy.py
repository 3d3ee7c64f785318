"""The policy: TRL's losses at hard labels, what moves and what does not, useless options."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rlaif import losses
from rlaif.config.policy import DpoConfig, GrpoConfig, KtoConfig, PpoConfig, RlooConfig
from rlaif.config.run import RewardConfig
from rlaif.errors import ConfigError, DataError, TrainingFailed
from rlaif.policy.options import LOSSES, SMOOTHED, check_dpo, check_kto
from tests import tiny_training as tiny

# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"loss_type": "ipo"}, "soft labels have one loss, sigmoid; ipo knows hard labels only"),
        ({"trl": {"ld_alpha": 0.5}}, "policy.trl.ld_alpha: soft labels would ignore it"),
        ({"labels": "hard", "loss_type": "sigmod"}, "no loss 'sigmod'.*\n.*sigmoid"),
        ({"labels": "hard", "label_smoothing": 0.1}, "the loss sigmoid ignores it"),
        ({"labels": "hard", "loss_type": "ipo", "label_smoothing": 0.1}, "ipo ignores it"),
        ({"labels": "hard", "loss_type": "exo_pair"}, "exo_pair needs one above 0"),
        ({"labels": "hard", "anchor": 0.1}, "hard labels would ignore it"),
        (
            {"labels": "hard", "label_smoothing": 0.1, "trl": {"loss_type": ["robust", "sft"]}},
            "the loss sft ignores it",
        ),
    ],
)
def test_an_option_that_would_do_nothing_is_an_error(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        check_dpo(DpoConfig.model_validate(config))
    assert caught.value.remedy


def test_options_that_do_something_pass() -> None:
    check_dpo(DpoConfig(label_smoothing=0.1))
    check_dpo(DpoConfig(labels="hard", loss_type="ipo"))
    check_dpo(DpoConfig(labels="hard", loss_type="robust", label_smoothing=0.1))


def test_kto_needs_answers_to_compare() -> None:
    check_kto(KtoConfig(batch_size=2))
    with pytest.raises(ConfigError, match="needs 2 or more"):
        check_kto(KtoConfig(batch_size=8, micro_batch=1))


def test_the_losses_and_the_smoothed_ones_are_trls() -> None:
    import inspect
    import re

    from trl.trainer.dpo_trainer import DPOTrainer

    source = inspect.getsource(DPOTrainer._compute_loss)
    branches = re.split(r"(?:el)?if loss_type == ", source)[1:]
    by_loss = {branch.split('"')[1]: branch for branch in branches}
    assert set(by_loss) == set(LOSSES)
    assert {name for name, code in by_loss.items() if "label_smoothing" in code} == set(SMOOTHED)


# --- the trainer ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.pairs(tmp_path_factory.mktemp("data") / "preferences", n=24)


def trainer(model: Path, into: Path, *, soft: bool, lora: bool = False, **options: Any) -> Any:
    """TRL's trainer on token ids, or ours, whose policy is no longer the reference."""
    import torch
    from datasets import Dataset
    from trl import DPOConfig

    from rlaif.config.section import LoraConfig
    from rlaif.policy.dpo import (
        DataCollatorForPreference,
        SoftCollator,
        SoftDPOTrainer,
        TokenDPOTrainer,
    )
    from rlaif.training import models

    tokenizer: Any = models.load_tokenizer(model)
    plain = {"bf16": False, "report_to": "none", "max_length": None, "dataloader_pin_memory": False}
    plain["remove_unused_columns"] = not soft
    pairs = DataCollatorForPreference(tokenizer.pad_token_id)
    made: Any = (SoftDPOTrainer if soft else TokenDPOTrainer)(
        model=models.load_model(model),
        args=DPOConfig(str(into), **plain | options),
        data_collator=SoftCollator(pairs) if soft else None,
        train_dataset=Dataset.from_list(rows()),
        processing_class=tokenizer,
        peft_config=models.adapters(LoraConfig()) if lora else None,
    )
    noise = torch.Generator().manual_seed(0)
    for weight in made.model.parameters():
        if weight.requires_grad:
            weight.data += 0.05 * torch.randn(weight.shape, generator=noise)
    made.model.train()
    return made


def rows() -> list[dict[str, Any]]:
    rng = random.Random(0)

    def ids(n: int) -> list[int]:
        return [rng.randrange(5, 250) for _ in range(n)]

    lengths = [(6, 4, 9), (3, 5, 2), (8, 7, 7)]
    return [
        {"prompt_ids": ids(p), "chosen_ids": ids(a), "rejected_ids": ids(b), "target": 1.0}
        for p, a, b in lengths
    ]


def loss(of: Any, label: float | None = None, *, turned: bool = False, only: int = 3) -> Any:
    """The trainer's own loss of the rows as one batch."""
    examples = rows()[:only]
    for row in examples:
        if turned:
            row["chosen_ids"], row["rejected_ids"] = row["rejected_ids"], row["chosen_ids"]
        if label is not None:
            row["target"] = label
    return of.compute_loss(of.model, of.data_collator(examples))


@pytest.mark.parametrize("lora", [False, True])
def test_at_hard_labels_the_loss_is_trls(model: Path, tmp_path: Path, lora: bool) -> None:
    theirs, ours = (trainer(model, tmp_path, soft=soft, lora=lora) for soft in (False, True))
    for label, turned in ((0.0, True), (1.0, False)):
        hard, soft = loss(theirs, turned=turned), loss(ours, label)
        assert soft.item() == pytest.approx(hard.item(), abs=1e-6)
        assert hard.item() != pytest.approx(math.log(2), abs=1e-3)
    hard.backward()
    soft.backward()
    found = zip(theirs.model.parameters(), ours.model.parameters(), strict=True)
    gradients = [(a.grad, b.grad) for a, b in found if a.requires_grad]
    assert all((a - b).abs().max() < 1e-6 for a, b in gradients)
    assert any(a.abs().max() > 1e-3 for a, _ in gradients)
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen"):
        one, other = (t._metrics["train"][name][-1] for t in (theirs, ours))
        assert one == pytest.approx(other, abs=1e-5), name


def test_soft_labels_lie_between_and_reach_the_loss(model: Path, tmp_path: Path) -> None:
    ours = trainer(model, tmp_path, soft=True)
    one, zero = loss(ours, 1.0).item(), loss(ours, 0.0).item()
    assert loss(ours, 0.3).item() == pytest.approx(0.3 * one + 0.7 * zero, abs=1e-6)
    assert next(iter(ours.get_train_dataloader()))["target"].tolist() == [1.0] * 3


def test_the_anchor_is_added_to_the_loss(model: Path, tmp_path: Path) -> None:
    ours = trainer(model, tmp_path, soft=True)
    without = loss(ours, 0.3).item()
    figures = ours._metrics["train"]
    said = -(figures["logps/chosen"][-1] + figures["logps/rejected"][-1]) / 2  # nats for an answer
    ours.anchor = 0.01
    assert loss(ours, 0.3).item() == pytest.approx(without + 0.01 * said, abs=1e-6)
    assert said > 10


def test_a_pairs_loss_does_not_depend_on_its_batch(model: Path, tmp_path: Path) -> None:
    ours = trainer(model, tmp_path, soft=True)
    alone = loss(ours, 0.8, only=1)
    assert (
        ours.data_collator(rows())["input_ids"].shape[1] == 15 == len(rows()[0]["prompt_ids"]) + 9
    )
    batch = ours.data_collator([{**row, "target": 0.8} for row in rows()])
    longer = {k: _longer(v) if v.dim() == 2 else v for k, v in batch.items()}
    assert ours.compute_loss(ours.model, longer).item() == pytest.approx(
        loss(ours, 0.8).item(), abs=1e-6
    )
    assert alone.item() > 0


def _longer(tensor: Any) -> Any:
    """Five more columns of padding."""
    import torch

    return torch.nn.functional.pad(tensor, (0, 5))


# --- the stage ------------------------------------------------------------------------------------

CONFIG = DpoConfig(**tiny.QUICK, epochs=3, save_every=5, beta=0.5)
MADE = ("model/model.safetensors", "model/config.json", "curves.jsonl")


def dpo(into: Path, config: DpoConfig, **given: Any) -> dict[str, Any]:
    from rlaif.policy.dpo import fit

    return tiny.fit(fit, into, config, **given)


@pytest.fixture(scope="module")
def given(model: Path, pairs: Path) -> dict[str, Any]:
    return {"model": model, "pairs": pairs}


@pytest.fixture(scope="module")
def made(
    given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    into = tmp_path_factory.mktemp("policy")
    return into, dpo(into, CONFIG, **given)


def test_it_prefers_what_the_labels_prefer(made: tuple[Path, dict[str, Any]]) -> None:
    into, metrics = made
    assert (metrics["examples"], metrics["steps"], metrics["left_out"]) == (24, 18, {})
    assert metrics["margin"] > 0.05
    assert metrics["loss"] < math.log(2)
    curve = [json.loads(line) for line in (into / "curves.jsonl").read_text().splitlines()]
    assert curve[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert curve[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert {"rewards/margins", "rewards/accuracies", "kl", "grad_norm"} <= curve[-1].keys()


def test_the_model_is_saved_as_the_one_it_came_from(
    made: tuple[Path, dict[str, Any]], model: Path
) -> None:
    unchanged = [p.name for p in model.iterdir() if p.name != "model.safetensors"]
    assert tiny.same_files(made[0] / "model", model, unchanged)
    before, after = tiny.weights(model), tiny.weights(made[0] / "model")
    assert {w.dtype for w in before.values()} == {w.dtype for w in after.values()}
    assert not [name for name in before if before[name].equal(after[name])]


def test_a_stopped_training_ends_as_if_nothing_had_been(
    made: tuple[Path, dict[str, Any]],
    given: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny.stop_after(8, monkeypatch)
    with pytest.raises(SystemExit):
        dpo(tmp_path, CONFIG, **given)
    monkeypatch.undo()
    metrics = dpo(tmp_path, CONFIG, **given)
    assert tiny.same_files(tmp_path, made[0], MADE)
    assert {**metrics, "seconds": 0} == {**made[1], "seconds": 0}


def test_a_reference_computed_beforehand_is_the_same(
    made: tuple[Path, dict[str, Any]], given: dict[str, Any], tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"trl": {"precompute_ref_log_probs": True}})
    metrics = dpo(tmp_path, config, **given)
    assert metrics["margin"] == pytest.approx(made[1]["margin"], abs=1e-3)


def test_adapters_leave_the_rest_of_the_model_alone(
    model: Path, given: dict[str, Any], tmp_path: Path
) -> None:
    config = DpoConfig.model_validate({**tiny.QUICK, "epochs": 2, "lora": {"r": 4}})
    metrics = dpo(tmp_path, config, **given)
    assert metrics["margin"] > 0
    before, after = tiny.weights(model), tiny.weights(tmp_path / "model")
    moved = {name for name in before if not before[name].equal(after[name])}
    assert moved == {name for name in before if "_proj" in name}


@pytest.mark.parametrize(
    ("labels", "margin", "expected"),
    [
        ("soft", 0.0, {"unlabelled": 6}),
        ("hard", 0.0, {"tie": 6, "unlabelled": 6}),
        ("soft", 0.25, {"below_min_margin": 12, "unlabelled": 6}),
        ("soft", 0.2, {"below_min_margin": 6, "unlabelled": 6}),  # 0.7 - 0.5 is less, as floats go
    ],
)
def test_pairs_without_a_clear_label_are_left_out_and_counted(
    model: Path, tmp_path: Path, labels: Any, margin: float, expected: dict[str, int]
) -> None:
    cycle = (None, 0.5, 0.7, 0.05)
    pairs = tiny.pairs(tmp_path / "pairs", target=lambda i: cycle[i % 4])
    config = DpoConfig(**tiny.QUICK, labels=labels, min_margin=margin)
    metrics = dpo(tmp_path / "into", config, model=model, pairs=pairs)
    assert metrics["left_out"] == expected
    assert metrics["examples"] == 24 - sum(expected.values())


@pytest.mark.parametrize(
    "kind", [DpoConfig, KtoConfig, PpoConfig, GrpoConfig, RlooConfig, RewardConfig]
)
def test_dropout_that_would_do_nothing_is_an_error(kind: Any) -> None:
    assert kind(lora={"r": 4}).lora.r == 4
    with pytest.raises(ValidationError, match="switches dropout off"):
        kind(lora={"dropout": 0.1})


def test_smoothing_draws_the_labels_to_the_middle(model: Path, tmp_path: Path) -> None:
    """At s = 0.25 the label 1 is 0.75, whose loss is least at a margin of ln 3."""
    pairs = tiny.pairs(tmp_path / "pairs", n=8, target=lambda i: float(i % 2))
    config = DpoConfig(**tiny.QUICK, epochs=40, beta=1.0, label_smoothing=0.25)
    metrics = dpo(tmp_path / "into", config, model=model, pairs=pairs)
    assert metrics["margin"] == pytest.approx(math.log(3), abs=0.15)


def test_the_anchor_keeps_answers_likely(given: dict[str, Any], tmp_path: Path) -> None:
    """The further both answers may fall, the further they do; an anchor holds them."""
    fallen = [
        dpo(tmp_path / str(anchor), DpoConfig(**tiny.QUICK, epochs=6, anchor=anchor), **given)["kl"]
        for anchor in (0.0, 0.05)
    ]
    assert fallen[1] < fallen[0] - 0.1


def test_hard_labels_pass_through_to_trl(given: dict[str, Any], tmp_path: Path) -> None:
    config = DpoConfig(**tiny.QUICK, labels="hard", loss_type="ipo", beta=0.5)
    metrics = dpo(tmp_path, config, **given)
    ties = metrics["left_out"]["tie"]
    assert metrics["examples"] == 24 - ties
    first = json.loads((tmp_path / "curves.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(1.0, abs=1e-6)  # (0 - 1 / (2 beta)) ** 2
    assert "kl" in first


def test_kto_trains_on_single_answers(given: dict[str, Any], model: Path, tmp_path: Path) -> None:
    from rlaif.policy.kto import fit

    config = KtoConfig(**tiny.QUICK, epochs=2, beta=0.5)
    metrics = tiny.fit(fit, tmp_path, config, **given)
    assert metrics["examples"] == 2 * (24 - metrics["left_out"]["tie"])
    assert metrics["margin"] > 0
    before, after = tiny.weights(model), tiny.weights(tmp_path / "model")
    assert not [name for name in before if before[name].equal(after[name])]


def test_a_training_that_diverges_is_a_failure(given: dict[str, Any], tmp_path: Path) -> None:
    config = DpoConfig.model_validate(tiny.QUICK | {"learning_rate": 1e20, "epochs": 3})
    with pytest.raises(TrainingFailed, match=r"is (nan|inf) at step \d+\n.*lower learning_rate"):
        dpo(tmp_path, config, **given)


def test_an_infinite_gradient_leaves_no_model(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a finite loss: the weights are NaN after the step."""
    preference = losses.preference

    def steep(difference: Any, target: Any) -> Any:
        difference.register_hook(lambda gradient: gradient * math.inf)
        return preference(difference, target)

    monkeypatch.setattr(losses, "preference", steep)
    config = DpoConfig.model_validate(tiny.QUICK | {"save_every": 1})
    with pytest.raises(TrainingFailed, match="the grad_norm is nan at step 1"):
        dpo(tmp_path, config, **given)
    assert not list(tmp_path.glob("checkpoints/checkpoint-*"))


def test_nothing_to_learn_is_an_error(model: Path, tmp_path: Path) -> None:
    pairs = tiny.pairs(tmp_path / "pairs", target=lambda i: None)
    with pytest.raises(DataError, match="24 unlabelled: there are no pairs"):
        dpo(tmp_path / "into", DpoConfig(), model=model, pairs=pairs)
