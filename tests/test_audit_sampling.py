"""The draw: arms, probabilities, the frozen frame; items from a finished run."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import audits
import finished_run
import numpy as np
import pytest

from rlaif.audit import gate_state, sampling, where
from rlaif.audit.errors import Drawn, Refused
from rlaif.audit.items import Candidate, Source, named, stratum
from rlaif.audit.ledger import Ledger
from rlaif.audit.records import Again
from rlaif.audit.sampling import draw, frame_digest, units
from rlaif.audit.told import sentence
from rlaif.config.audit import AuditConfig
from rlaif.constitution import Constitution, Principle
from rlaif.errors import RunError
from rlaif.jsonl import rows, writing
from rlaif.records import Chain, Pair, Prompt, Verdict
from rlaif.stages import stage_record

ROLES: tuple[tuple[str, Any], ...] = (("Lea", "lead"), ("Bob", "reviewer"))


def frame(n: int, *, strata: tuple[int, ...] = (1,)) -> list[Candidate]:
    names = [f"p{k}" for k, share in enumerate(strata) for _ in range(share)]
    return [
        Candidate(f"item{k:05}", names[k % len(names)], "a", 1.0 if k % 50 == 0 else 0.1, "flip")
        for k in range(n)
    ]


# --- the draw -------------------------------------------------------------------------------------


def test_arms_are_disjoint_and_have_their_sizes() -> None:
    config = AuditConfig(cap=100, per_principle=30, targeted=10, calibration=30)
    drawn = draw(frame(5000, strata=(97, 3)), config, seed=1)
    sizes = Counter(arm for arm, _, _ in drawn.chosen.values())
    assert sizes["calibration"] == 30
    assert sizes["gate"] == 100
    assert 20 <= sizes["coverage"] <= 30  # the rare principle lacks that many in the gate's arm
    assert sizes["targeted"] == 10
    assert drawn.population == 5000 - 30
    assert drawn.strata == {"p0": 4850, "p1": 150}
    assert drawn.labels == {"a": 5000}
    pi = {arm: value for arm, _, value in drawn.chosen.values()}
    assert pi["calibration"] == pytest.approx(30 / 5000)
    assert pi["gate"] == pytest.approx(100 / 4970)
    assert pi["targeted"] == 0


def test_targeted_items_are_the_doubtful_ones() -> None:
    drawn = draw(frame(5000), AuditConfig(cap=50, targeted=10), seed=2)
    picked = [id for id, (arm, _, _) in drawn.chosen.items() if arm == "targeted"]
    assert all(int(id[4:]) % 50 == 0 for id in picked)


def test_a_draw_depends_on_the_seed_and_not_on_the_order_of_rows() -> None:
    rows, config = frame(2000), AuditConfig()
    assert draw(rows, config, 1) == draw(rows[::-1], config, 1)
    assert draw(rows, config, 1).chosen != draw(rows, config, 2).chosen


def test_the_gate_is_a_uniform_permutation() -> None:
    """Over many seeds every item is drawn alike often, at every place alike."""
    config = AuditConfig(cap=10, calibration=0, targeted=0, per_principle=0)
    rows, places = frame(40), Counter[str]()
    orders = []
    for seed in range(800):
        drawn = draw(rows, config, seed)
        places.update(list(drawn.chosen))
        orders += [order for id, (_, order, _) in drawn.chosen.items() if id == "item00007"]
    counts = np.array([places[row.id] for row in rows])
    chi = ((counts - 200) ** 2 / (200 * 0.75)).sum()
    assert chi < 75  # 39 degrees of freedom: above 73 once in a thousand
    assert 3.6 < np.mean(orders) < 5.4


def test_what_was_seen_is_not_in_the_frame() -> None:
    rows = frame(500)
    seen = {row.id for row in rows[:400]}
    drawn = draw(rows, AuditConfig(), 1, seen)
    assert drawn.size == 100
    assert not seen & set(drawn.chosen)


def test_a_small_frame_is_not_spent_on_warming_up() -> None:
    drawn = draw(frame(50), AuditConfig(), 1)
    arms = Counter(arm for arm, _, _ in drawn.chosen.values())
    assert arms == {"calibration": 5, "gate": 45}


def test_the_frames_digest_is_that_of_its_sorted_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"é{k * 7919 % 1000}" for k in range(1000)]
    plain = "".join(f"{id}\n" for id in sorted(ids, key=lambda id: id.encode()))
    expected = hashlib.sha256(plain.encode()).hexdigest()
    assert frame_digest(ids) == expected
    monkeypatch.setattr(sampling, "CHUNK", 64)
    assert frame_digest(reversed(ids)) == expected


# --- items ----------------------------------------------------------------------------------------


def law(*weights: float) -> Constitution:
    principles = tuple(
        Principle(id=f"p{k}", critique=(), revise=(), prefer=("Which?",), weight=w)
        for k, w in enumerate(weights)
    )
    return Constitution(id="law", version="1", principles=principles)


def test_a_label_belongs_to_the_principle_that_decided_it() -> None:
    verdicts = (Verdict("p0", 0.6), Verdict("p1", 0.1), Verdict("p2", None, unlabelled="length"))
    pair = Pair("x", Prompt("q", ()), "one", "two", 0.35, verdicts=verdicts)
    assert stratum(pair, law(1, 1, 1)) == "p1"
    assert stratum(pair, law(9, 1, 1)) == "p0"
    assert stratum(pair, law(9, 1, 1, 1)) == "p1"  # three were drawn by weight, and count alike
    assert stratum(Pair("x", Prompt("q", ()), "one", "two", 0.5), law(1)) == "none"


@pytest.mark.parametrize(
    ("target", "label"), [(0.9, "a"), (0.1, "b"), (0.54, "tie"), (0.5, "tie"), (0.56, "a")]
)
def test_soft_labels_as_verdicts(target: float, label: str) -> None:
    assert named(target, 0.05) == label


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run.made(tmp_path_factory.mktemp("runs"), train=60, heldout=6)


def test_an_audit_of_a_finished_run(run: Path) -> None:
    before = gate_state(run)
    assert (before.state, before.audit) == ("open", None)
    with Ledger.open(where(run)) as at:
        audit = at.audit(sampling.sample(at, run, AuditConfig(reviewers=2, overlap=0.5), seed=4))
        plan = audit.plan
        assert plan.labels == stage_record(run / "preferences")["digest"]
        pairs = (run / "preferences" / "pairs.jsonl").read_text("utf-8").splitlines()
        ids = [json.loads(line)["id"] for line in pairs]
        assert plan.frame_size <= len(ids)
        drawn = [unit for _, unit in at.items(audit.id)]
        assert {unit.item.id for unit in drawn} <= set(ids)
        twice = [unit for unit in drawn if unit.reviews == 2 and unit.arm == "gate"]
        assert 0.2 < len(twice) / sum(unit.arm == "gate" for unit in drawn) < 0.8
        item = at.item(audit.id, 1)
        assert set(item.payload) == {"messages", "a", "b", "principles"}
        assert item.label in ("a", "b", "tie")
        assert {p["id"] for p in item.payload["principles"]} == {
            v["principle"] for v in item.ai["verdicts"]
        }
    assert gate_state(run).audit == audit.id


def test_an_audit_of_critiques(run: Path) -> None:
    with Ledger.open(run / "critiques.db") as at:
        audit = sampling.sample(at, run, AuditConfig(), seed=4, kind="critique")
        drawn = [unit.item for _, unit in at.items(audit)]
        labels = Counter(item.label for item in drawn)
        assert labels["revised"] > 0
        assert labels["no_fault"] > 0
        for item in drawn:
            assert (item.ai["b"] is None) == (item.label == "no_fault")
            assert "b" not in item.payload
        assert at.audit(audit).plan.design["labels"].keys() == {"revised", "no_fault"}


def test_critiques_made_anew_are_other_items(run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    chains, record = other / "critique" / "chains.jsonl", other / "critique" / "stage.json"
    made = list(rows(chains, Chain))
    with writing(chains) as write:
        for chain in made:
            steps = (replace(step, critique=f"{step.critique} Anew.") for step in chain.steps)
            write(replace(chain, steps=tuple(steps)))
    record.write_text(json.dumps(json.loads(record.read_text()) | {"digest": "another"}))
    with Ledger.open(tmp_path / "team.db") as at:
        config = AuditConfig(cap=20, calibration=5)
        audits = [
            at.audit(sampling.sample(at, one, config, seed=4, kind="critique"))
            for one in (run, other)
        ]
        assert audits[0].plan.frame_size == audits[1].plan.frame_size
        assert audits[0].plan.frame_sha != audits[1].plan.frame_sha


def test_the_next_audit_draws_fresh_items(run: Path) -> None:
    with Ledger.open(run / "again.db") as at:
        config = AuditConfig(cap=20, calibration=5, targeted=0, per_principle=0)
        again = Again(at.add_reviewer("Lea", "lead")[0].id, "more items are wanted")
        first = sampling.sample(at, run, config, seed=4)
        second = sampling.sample(at, run, config, seed=4, again=again)
        seen = [{unit.item.id for _, unit in at.items(audit)} for audit in (first, second)]
        assert not seen[0] & seen[1]


def test_the_same_draw_again_is_the_one_that_is_there(run: Path) -> None:
    with Ledger.open(run / "same.db") as at:
        config = AuditConfig(cap=20, calibration=5)
        first = sampling.sample(at, run, config, seed=4)
        assert sampling.sample(at, run, config, seed=4) == first
        assert sampling.sample(at, run, config, seed=4, kind="critique") != first
        assert len(at.audits()) == 2


@pytest.mark.parametrize(
    ("changed", "seed"),
    [({"threshold": 0.2}, 4), ({"alpha": 0.4}, 4), ({"reviewers": 2}, 4), ({"cap": 9}, 4), ({}, 5)],
)
def test_another_draw_of_the_same_labels_is_refused(
    run: Path, tmp_path: Path, changed: dict[str, Any], seed: int
) -> None:
    with Ledger.open(tmp_path / "audit.db") as at:
        sampling.sample(at, run, AuditConfig(cap=20), seed=4)
        with pytest.raises(Drawn, match="--again NAME --reason") as told:
            sampling.sample(at, run, AuditConfig.model_validate({"cap": 20} | changed), seed=seed)
        assert f"with another {', '.join(changed or ['seed'])}" in told.value.what
        assert len(at.audits()) == 1


def test_another_audit_needs_a_lead_and_a_reason(run: Path, tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "audit.db") as at:
        lead, bob = (at.add_reviewer(name, role)[0].id for name, role in ROLES)
        config = AuditConfig(cap=20, calibration=0, targeted=0, per_principle=0)
        first = sampling.sample(at, run, config)
        for again in (Again(bob, "too hard"), Again(lead, " ")):
            with pytest.raises(Refused):
                sampling.sample(at, run, config, again=again)
        assert at.gate(first).again == ()
        second = sampling.sample(at, run, config, again=Again(lead, "too hard"))
        assert second != first
        said = f"drawn again after audit {first} of these labels (undecided) by Lea, because: "
        assert at.gate(second).again == (f"{said}too hard",)
        assert sentence(at.gate(second)).endswith(f"; {said}too hard")
        assert at.gate(first).again == ()
        assert at.verify().problems == ()


def test_of_two_who_draw_at_once_one_is_refused(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "audit.db") as at:
        plan = audits.plan(labels="digest")
        at.create(plan, audits.units(3))
        with pytest.raises(Drawn):
            at.create(plan, audits.units(3, start=3))
        at.create(replace(plan, labels="others"), audits.units(3, start=3))


def test_order_flips_are_targeted(run: Path) -> None:
    found = list(Source.of(run, "preference", 0.05).candidates())
    assert {candidate.why for candidate in found} & {"order_flip", "unsure"}
    assert all(candidate.doubt >= 0 for candidate in found)


def test_a_run_without_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run's folder"):
        Source.of(tmp_path, "preference", 0.05)


# --- repeats --------------------------------------------------------------------------------------


def test_some_pairs_come_back(tmp_path: Path) -> None:
    config = AuditConfig(calibration=20, cap=200, targeted=20, retest=0.1, reviewers=2)
    pairs = {f"p{k:04}": audits.pair(k) for k in range(400)}
    rows = [Candidate(id, "harm", "a", k / 400) for k, id in enumerate(pairs)]
    drawn = draw(rows, config, 0)
    items = [replace(pairs[id], id=id) for id in drawn.chosen]
    made = list(units(drawn, items, config, 0))
    again = [unit for unit in made if unit.arm == "retest"]
    arms = {unit.item.id: unit.arm for unit in made if unit.arm != "retest"}
    assert 10 <= len(again) <= 40
    assert {arms[unit.item.id] for unit in again} <= {"calibration", "gate", "coverage"}
    assert not any(
        unit.arm == "retest"
        for unit in units(drawn, items, config.model_copy(update={"retest": 0.0}), 0)
    )
    with Ledger.open(tmp_path / "audit.db") as at:
        audit = at.create(audits.plan(reviewers=2), made)
        placed = dict(at.items(audit))
        firsts = {unit.item.id: n for n, unit in placed.items() if unit.arm != "retest"}
        assert len(placed) == len(made)
        for n, unit in placed.items():
            if unit.arm == "retest":  # its order says which one it repeats
                assert unit.order == firsts[unit.item.id]
                assert n - unit.order > 20 or n > len(made) - len(again)
        assert at.verify().problems == ()
