"""The audit on the micro-world, where the oracle knows the truth: a reviewer who sees it through
some noise passes a good judge, names the principle whose labels are turned round, and mends the
reward model through the overlay."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from pathlib import Path

import finished_run
import pytest

from rlaif.audit import sampling, where
from rlaif.audit.exporting import export
from rlaif.audit.ledger import Ledger
from rlaif.audit.overlay import labels
from rlaif.audit.overview import Overview, overview
from rlaif.config.audit import AuditConfig
from rlaif.config.run import RewardConfig
from rlaif.constitution import to_yaml
from rlaif.jsonl import writing
from rlaif.records import Message, Pair, Prompt, Verdict
from rlaif.runs import Run
from rlaif.sandbox import oracle, world
from rlaif.shipped import SEED_MODEL

log = logging.getLogger(__name__)

FAULTS = ("insult", "advert", "preachy")
NOISE = 0.05


def pairs(n: int, *, seed: int, flipped: str = "", unseen: bool = False) -> Iterator[Pair]:
    """Pairs of which one side shows a fault, with a judge's label that is right 19 times of 20."""
    rng, made = random.Random(seed), 0
    while made < n:
        asked, fault = world.request(rng, unseen=unseen), FAULTS[made % len(FAULTS)]
        if not world.possible(asked, fault):
            continue
        faulty, clean = (
            world.said(world.response(rng, asked, faults))
            for faults in (frozenset({fault}), frozenset[str]())
        )
        b_better = rng.random() < 0.5
        right = (rng.random() < 0.95) is (fault != flipped)
        target = 0.1 if b_better is right else 0.9
        a, b = (faulty, clean) if b_better else (clean, faulty)
        verdicts = (Verdict(fault, target),)
        prompt = Prompt(f"q{made}", (Message("user", asked.text),))
        yield Pair(f"p{made:05}", prompt, a, b, target, verdicts=verdicts)
        made += 1


def judged(folder: Path, flipped: str = "", *, n: int = 600) -> Path:
    """A run that has come as far as its labels."""
    told = finished_run.config(prompts=finished_run.requests(folder / "p", train=1, heldout=1))

    def work(into: Path) -> dict[str, int]:
        with writing(into / "pairs.jsonl") as write:
            for pair in pairs(n, seed=0, flipped=flipped):
                write(pair)
        return {"pairs": n}

    with Run.open(told, root=folder) as run:
        run.stage("preferences", told.preferences, work)
        (run.folder / "constitution.yaml").write_text(to_yaml(finished_run.law()), "utf-8")
        return run.folder


def reviewed(run: Path, **changed: int) -> Overview:
    """The audit of a run by one reviewer, to the last item that it wants."""
    rng = random.Random(1)
    with Ledger.open(where(run)) as at:
        audit = sampling.sample(
            at, run, AuditConfig.model_validate({"calibration": 10} | changed), seed=0
        )
        person, _ = at.add_reviewer("a person", "lead")
        while view := at.claim(audit, person.id):
            asked = view.messages[-1]["content"]
            principles = {principle["id"] for principle in view.principles}
            left, right = (
                len(oracle.read(asked, text).violations & principles)
                for text in (view.left, view.right)
            )
            said = "tie" if left == right else "left" if left < right else "right"
            if rng.random() < NOISE:
                said = rng.choice(["left", "right", "tie"])
            at.decide(audit, view.number, person.id, "prefer", said, nonce=view.nonce)
        return overview(at, audit)


def test_a_good_judge_passes(tmp_path: Path) -> None:
    seen = reviewed(judged(tmp_path), per_principle=0)
    assert seen.gate.state == "pass"
    assert seen.gate.n <= 60
    assert not any(row.named or row.quarantined for row in seen.principles)


def test_a_judge_broken_on_one_principle_is_found(tmp_path: Path) -> None:
    seen = reviewed(judged(tmp_path, "insult"), cap=120)
    named = [row for row in seen.principles if row.named]
    assert [row.principle for row in named] == ["insult"]
    assert named[0].direction == "reversed"
    assert named[0].quarantined
    assert named[0].edit
    assert seen.gate.state != "pass"


def accuracy(model: Path, fault: str) -> float:
    """How often a reward model sides with the answer without a fault, on requests never seen."""
    from rlaif.reward import scores

    fresh = [p for p in pairs(300, seed=9, unseen=True) if p.verdicts[0].principle == fault]
    asked = [(pair.prompt.messages, text) for pair in fresh for text in (pair.a, pair.b)]
    found = [score or 0.0 for score in scores(model, asked)]
    right = 0
    for pair, a, b in zip(fresh, found[::2], found[1::2], strict=True):
        guilty = fault in oracle.read(pair.prompt.messages[-1].content, pair.a).violations
        right += (a < b) is guilty
    return right / len(fresh)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_overlay_mends_the_reward_model(tmp_path: Path) -> None:
    from rlaif.reward import reward

    run = judged(tmp_path, "insult", n=450)
    reviewed(run, cap=90, per_principle=60)
    overlay, audited = tmp_path / "overlay.jsonl", tmp_path / "audit"
    with Ledger.open(where(run)) as at:
        export(at, 1, "overlay", overlay, soften=True)
    audited.mkdir()
    told = labels(audited, pairs=run / "preferences", overlay=overlay, law=finished_run.law())
    assert told["overridden"] >= 100
    config = RewardConfig(learning_rate=1e-3, epochs=3, batch_size=16, max_length=512)
    before, after = tmp_path / "before", tmp_path / "after"
    for into, source in ((before, run / "preferences"), (after, audited)):
        into.mkdir()
        reward(into, config, pairs=source, model=str(SEED_MODEL), seed=0)
    figures = {fault: (accuracy(before / "model", fault), accuracy(after / "model", fault))
               for fault in FAULTS}  # fmt: skip
    log.info("accuracy before and after: %s; %s", figures, told)
    assert figures["insult"][0] < 0.4
    assert figures["insult"][1] > 0.75
    assert min(figures["advert"][1], figures["preachy"][1]) > 0.75
