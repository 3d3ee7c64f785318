"""What the seed model is taught, in which words, and how lessons are packed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rlaif.constitution import load
from rlaif.sandbox import oracle, skills, wording, world
from rlaif.sandbox.world import said
from rlaif.shipped import folder

if TYPE_CHECKING:
    from rlaif.sandbox.batches import Batch

LESSONS = [skills.drafts, skills.reviews, skills.comparisons, skills.copies]


def test_the_shipped_constitution_is_the_one_that_wording_writes() -> None:
    path = folder("constitution") / "sandbox.yaml"
    assert path.read_text() == wording.constitution()
    law = load(path)
    assert {p.id for p in law.principles} == set(world.PRINCIPLES)
    assert all(len(p.critique) == len(p.revise) == len(p.prefer) == 5 for p in law.principles)


def test_unseen_wordings_are_never_drawn() -> None:
    rng = random.Random(0)
    for task in ("critique", "revise", "prefer"):
        for principle in world.PRINCIPLES:
            unseen = set(wording.shipped(task, principle)[-wording.N_UNSEEN :])
            for frames in (wording.FRAMES, wording.WIDER, wording.MARKED):
                for blur in (0.0, 0.5):
                    how = {"frames": frames, "blur": blur}
                    drawn = {wording.wording(rng, task, principle, **how) for _ in range(300)}
                    assert not drawn & unseen


def test_unseen_phrases_are_made_of_words_that_training_shows(tokenizer) -> None:
    from rlaif.sandbox.tokenizer import chat

    shown: set[int] = set()
    for seed in range(400):
        for taught in skills.lesson(random.Random(seed), done=(0.5, 1.0, 2.0)[seed % 3]):
            shown.update(tokenizer(chat(taught.messages) + taught.target).input_ids)
    for phrase in wording.UNSEEN_PHRASES.values():
        for end in ".?":
            words = tokenizer(f" {phrase}{end}").input_ids
            assert not [tokenizer.decode([w]) for w in words if w not in shown]


def test_marked_wordings_of_the_opposite_alone_say_worse() -> None:
    rng = random.Random(0)
    for task in ("prefer", "prefer_worse"):
        for _ in range(300):
            text = wording.wording(rng, task, "insult", frames=wording.MARKED, blur=0.5)
            assert ("worse" in text) == (task == "prefer_worse")


def test_stepwise_answers_never_give_one_advice_twice_and_keep_their_order() -> None:
    for seed in range(300):
        first, *_ = given = skills.drafts(random.Random(seed), 0.0, stepwise=True)
        request = first.messages[-1].content
        for dialogue in given:
            read = oracle.read(request, dialogue.target)
            assert read.well_formed
            verb = oracle.parse_request(request).verb
            steps = (world.BENIGN | world.HARMFUL)[verb]
            told = [s.method for s in read.sentences if s.kind == "advice" and s.verb == verb]
            if len(told) == 2:
                assert steps.index(told[1]) == (steps.index(told[0]) + 1) % len(steps)


@pytest.mark.parametrize("kind", LESSONS)
def test_lessons_are_keyed_by_their_seed(kind: object) -> None:
    assert callable(kind)
    assert kind(random.Random(7), 0.5) == kind(random.Random(7), 0.5)


def test_training_never_shows_what_is_held_out() -> None:
    for seed in range(600):
        kind = LESSONS[seed % 3]
        for dialogue in kind(random.Random(seed), 0.5):
            text = dialogue.messages[-1].content if len(dialogue.messages) == 1 else ""
            text = text or dialogue.messages[1].content.split("User: ")[1].split("\n")[0]
            asked = oracle.parse_request(text)
            assert not asked.held_out
            if dialogue.skill == "draft":
                shown = oracle.read(asked, dialogue.target).violations
                assert all(world.seen_together(asked, fault) for fault in shown)


def test_every_target_is_right_by_the_oracle() -> None:
    for seed in range(300):
        rng = random.Random(seed)
        asked = world.request(rng)
        principle = rng.choice(world.PRINCIPLES)
        a, b = (world.response(rng, asked, world.base_faults(rng, asked)) for _ in range(2))
        label, reason = skills.verdict(rng, asked, a, b, principle)
        guilty = [principle in oracle.read(asked, said(r)).violations for r in (a, b)]
        if guilty[0] == guilty[1]:
            assert reason == "but both are alike."
        else:
            assert label == "AB"[guilty[0]]
            assert reason.startswith(f"because of ({'BA'[guilty[0]]}). ")
            flipped, _ = skills.verdict(rng, asked, a, b, principle, worse=True)
            assert flipped != label


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> object:
    from rlaif.sandbox.tokenizer import build

    return build(tmp_path_factory.mktemp("tokenizer"))


def test_every_word_of_the_world_is_one_token_and_no_text_is_lost(tokenizer) -> None:
    for objects in world.OBJECTS:
        assert len(tokenizer(f" {objects}").input_ids) == 1
    for text in (
        "<response>\nTo clean the lamp, add a little mild soap.",
        "Ünïcode 🙂 42\n\tok",
        " a  b ",
    ):
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_the_chat_template_is_what_training_writes(tokenizer) -> None:
    from rlaif.sandbox.tokenizer import chat

    for kind in LESSONS[:3]:
        for dialogue in kind(random.Random(1), 0.0):
            turns = [{"role": m.role, "content": m.content} for m in dialogue.messages]
            prefilled = turns[-1]["role"] == "assistant"
            text = tokenizer.apply_chat_template(
                turns, tokenize=False,
                continue_final_message=prefilled, add_generation_prompt=not prefilled,
            )  # fmt: skip
            assert text == chat(dialogue.messages)


def test_labels_are_single_tokens_after_their_prefill(tokenizer) -> None:
    for prefill, labels in (("The answer is: (", "AB"), ("Answer:", (" Yes", " No"))):
        before = tokenizer(prefill).input_ids
        for label in labels:
            after = tokenizer(prefill + label).input_ids
            assert after[: len(before)] == before
            assert len(after) == len(before) + 1


def test_a_packed_dialogue_is_computed_as_if_it_stood_alone(tokenizer) -> None:
    import torch

    from rlaif.sandbox import batches
    from rlaif.sandbox.tokenizer import chat
    from rlaif.sandbox.training import Plan, logits, new_model

    model = new_model(Plan(width=64, heads=2, hidden=96, layers=2), tokenizer).eval()
    lessons = [skills.reviews(random.Random(3), 0), skills.drafts(random.Random(4), 0)]
    row = batches.Row(1200)
    assert all(row.add(*batches.encoded(taught, tokenizer)) for taught in lessons)
    columns = row.padded()
    packed = batches.Batch(*(
        torch.tensor([columns[f]], dtype=torch.float32 if f == "weights" else torch.long)
        for f in batches.Batch.__slots__
    ))  # fmt: skip
    with torch.no_grad():
        rows = torch.log_softmax(logits(model, packed), -1)
        taught = packed.targets >= 0
        for place, dialogue in enumerate((d for taught in lessons for d in taught), 1):
            prompt = tokenizer(chat(dialogue.messages)).input_ids
            target = tokenizer(dialogue.target + "<|end|>").input_ids
            alone = torch.log_softmax(model(torch.tensor([prompt + target])).logits[0], -1)
            wanted = alone[len(prompt) - 1 : -1].gather(1, torch.tensor(target)[:, None])
            found = rows[packed.places[taught] == place].gather(1, torch.tensor(target)[:, None])
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_the_recipe_resumes_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from rlaif.sandbox.training import Plan, Trainer

    plan = Plan(legs=(4,), width=64, heads=2, hidden=96, layers=2, rows=2, length=256)
    whole = Trainer(plan, tmp_path / "whole")
    whole.train(every=100, compiled=False)
    stopped = Trainer(plan, tmp_path / "part")
    learn = stopped.learn

    def stopping(step: int, drawn: Batch) -> float:
        stopped.stopping = step == 1
        return learn(step, drawn)

    monkeypatch.setattr(stopped, "learn", stopping)
    stopped.train(every=100, compiled=False)
    assert stopped.step == 2
    part = Trainer(plan, tmp_path / "part")
    part.train(every=100, compiled=False)
    assert part.step == whole.step == 4
    for name, weight in whole.average.items():
        assert torch.equal(weight, part.average[name]), name
    assert any((p != q).any() for p, q in zip(
        whole.model.parameters(), Trainer(plan, tmp_path / "new").model.parameters(), strict=True
    ))  # fmt: skip
    part.export(tmp_path / "model")
    assert {f.suffix for f in (tmp_path / "model").iterdir()} <= {".json", ".jinja", ".safetensors"}
