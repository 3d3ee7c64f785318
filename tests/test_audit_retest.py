"""Pairs that come back: blind, later, to the same person, and in no figure but consistency."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import audits
import pytest
from audits import judge, ledger, side, units

from rlaif.audit import exporting
from rlaif.audit.errors import NotAnswered, Refused
from rlaif.audit.importing import import_file
from rlaif.audit.ledger import BATCH, Ledger
from rlaif.audit.overlay import overrides
from rlaif.audit.overview import overview
from rlaif.audit.records import Unit
from rlaif.cli.audit import _lines

APART = 20
RETEST: dict[str, Any] = {"design": {"retest": 0.05, "population": 1000}, "alpha": 1e-9}
"""An audit that is not decided while the test lasts."""


def drawn(n: int, *which: int, reviews: int = 1) -> list[Unit]:
    """n units of the gate's arm, of which some, counted from 1, come back."""
    first = units(n, reviews=reviews)
    again = [Unit(first[k - 1].item, "retest", APART + 1, 0.0, reviews) for k in which]
    return first + again


def to_the_end(at: Ledger, audit: int, reviewer: int, wanted: str = "a") -> list[int]:
    """Judge all that there is; the numbers in the order in which they came."""
    numbers = []
    while view := judge(at, audit, reviewer, wanted):
        numbers.append(view.number)
    return numbers


def test_a_pair_comes_back_later_and_looks_like_any_other(tmp_path: Path) -> None:
    with ledger(tmp_path, drawn(40, 3), **RETEST) as (at, audit, _):
        seen = []
        while view := at.claim(audit, 1):
            seen.append(view)
            at.decide(audit, view.number, 1, "prefer", "tie", nonce=view.nonce)
        twice = [v for v in seen if v.messages[0]["content"] == "question 2"]
        first, again = (seen.index(v) for v in twice)
        assert again - first > APART
        assert len({v.number for v in seen}) == len(seen) == 41
        assert [v.number for v in seen] == list(range(1, 42))
        told = json.dumps([asdict(view) for view in twice])
        assert "retest" not in told
        assert "repeat" not in told
        assert at.verify().problems == ()


def test_repeats_count_for_nothing_but_consistency(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with ledger(tmp_path / "one", drawn(40), **RETEST) as (at, audit, _):
        to_the_end(at, audit, 1)
        without = overview(at, audit)
        assert without.agreement["consistent"].why == "nothing has come back yet"
        gate, plain = at.gate(audit), without.agreement
        with at.folded(audit) as fold:
            overlay = list(overrides(fold))
    with ledger(tmp_path / "two", drawn(40, 3, 5, 9), **RETEST) as (at, audit, _):
        wanted = {3: "a", 5: "b", 9: "a"}  # what is said of them when they come back
        drawn_units = dict(at.items(audit))
        while view := at.claim(audit, 1):
            unit = drawn_units[view.number]
            said = wanted[unit.order] if unit.arm == "retest" else "a"
            at.decide(audit, view.number, 1, "prefer", side(view, said), nonce=view.nonce,
                      active_ms=9000)  # fmt: skip
        seen = overview(at, audit)
        assert replace(at.gate(audit), labels="") == replace(gate, labels="")
        found = seen.agreement["consistent"]
        assert (found.value, found.n) == (pytest.approx(2 / 3), 3)
        assert (found.low or 1.0) < 2 / 3 < (found.high or 0.0)
        for name in plain:
            if name not in ("consistent", "left_rate"):  # sides are drawn anew
                assert seen.agreement[name] == plain[name], name
        assert seen.reviewers[0].n == 40
        assert seen.reviewers[0].consistent == found
        assert seen.json()["agreement"]["consistent"]["n"] == 3
        assert seen.json()["reviewers"][0]["consistent"]["n"] == 3
        assert next(line for line in _lines(seen, False) if "consistent" in line).endswith("n=3")
        assert seen.disputes == ()
        with at.folded(audit) as fold:
            assert list(overrides(fold)) == overlay
        assert at.verify().problems == ()


def test_a_pair_comes_back_only_to_those_who_judged_it(tmp_path: Path) -> None:
    with ledger(tmp_path, drawn(60, 1, 2), people=2, **RETEST) as (at, audit, _):
        assert judge(at, audit, 1)  # 1 goes to the first reviewer, the rest to the second
        second = to_the_end(at, audit, 2)
        repeats = {n: unit.order for n, unit in at.items(audit) if unit.arm == "retest"}
        assert [repeats[n] for n in second if n in repeats] == [2]
        mine = next(n for n, first in repeats.items() if first == 1)
        assert at.claim(audit, 2, number=mine) is None  # not by its number either
        assert at.claim(audit, 1) is None  # too soon: nothing lies between


def test_what_comes_back_is_not_revealed_before(tmp_path: Path) -> None:
    with ledger(tmp_path, drawn(70, 3), **RETEST) as (at, audit, _):
        for _ in range(BATCH):
            judge(at, audit, 1)
        assert at.ready(audit, 1) == [n for n in range(1, BATCH + 1) if n != 3]
        with pytest.raises(NotAnswered, match="20 at a time"):
            at.reveal(audit, 3, 1)
        repeat = next(n for n, unit in at.items(audit) if unit.arm == "retest")
        while (view := judge(at, audit, 1)) and view.number != repeat:
            assert 3 not in at.ready(audit, 1)
        assert at.progress(audit, 1).batch  # its own batch is not full
        assert 3 not in at.ready(audit, 1)
        while at.progress(audit, 1).batch:
            judge(at, audit, 1)
        assert {3, repeat} <= set(at.ready(audit, 1))


def test_a_repeat_after_the_reveal_says_nothing(tmp_path: Path) -> None:
    with ledger(tmp_path, drawn(40, 3), **RETEST) as (at, audit, _):
        to_the_end(at, audit, 1)  # nothing is left, so all may be revealed
        at.reveal(audit, 3, 1)
        repeat = next(n for n, unit in at.items(audit) if unit.arm == "retest")
        while (view := at.undo(audit, 1, nonce=f"u{len(at.decisions(audit))}")) is not None:
            if view.number == repeat:
                break
        assert view
        at.decide(audit, repeat, 1, "prefer", side(view, "b"), nonce=view.nonce)
        assert overview(at, audit).agreement["consistent"].n == 0


def test_a_repeat_is_not_ruled_on(tmp_path: Path) -> None:
    with ledger(tmp_path, drawn(40, 3), **RETEST) as (at, audit, _):
        repeat = next(n for n, unit in at.items(audit) if unit.arm == "retest")
        with pytest.raises(Refused, match="repeat") as told:
            at.adjudicate(audit, repeat, 1, "a", "seen", nonce="r")
        assert "item 3" in told.value.remedy


def test_skips_and_undo_of_a_repeat(tmp_path: Path) -> None:
    with ledger(tmp_path, drawn(40, 3), **RETEST) as (at, audit, _):
        repeat = next(n for n, unit in at.items(audit) if unit.arm == "retest")
        while (view := at.claim(audit, 1)) and view.number != repeat:
            at.decide(audit, view.number, 1, "prefer", side(view, "a"), nonce=view.nonce)
        at.skip(audit, repeat, 1, "tired", nonce="s")
        for nonce, wanted in (("u1", "b"), ("u2", "a")):
            view = at.undo(audit, 1, nonce=nonce)
            assert view
            assert view.number == repeat
            at.decide(audit, repeat, 1, "prefer", side(view, wanted), nonce=view.nonce)
        found = overview(at, audit).agreement["consistent"]
        assert (found.value, found.n) == (1.0, 1)
        to_the_end(at, audit, 1)
        assert at.verify().problems == ()


def test_two_reviewers_are_each_asked_again(tmp_path: Path) -> None:
    both = drawn(50, 2, reviews=2)
    with ledger(tmp_path, both, people=2, **RETEST) as (at, audit, _):
        to_the_end(at, audit, 1)
        to_the_end(at, audit, 2)
        seen = overview(at, audit)
        assert seen.agreement["consistent"].n == 2
        assert [row.consistent.n for row in seen.reviewers] == [1, 1]


def test_people_who_contradict_themselves_are_warned_of(tmp_path: Path) -> None:
    with ledger(tmp_path, drawn(60, *range(1, 21)), **RETEST, tau=0.8) as (at, audit, _):
        again = {n for n, unit in at.items(audit) if unit.arm == "retest"}
        while view := at.claim(audit, 1):
            said = side(view, "b" if view.number in again else "a")
            at.decide(audit, view.number, 1, "prefer", said, nonce=view.nonce)
        warned = [line for line in overview(at, audit).warnings if "say the same again" in line]
        assert len(warned) == 1
        assert "a judge without fault" in warned[0]


def test_switched_off_and_critiques_say_why(tmp_path: Path) -> None:
    with ledger(tmp_path, units(3), design={"retest": 0.0}) as (at, audit, _):
        assert "audit.retest" in overview(at, audit).agreement["consistent"].why
    (tmp_path / "two").mkdir()
    rounds = [Unit(audits.critique(0), "gate", 0, 0.1)]
    with ledger(tmp_path / "two", rounds, **RETEST) as (at, audit, _):
        assert "at once" in overview(at, audit).agreement["consistent"].why


@pytest.mark.parametrize("form", ["csv", "jsonl", "argilla", "labelstudio", "trl", "overlay"])
def test_exports_and_imports_take_no_repeat_for_a_verdict(tmp_path: Path, form: str) -> None:
    out = tmp_path / "out"
    with ledger(tmp_path, drawn(40, 3), **RETEST) as (at, audit, _):
        to_the_end(at, audit, 1)
        n, _ = exporting.export(at, audit, form, out)
        assert n == (41 if form in ("csv", "jsonl") else 40)  # there they are marked by their arm
    if form in ("trl", "overlay"):
        return
    (tmp_path / "two").mkdir()
    with ledger(tmp_path / "two", drawn(40, 3), **RETEST) as (at, audit, _):
        assert import_file(at, audit, out, form, "elsewhere") == (40, 0)
        assert {row.number for row in at.decisions(audit)} == {
            n for n, unit in at.items(audit) if unit.arm != "retest"
        }
