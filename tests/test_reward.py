"""The reward model: TRL's loss at hard labels, how it is read, and how it is measured."""

from __future__ import annotations

import itertools
import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from rlaif.config.run import RewardConfig
from rlaif.errors import DataError
from rlaif.intervals import Share
from rlaif.jsonl import rows, writing
from rlaif.records import Message, Pair, Prompt
from rlaif.reward import RewardModel, scores
from rlaif.reward.quality import Judged, figures
from tests import tiny_training as tiny

# --- figures --------------------------------------------------------------------------------------


PROMPTS = itertools.count()


def judged(target: float, margin: float, longer: int = 0, *, fits: bool = False) -> Judged:
    return Judged("", str(next(PROMPTS)), target, margin, longer, fits)


def test_figures_are_those_worked_by_hand() -> None:
    found = figures([judged(0.9, math.log(3), 2), judged(0.2, math.log(4), -1), judged(0.5, -1.0)])
    assert (found["accuracy"]["value"], found["accuracy"]["n"]) == (0.5, 2)
    nearly_even = [judged(0.51, -1.0), judged(0.7, 1.0), judged(0.3, 1.0)]
    assert [figures(nearly_even)[k] for k in ("clear", "clear_accuracy")] == [2, 0.5]
    assert figures(nearly_even)["accuracy"]["value"] == pytest.approx(1 / 3, abs=1e-5)
    assert found["margin"] == pytest.approx((math.log(3) - math.log(4)) / 2)
    brier = ((0.75 - 0.9) ** 2 + (0.8 - 0.2) ** 2 + (1 / (1 + math.e) - 0.5) ** 2) / 3
    assert found["brier"] == pytest.approx(brier)
    xent = -0.9 * math.log(0.75) - 0.1 * math.log(0.25) - 0.2 * math.log(0.8) - 0.8 * math.log(0.2)
    assert found["log_loss"] == pytest.approx((xent + math.log1p(math.e) - 0.5) / 3)
    gap = abs(0.9 - 0.75) + abs(0.2 - 0.8) + abs(0.5 - 1 / (1 + 1 / math.e))
    assert found["ece"] == pytest.approx(gap / 3)
    over = math.sqrt((math.log(3) ** 2 + math.log(4) ** 2 + 1) * 5)
    expected = (2 * math.log(3) - math.log(4)) / over
    assert found["length_correlation"] == pytest.approx(expected)


def test_figures_do_not_ask_which_answer_is_called_a() -> None:
    rng = random.Random(0)
    pairs = [
        judged(rng.random(), rng.gauss(0, 2), rng.randint(-9, 9), fits=rng.random() < 0.5)
        for _ in range(200)
    ]
    turned = [judged(1 - p.target, -p.margin, -p.longer, fits=p.fits) for p in pairs]
    one, other = figures(pairs), figures(turned)
    for name, value in one.items():
        if isinstance(value, float):
            assert other[name] == pytest.approx(value), name
    assert one["calibrated"] == pytest.approx(other["calibrated"])


def test_the_temperature_is_found_again() -> None:
    rng = random.Random(1)
    margins = [rng.gauss(0, 4) for _ in range(400)]
    pairs = [judged(1 / (1 + math.exp(-m / 3)), m, fits=i % 2 > 0) for i, m in enumerate(margins)]
    found = figures(pairs)
    assert found["temperature"] == pytest.approx(3)
    assert found["raw"]["ece"] > 0.1
    assert found["calibrated"]["ece"] < 1e-6
    assert sum(b["n"] for b in found["reliability"]) == 400


def test_a_label_of_six_tenths_is_a_tenth_away() -> None:
    assert figures([judged(0.6, 1.0), judged(0.59, 1.0)])["clear"] == 1


def test_what_cannot_be_had_is_none() -> None:
    for pairs in ([], [judged(0.5, 0.0)]):
        found = figures(pairs)
        assert found["accuracy"]["value"] is found["temperature"] is found["calibrated"] is None


def test_the_accuracy_is_of_decided_pairs_and_its_interval_of_prompts() -> None:
    decided = [judged(0.9, 1.0 if i < 13 else -1.0) for i in range(20)]
    found = figures([*decided, *(judged(0.5, 1.0) for _ in range(380))])["accuracy"]
    low, high = Share(13, 20).interval or (0, 0)
    assert found["n"] == 20
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=0.02)
    alike = [Judged("", str(i), 0.9, 1.0 if i < 13 else -1.0, 0, False) for i in range(20)] * 6
    six = figures(alike)["accuracy"]
    assert six["n"] == 120
    assert six["high"] - six["low"] == pytest.approx(high - low, abs=0.03)  # 20 prompts are few


# --- the trainer ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.pairs(tmp_path_factory.mktemp("data") / "preferences", n=96)


def trainer(model: Path, into: Path, *, soft: bool, **options: Any) -> Any:
    """TRL's trainer, or ours, over one batch of token ids."""
    from datasets import Dataset
    from trl import RewardConfig as Arguments
    from trl import RewardTrainer

    from rlaif.reward.trainer import DataCollatorForPreference, SoftCollator, SoftRewardTrainer
    from rlaif.training import models
    from rlaif.training.examples import Encoder

    rng = random.Random(0)
    ids = [[rng.randrange(5, 250) for _ in range(n)] for n in (9, 5, 7, 12, 4, 11)]
    table = {"chosen_ids": ids[:3], "rejected_ids": ids[3:], "target": [1.0, 1.0, 1.0]}
    encode = Encoder(model, 64)
    plain = {"bf16": False, "report_to": "none", "max_length": None, "dataloader_pin_memory": False}
    arguments = Arguments(str(into), remove_unused_columns=not soft, **plain, **options)
    pairs = DataCollatorForPreference(encode.padding)
    kind, collator = (SoftRewardTrainer, SoftCollator(pairs)) if soft else (RewardTrainer, None)
    fresh: Any = models.load_model(model, reward=True)
    fresh.score.weight.data.copy_(_head(fresh.score.weight))
    return kind(
        fresh,
        arguments,
        data_collator=collator,
        train_dataset=Dataset.from_dict(table if soft else {k: table[k] for k in list(table)[:2]}),
        processing_class=encode.tokenizer,
    )


def _head(weight: Any) -> Any:
    import torch

    return torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))


def loss(of: Any, labels: list[float] | None = None, *, turned: bool = False) -> Any:
    """The trainer's own loss of its whole dataset as one batch."""
    import torch

    examples = [dict(row) for row in of.train_dataset]
    for i, row in enumerate(examples):
        if turned:
            row["chosen_ids"], row["rejected_ids"] = row["rejected_ids"], row["chosen_ids"]
        if labels:
            row["target"] = labels[i]
    batch = of.data_collator(examples)
    if labels:
        assert torch.equal(batch["target"], torch.tensor(labels))
    return of.compute_loss(of.model, batch)


@pytest.mark.parametrize("options", [{}, {"center_rewards_coefficient": 0.01}])
def test_at_hard_labels_the_loss_is_trls(
    model: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    theirs, ours = (trainer(model, tmp_path, soft=soft, **options) for soft in (False, True))
    for labels, turned in (([0.0] * 3, True), ([1.0] * 3, False)):
        hard, soft = loss(theirs, turned=turned), loss(ours, labels)
        assert soft.item() == pytest.approx(hard.item(), abs=1e-6)
        assert hard.item() != pytest.approx(math.log(2), abs=1e-3)
    hard.backward()
    soft.backward()
    gradients = zip(theirs.model.parameters(), ours.model.parameters(), strict=True)
    assert all((a.grad - b.grad).abs().max() < 1e-6 for a, b in gradients)


def test_soft_labels_lie_between_and_reach_the_loss(model: Path, tmp_path: Path) -> None:
    ours = trainer(model, tmp_path, soft=True)
    one, zero = loss(ours, [1.0] * 3).item(), loss(ours, [0.0] * 3).item()
    assert loss(ours, [0.3] * 3).item() == pytest.approx(0.3 * one + 0.7 * zero, abs=1e-6)
    batch = next(iter(ours.get_train_dataloader()))  # as the trainer itself makes them
    assert batch["target"].tolist() == [1.0] * 3


def test_the_reward_does_not_depend_on_the_padding(model: Path, tmp_path: Path) -> None:
    import torch

    ours = trainer(model, tmp_path, soft=True).model.eval()
    ids, pad = [7, 8, 9, 10], ours.config.pad_token_id
    ways = [ids, ids + [pad] * 3, [pad] * 3 + ids]
    found = [
        ours(
            input_ids=torch.tensor([way]),
            attention_mask=torch.tensor([[int(i != pad) for i in way]]),
        ).logits.item()
        for way in ways
    ]
    assert found == pytest.approx([found[0]] * 3, abs=1e-5)


# --- the stage ------------------------------------------------------------------------------------

CONFIG = RewardConfig(**tiny.QUICK, epochs=8, save_every=5, heldout=0.3)
MADE = ("model/model.safetensors", "model/config.json", "curves.jsonl", "heldout.jsonl")


@pytest.fixture(scope="module")
def made(
    model: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    from rlaif.reward.trainer import fit

    into = tmp_path_factory.mktemp("reward")
    return into, tiny.fit(fit, into, CONFIG, pairs=pairs, model=model)


def test_it_learns_what_the_labels_say(made: tuple[Path, dict[str, Any]]) -> None:
    _, metrics = made
    assert metrics["examples"] + metrics["heldout"] == 96
    assert metrics["accuracy"]["value"] > 0.8
    assert metrics["margin"] > 0
    assert metrics["log_loss"] < math.log(2)
    assert {"ece", "brier", "calibrated", "reliability", "length_correlation"} <= metrics.keys()


def test_scores_are_those_it_was_measured_with(
    made: tuple[Path, dict[str, Any]], pairs: Path
) -> None:
    """The same end of turn, the same place to read it, the same stored weights."""
    into, _ = made
    heldout = [json.loads(line) for line in (into / "heldout.jsonl").read_text().splitlines()]
    by_id = {pair.id: pair for pair in rows(pairs / "pairs.jsonl", Pair)}
    both = [by_id[row["id"]] for row in heldout]
    assert [row["target"] for row in heldout] == pytest.approx([pair.target for pair in both])
    asked = [(p.prompt.messages, text) for p in both for text in (p.a, p.b)]
    found = list(scores(into / "model", asked, batch=3))
    margins = [a - b for a, b in zip(found[::2], found[1::2], strict=True)]  # pyright: ignore
    assert [row["margin"] for row in heldout] == pytest.approx(margins, abs=1e-5)


def test_prompts_are_scored_as_they_were_asked_in_training(
    model: Path, pairs: Path, tmp_path: Path
) -> None:
    from rlaif.reward.trainer import fit

    (tmp_path / "prompts").mkdir()
    asks = '{% block user %}{% include "before.j2" %} {{ request }}{% endblock %}'
    (tmp_path / "prompts" / "draft.j2").write_text(asks)
    (tmp_path / "prompts" / "before.j2").write_text("answer this:")
    given = {"pairs": pairs, "model": model, "templates": str(tmp_path / "prompts")}
    tiny.fit(fit, tmp_path / "reward", CONFIG, **given)
    shutil.rmtree(tmp_path / "prompts")
    test_scores_are_those_it_was_measured_with((tmp_path / "reward", {}), pairs)


def test_a_head_is_single_precision_whatever_the_rest_is(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peft
    import torch

    from rlaif.config.section import LoraConfig
    from rlaif.training import models

    monkeypatch.setattr(models, "on_gpu_with_bf16", lambda: True)
    loaded = models.load_model(model, reward=True, frozen=True)
    wanted = models.adapters(LoraConfig(), reward=True)
    assert wanted
    trained = peft.get_peft_model(loaded, wanted)
    assert next(loaded.base_model.parameters()).dtype == torch.bfloat16
    assert {p.dtype for p in trained.parameters() if p.requires_grad} == {torch.float32}


def test_no_prompt_is_both_learned_and_held_out(
    made: tuple[Path, dict[str, Any]], pairs: Path
) -> None:
    from rlaif.training.pairs import share

    held_out = {json.loads(r)["id"] for r in (made[0] / "heldout.jsonl").read_text().splitlines()}
    for pair in rows(pairs / "pairs.jsonl", Pair):
        assert (pair.id in held_out) == (share(pair.prompt.opening, "heldout", 0) < CONFIG.heldout)


def test_prompts_that_open_alike_are_on_one_side(model: Path, tmp_path: Path) -> None:
    from rlaif.reward.trainer import _examples
    from rlaif.training.examples import Encoder

    with writing(tmp_path / "pairs.jsonl") as write:
        for i in range(60):
            cut = (Message("user", tiny.text(i // 2)), Message("assistant", "so"))
            asked = Prompt(f"p{i}", (*cut, Message("user", "and"))[: 1 + 2 * (i % 2)])
            write(Pair(f"pair{i}", asked, "boat", "elm", 0.9))
    encode = Encoder(model, 64)
    sides = [_examples(tmp_path, encode, 0.3, 0, heldout) for heldout in (True, False)]
    held, learned = ({row["opening"] for row in side if isinstance(row, dict)} for side in sides)
    assert held
    assert learned
    assert not held & learned


def test_a_text_that_does_not_fit_has_no_reward(made: tuple[Path, dict[str, Any]]) -> None:
    asked = tiny.prompt(0).messages
    found = list(scores(made[0] / "model", [(asked, "boat"), (asked, "boat " * 3000)]))
    assert isinstance(found[0], float)
    assert found[1] is None


def test_a_reward_model_of_others_needs_no_padding_token_in_its_config(
    made: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    other = shutil.copytree(made[0] / "model", tmp_path / "other")
    settings = json.loads((other / "config.json").read_text()) | {"pad_token_id": None}
    (other / "config.json").write_text(json.dumps(settings))
    asked = tiny.prompt(0).messages
    rows = [(asked, "boat"), (asked, "boat boat elm")]
    assert list(scores(other, rows)) == list(scores(made[0] / "model", rows))


def test_a_model_whose_config_is_nested_is_read(model: Path, tmp_path: Path) -> None:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    from rlaif.policy.ppo.critic import load_critic
    from rlaif.training.models import load_tokenizer

    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    vision = {**small, "num_attention_heads": 1, "image_size": 28, "patch_size": 14}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 32}
    words = {"vocab_size": 300, "max_position_embeddings": 64}
    config = Gemma3Config(
        text_config={**small, **heads, **words}, vision_config=vision, mm_tokens_per_image=4
    )
    assert not hasattr(config, "max_position_embeddings")
    Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    load_tokenizer(model).save_pretrained(tmp_path)
    scorer = RewardModel(tiny.reward_model(tmp_path, tmp_path / "reward"))
    asked = (Message("user", "say"),)
    short, longer, long = scorer.scores([(asked, "a"), (asked, "a boat"), (asked, "a " * 64)])
    assert None not in (short, longer)
    assert short != longer
    assert long is None
    assert load_critic(tmp_path / "reward", tmp_path, None).head.in_features == 32


def test_it_is_stored_as_its_start_model_and_loads_anywhere(
    made: tuple[Path, dict[str, Any]], model: Path
) -> None:
    from transformers import AutoModelForSequenceClassification

    config = json.loads((made[0] / "model/config.json").read_text())
    assert config["dtype"] == "float16"
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    loaded, info = AutoModelForSequenceClassification.from_pretrained(
        made[0] / "model", output_loading_info=True
    )
    assert loaded.num_labels == 1
    assert not info["missing_keys"] | info["unexpected_keys"]
    assert tiny.same_files(made[0] / "model", model, ["tokenizer.json", "chat_template.jinja"])
    before, after = tiny.weights(model), tiny.weights(made[0] / "model")
    assert not [name for name in before if before[name].equal(after[name])]


def test_a_stopped_training_ends_as_if_nothing_had_been(
    made: tuple[Path, dict[str, Any]],
    model: Path,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rlaif.reward.trainer import fit

    tiny.stop_after(7, monkeypatch)
    with pytest.raises(SystemExit):
        tiny.fit(fit, tmp_path, CONFIG, pairs=pairs, model=model)
    monkeypatch.undo()
    metrics = tiny.fit(fit, tmp_path, CONFIG, pairs=pairs, model=model)
    assert tiny.same_files(tmp_path, made[0], MADE)
    assert {**metrics, "seconds": 0} == {**made[1], "seconds": 0}


def test_adapters_and_the_head_alone_move(model: Path, pairs: Path, tmp_path: Path) -> None:
    from rlaif.reward.trainer import fit

    config = RewardConfig.model_validate({**tiny.QUICK, "epochs": 4, "lora": {"r": 4}})
    tiny.fit(fit, tmp_path, config, pairs=pairs, model=model)
    before, after = tiny.weights(model), tiny.weights(tmp_path / "model")
    assert after.keys() - before.keys() == {"score.weight"}
    moved = {name for name in before if not before[name].equal(after[name])}
    assert moved == {name for name in before if "_proj" in name}
    config = json.loads((tmp_path / "curves.jsonl").read_text().splitlines()[-1])
    assert len(list(RewardModel(tmp_path / "model").of_ids([[5, 6], [7]]))) == 2


def test_unlabelled_pairs_are_counted_and_never_guessed(model: Path, tmp_path: Path) -> None:
    from rlaif.reward.trainer import fit

    labels = {0: None, 1: 0.2}
    pairs = tiny.pairs(tmp_path / "some", n=30, target=lambda i: labels[i % 2])
    metrics = tiny.fit(fit, tmp_path / "a", RewardConfig(**tiny.QUICK), pairs=pairs, model=model)
    assert metrics["left_out"] == {"unlabelled": 15}
    pairs = tiny.pairs(tmp_path / "none", n=30, target=lambda i: None)
    with pytest.raises(DataError, match="unlabelled: there are no training pairs"):
        tiny.fit(fit, tmp_path / "b", RewardConfig(**tiny.QUICK), pairs=pairs, model=model)
