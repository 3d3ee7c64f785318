"""The ledger: leases, one row for one decision, undo, skips, late ones, reveals, rulings, proof."""

from __future__ import annotations

import json
import random
import sqlite3
import time
import traceback
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import audits
import pytest
from audits import judge, ledger, side, units

from rlaif.audit import chain
from rlaif.audit.errors import AuditError, NotAnswered, NotFound, NotYours, Refused
from rlaif.audit.ledger import BATCH, Ledger
from rlaif.audit.records import Reviewer, Unit


def fresh(at: Ledger, audit: int, number: int) -> int:
    """How many verdict rows an item has."""
    return sum(row.act == "verdict" for row in at.decisions(audit, number))


# --- claims ---------------------------------------------------------------------------------------


def test_items_come_in_the_order_of_the_permutation(tmp_path: Path) -> None:
    with ledger(tmp_path, units(5)) as (at, audit, _):
        seen = [judge(at, audit, 1) for _ in range(5)]
        assert [view.number for view in seen if view] == [1, 2, 3, 4, 5]
        assert at.claim(audit, 1) is None


def test_the_open_item_is_given_again(tmp_path: Path) -> None:
    with ledger(tmp_path, units(3)) as (at, audit, clock):
        first = at.claim(audit, 1)
        clock.now += 60
        again = at.claim(audit, 1)
        assert first
        assert again
        assert again.number == first.number
        assert again.nonce == first.nonce
        assert again.lease_until == first.lease_until + 60_000


def test_never_the_same_item_to_two_unless_asked(tmp_path: Path) -> None:
    with ledger(tmp_path, units(10), people=2) as (at, audit, _):
        first, second = at.claim(audit, 1), at.claim(audit, 2)
        assert first
        assert second
        assert first.number != second.number


def test_overlap_gives_an_item_to_two_different_people(tmp_path: Path) -> None:
    with ledger(tmp_path, units(4, reviews=2), people=2) as (at, audit, _):
        for reviewer in (1, 2):
            numbers = [judge(at, audit, reviewer) for _ in range(4)]
            assert [v.number for v in numbers if v] == [1, 2, 3, 4]
            assert at.claim(audit, reviewer) is None
        assert all(fresh(at, audit, n) == 2 for n in range(1, 5))


def test_a_lease_that_ran_out_gives_way(tmp_path: Path) -> None:
    with ledger(tmp_path, units(1), people=2) as (at, audit, clock):
        assert at.claim(audit, 1)
        assert at.claim(audit, 2) is None
        clock.now += 14 * 60
        assert at.renew(audit, 1, 1)
        clock.now += 14 * 60
        assert at.claim(audit, 2) is None
        clock.now += 2 * 60
        assert at.claim(audit, 2)
        assert not at.renew(audit, 1, 1)


def test_what_nobody_took_over_is_still_ones_own(tmp_path: Path) -> None:
    with ledger(tmp_path, units(2), people=2) as (at, audit, clock):
        mine = at.claim(audit, 1)
        assert mine
        clock.now += 3600
        assert at.claim(audit, 2, number=2)  # reclaims what has lapsed, takes another
        again = at.claim(audit, 1)
        assert again
        assert again.number == mine.number
        assert not at.decide(audit, 1, 1, "prefer", "left", nonce="n").extra


def test_sides_are_stored_and_differ_between_reviewers(tmp_path: Path) -> None:
    with ledger(tmp_path, units(24, reviews=2), people=2) as (at, audit, _):
        order: dict[int, list[bool]] = {1: [], 2: []}
        for reviewer in (1, 2):
            while view := judge(at, audit, reviewer):
                order[reviewer].append(view.left.startswith("A"))
                after = at.look(audit, view.number, reviewer)
                assert (after.left, after.right) == (view.left, view.right)
        assert order[1] != order[2]
        assert 4 <= sum(order[1]) <= 20
        left = {row.left for row in at.decisions(audit) if row.reviewer == 1}
        assert left == {"a", "b"}


def test_one_item_by_its_number(tmp_path: Path) -> None:
    with ledger(tmp_path, units(5), people=2) as (at, audit, _):
        assert at.look(audit, 4, 1).holding == "none"
        third = at.claim(audit, 1, number=3)
        assert third
        assert third.number == 3
        assert at.claim(audit, 2, number=3) is None
        assert at.neighbours(audit, 3, 1) == (None, None)
        at.claim(audit, 1, number=5)
        assert at.neighbours(audit, 3, 1) == (None, 5)
        with pytest.raises(NotFound):
            at.look(audit, 6, 1)


def test_a_blind_view_holds_nothing_that_the_ai_said(tmp_path: Path) -> None:
    drawn = [Unit(audits.critique(k), "gate", k, 0.01) for k in range(3)]
    with ledger(tmp_path, drawn) as (at, audit, _):
        view = at.claim(audit, 1)
        assert view
        text = json.dumps(asdict(view))
        assert "SECRET" not in text
        assert "after" not in text  # that there is a revision would say that a fault was found
        assert "revised" not in text


# --- decisions ------------------------------------------------------------------------------------


def test_the_same_delivery_twice_is_one_row(tmp_path: Path) -> None:
    with ledger(tmp_path, units(2)) as (at, audit, _):
        view = at.claim(audit, 1)
        assert view
        one = at.decide(audit, 1, 1, "prefer", "left", nonce=view.nonce)
        two = at.decide(audit, 1, 1, "prefer", "left", nonce=view.nonce)
        assert one.decision == two.decision
        assert (one.already, two.already) == (False, True)
        assert fresh(at, audit, 1) == 1


def test_a_second_tab_adds_nothing(tmp_path: Path) -> None:
    with ledger(tmp_path, units(2)) as (at, audit, _):
        at.claim(audit, 1)
        at.decide(audit, 1, 1, "prefer", "left", nonce="tab one")
        other = at.decide(audit, 1, 1, "prefer", "right", nonce="tab two")
        assert other.already
        assert other.decision.nonce == "tab one"
        assert fresh(at, audit, 1) == 1


def test_a_late_verdict_is_kept_and_does_not_count(tmp_path: Path) -> None:
    with ledger(tmp_path, units(1), people=2) as (at, audit, clock):
        late = at.claim(audit, 1)
        assert late
        clock.now += 3600
        judge(at, audit, 2, "a")
        found = at.decide(audit, 1, 1, "prefer", side(late, "b"), nonce=late.nonce)
        assert found.extra
        again = at.decide(audit, 1, 1, "prefer", side(late, "b"), nonce=late.nonce)
        assert again.already
        assert fresh(at, audit, 1) == 2
        with at.folded(audit) as fold:
            assert len(fold.units[1].counted) == 1
            assert fold.units[1].agreement == 1.0


def late(at: Ledger, audit: int, clock: audits.Clock) -> None:
    """The first person's verdict on item 1 comes when the second has it."""
    mine = at.claim(audit, 1)
    assert mine
    clock.now += 3600
    other = at.claim(audit, 2)
    assert other
    assert other.number == 1
    assert at.decide(audit, 1, 1, "prefer", side(mine, "b"), nonce=mine.nonce).extra


@pytest.mark.parametrize("skips", [True, False])
def test_whoever_was_late_is_asked_anew_once_the_item_is_free(tmp_path: Path, skips: bool) -> None:
    with ledger(tmp_path, units(3), people=2) as (at, audit, clock):
        late(at, audit, clock)
        if skips:
            at.skip(audit, 1, 2, "no idea", nonce="s")
        clock.now += 3600
        again = at.claim(audit, 1)
        assert again
        assert (again.number, again.stage, again.answers) == (1, "prefer", {})
        assert at.gate(audit).n == 0
        done = at.decide(audit, 1, 1, "prefer", side(again, "a"), nonce=again.nonce)
        assert (done.already, done.extra) == (False, False)
        assert (at.gate(audit).n, at.gate(audit).mean) == (1, 1.0)
        further = judge(at, audit, 1)
        assert further
        assert further.number == 2


def test_whoever_was_late_and_knows_the_label_goes_on_elsewhere(tmp_path: Path) -> None:
    with ledger(tmp_path, units(3), people=2) as (at, audit, clock):
        late(at, audit, clock)
        at.reveal(audit, 1, 1)
        at.skip(audit, 1, 2, "no idea", nonce="s")
        assert not at.renew(audit, 1, 1)
        further = judge(at, audit, 1)
        assert further
        assert further.number == 2


def test_a_late_skip_keeps_nobody_from_the_item(tmp_path: Path) -> None:
    with ledger(tmp_path, units(1), people=2) as (at, audit, clock):
        mine = at.claim(audit, 1)
        assert mine
        clock.now += 3600
        at.claim(audit, 2)
        assert at.skip(audit, 1, 1, "too late", nonce=mine.nonce).extra
        at.skip(audit, 1, 2, "no idea", nonce="s")
        again = at.claim(audit, 1)
        assert again
        assert not at.skip(audit, 1, 1, "no idea", nonce=again.nonce).already
        assert at.claim(audit, 1) is None
        assert [dispute.number for dispute in at.disputes(audit)] == [1]


def test_verdicts_are_kept_in_the_items_own_sides(tmp_path: Path) -> None:
    with ledger(tmp_path, units(30)) as (at, audit, _):
        while judge(at, audit, 1, "b"):
            pass
        assert {row.verdict for row in at.decisions(audit)} == {"b"}
        view = at.look(audit, 1, 1)
        assert view.answers == {"prefer": side(view, "b")}


def test_what_is_refused(tmp_path: Path) -> None:
    with ledger(tmp_path, units(2), people=2) as (at, audit, _):
        with pytest.raises(NotYours):
            at.decide(audit, 1, 1, "prefer", "left", nonce="x")
        at.claim(audit, 1)
        with pytest.raises(AuditError, match="no answer"):
            at.decide(audit, 1, 1, "prefer", "a", nonce="x")
        with pytest.raises(AuditError, match="no question"):
            at.decide(audit, 1, 1, "better", "left", nonce="x")
        with pytest.raises(AuditError, match="nonce"):
            at.decide(audit, 1, 1, "prefer", "left", nonce="")
        at.decide(audit, 1, 1, "prefer", "left", nonce="x")
        at.claim(audit, 2)
        with pytest.raises(Refused, match="another item"):
            at.decide(audit, 2, 2, "prefer", "left", nonce="x")
        with pytest.raises(NotFound):
            at.claim(audit, 9)


# --- undo, skip, flag, note -----------------------------------------------------------------------


def test_undo_brings_the_item_back_once(tmp_path: Path) -> None:
    with ledger(tmp_path, units(3)) as (at, audit, _):
        first = judge(at, audit, 1, "a")
        assert first
        back = at.undo(audit, 1, nonce="undo")
        assert back
        assert (back.number, back.stage, back.holding) == (1, "prefer", "mine")
        assert back.nonce != first.nonce
        again = at.undo(audit, 1, nonce="undo")
        assert again
        assert again.number == 1
        assert at.undo(audit, 1, nonce="further") is None
        at.decide(audit, 1, 1, "prefer", side(back, "b"), nonce=back.nonce)
        with at.folded(audit) as fold:
            assert fold.units[1].agreement == 0.0
        acts = [row.act for row in at.decisions(audit, 1)]
        assert acts == ["verdict", "undo", "verdict"]


def test_no_undo_after_the_reveal(tmp_path: Path) -> None:
    drawn = units(2, "targeted")
    with ledger(tmp_path, drawn) as (at, audit, _):
        judge(at, audit, 1)
        at.reveal(audit, 1, 1)
        assert at.undo(audit, 1, nonce="undo") is None


def test_a_skip_goes_to_somebody_else(tmp_path: Path) -> None:
    with ledger(tmp_path, units(1), people=2) as (at, audit, _):
        at.claim(audit, 1)
        with pytest.raises(Refused, match="reason"):
            at.skip(audit, 1, 1, " ", nonce="s")
        at.skip(audit, 1, 1, "chemistry", nonce="s")
        assert at.skip(audit, 1, 1, "chemistry", nonce="s").already
        assert at.claim(audit, 1) is None
        assert at.gate(audit).n == 0
        assert judge(at, audit, 2)
        assert at.gate(audit).n == 1


def test_an_item_that_all_skip_counts_against_both_sides(tmp_path: Path) -> None:
    with ledger(tmp_path, units(2), people=2) as (at, audit, _):
        for reviewer in (1, 2):
            at.claim(audit, reviewer, number=1)
            at.skip(audit, 1, reviewer, "no idea", nonce=f"s{reviewer}")
        state = at.gate(audit)
        assert state.n == 1
        assert state.passing < 1
        assert state.failing < 1
        assert [dispute.number for dispute in at.disputes(audit)] == [1]


def test_a_skip_is_undone(tmp_path: Path) -> None:
    with ledger(tmp_path, units(1), people=2) as (at, audit, _):
        at.claim(audit, 1)
        at.skip(audit, 1, 1, "wrong key", nonce="s")
        assert at.undo(audit, 1, nonce="u")
        assert at.claim(audit, 2) is None
        at.decide(audit, 1, 1, "prefer", "tie", nonce="v")
        assert at.gate(audit).n == 1


@pytest.mark.parametrize("people", [2, 3])
def test_an_undone_skip_leaves_the_second_review_open(tmp_path: Path, people: int) -> None:
    with ledger(tmp_path, units(2, reviews=2), people=people) as (at, audit, _):
        at.claim(audit, 1)
        at.skip(audit, 1, 1, "wrong key", nonce="s")
        back = at.undo(audit, 1, nonce="u")
        assert back
        at.decide(audit, 1, 1, "prefer", side(back, "a"), nonce="v")
        second = judge(at, audit, 2)
        assert second
        assert second.number == 1
        assert at.gate(audit).n == 1
        assert at.claim(audit, people, number=1) is None or people == 2  # no third one is asked


def test_flags_and_notes(tmp_path: Path) -> None:
    with ledger(tmp_path, units(1)) as (at, audit, _):
        at.flag(audit, 1, 1, True, nonce="f1")
        at.note(audit, 1, 1, "=odd \x00 \ud800", nonce="n1")
        at.note(audit, 1, 1, "=odd \x00 \ud800", nonce="n1")
        view = at.look(audit, 1, 1)
        assert view.flagged
        assert view.notes == ("=odd \N{REPLACEMENT CHARACTER} ?",)
        at.flag(audit, 1, 1, False, nonce="f2")
        assert not at.look(audit, 1, 1).flagged
        assert at.verify().problems == ()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://127.0.0.1:1/audit?user=u&password=s3cret", "the ledger failed"),
        ("postgres://u:s3cret@127.0.0.1:1/audit", "the ledger failed"),
        ("postgresql://u:s3cret@host:port/audit", "no URL of a PostgreSQL database"),
        ("mysql://u:s3cret@host/audit", "no URL of a PostgreSQL database"),
    ],
)
def test_a_database_that_cannot_be_used_is_named_without_its_password(url: str, said: str) -> None:
    if said == "the ledger failed":
        pytest.importorskip("psycopg")
    with pytest.raises(AuditError, match=said) as found, Ledger.open(url):
        pass
    shown = "".join(traceback.format_exception(found.value))
    assert "s3cret" not in str(found.value)
    assert "s3cret" not in shown
    assert found.value.remedy


def test_a_full_disk_says_so_and_loses_nothing(tmp_path: Path) -> None:
    with ledger(tmp_path, units(3)) as (at, audit, _):
        judge(at, audit, 1)
        with at._writing() as connection:  # from here on the file may not grow
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        kept = list[int]()

        def write(most: int) -> None:
            for k in range(most):
                at.note(audit, 1, 1, "x" * 20_000, nonce=f"n{k}")
                kept.append(k)

        with pytest.raises(AuditError, match="full"):
            write(100)
        assert sum(row.act == "note" for row in at.decisions(audit)) == len(kept)
        with at._writing() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
        write(len(kept) + 1)  # those that are there already stay one
        assert sum(row.act == "note" for row in at.decisions(audit)) == max(kept) + 1
        judge(at, audit, 1)
        assert at.verify().problems == ()


# --- reveals --------------------------------------------------------------------------------------


def test_gate_items_are_revealed_by_the_batch(tmp_path: Path) -> None:
    with ledger(tmp_path, units(BATCH * 2 + 1)) as (at, audit, _):
        for n in range(1, BATCH):
            judge(at, audit, 1, random.Random(n).choice("ab"))
        assert at.ready(audit, 1) == []
        with pytest.raises(NotAnswered, match="20 at a time"):
            at.reveal(audit, 1, 1)
        at.claim(audit, 1)
        with pytest.raises(NotAnswered, match="prefer"):
            at.reveal(audit, BATCH, 1)
        judge(at, audit, 1)
        assert at.ready(audit, 1) == list(range(1, BATCH + 1))
        found = at.reveal(audit, 1, 1)
        assert found.ai["rationales"][0]["text"] == "SECRET"
        assert found.agrees in (0.0, 1.0)
        assert at.ready(audit, 1) == list(range(2, BATCH + 1))
        assert sum(row.act == "reveal" for row in at.decisions(audit)) == 1
        at.reveal(audit, 1, 1)
        assert sum(row.act == "reveal" for row in at.decisions(audit)) == 1


def test_targeted_items_are_revealed_at_once(tmp_path: Path) -> None:
    with ledger(tmp_path, units(2, "targeted")) as (at, audit, _):
        view = judge(at, audit, 1)
        assert view
        assert at.ready(audit, 1) == [1]
        found = at.reveal(audit, 1, 1)
        assert found.label == side(view, "a")


def test_the_rest_is_revealed_at_the_end(tmp_path: Path) -> None:
    with ledger(tmp_path, units(3)) as (at, audit, _):
        for _ in range(3):
            judge(at, audit, 1)
        assert at.ready(audit, 1) == [1, 2, 3]


def test_a_changed_mind_is_a_row_and_the_gate_keeps_the_blind_one(tmp_path: Path) -> None:
    with ledger(tmp_path, units(2)) as (at, audit, _):
        view = judge(at, audit, 1, "b")
        judge(at, audit, 1, "a")
        assert view
        with pytest.raises(NotAnswered):
            at.change(audit, 1, 1, "prefer", side(view, "a"), nonce="c")
        at.reveal(audit, 1, 1)
        before = at.gate(audit)
        at.change(audit, 1, 1, "prefer", side(view, "a"), nonce="c")
        assert at.gate(audit) == before
        assert at.look(audit, 1, 1).answers == {"prefer": side(view, "a")}
        assert at.decisions(audit, 1)[-1].blind == "no"


def test_a_critique_from_question_to_question(tmp_path: Path) -> None:
    drawn = [Unit(audits.critique(0), "gate", 0, 0.1)]
    drawn.append(Unit(audits.critique(1, "no_fault"), "gate", 1, 0.1))
    with ledger(tmp_path, drawn) as (at, audit, _):
        view = at.claim(audit, 1)
        assert view
        assert (view.stage, view.response, view.left) == ("violated", "before 0", "")
        with pytest.raises(NotAnswered):
            at.decide(audit, 1, 1, "better", "left", nonce="b")
        at.decide(audit, 1, 1, "violated", "yes", nonce="v")
        view = at.claim(audit, 1)
        assert view
        assert (view.number, view.stage) == (1, "better")
        assert {view.left, view.right} == {"before 0", "after 0"}
        word = "left" if view.left.startswith("after") else "right"
        with pytest.raises(NotAnswered, match="better"):
            at.reveal(audit, 1, 1)
        at.decide(audit, 1, 1, "better", word, nonce="b")
        found = at.reveal(audit, 1, 1)
        assert (found.label, found.agrees, found.revision) == ("yes", 1.0, "after 0")
        assert found.stages == ("critique", "defects", "revision")
        at.decide(audit, 1, 1, "critique", "partial", nonce="c")
        at.decide(audit, 1, 1, "defects", "evasive,factual", nonce="d")
        at.decide(audit, 1, 1, "revision", "edit", nonce="e", text="better still")
        assert at.decide(audit, 1, 1, "revision", "edit", nonce="e2", text="better still").already
        assert at.reveal(audit, 1, 1).stages == ()
        second = at.claim(audit, 1)
        assert second
        assert second.number == 2
        at.decide(audit, 2, 1, "violated", "no", nonce="v2")
        found = at.reveal(audit, 2, 1)
        assert (found.label, found.agrees, found.stages) == ("no", 1.0, ("critique",))
        assert at.gate(audit).mean == 1.0


# --- gate and rulings -----------------------------------------------------------------------------


def test_only_the_completed_prefix_counts(tmp_path: Path) -> None:
    with ledger(tmp_path, units(5), people=2) as (at, audit, _):
        slow = at.claim(audit, 1)
        assert slow
        for _ in range(3):
            judge(at, audit, 2)
        state = at.gate(audit)
        assert state.n == 0
        assert "3 behind it" in state.why
        at.decide(audit, 1, 1, "prefer", "tie", nonce="slow")
        assert at.gate(audit).n == 4


def test_the_gate_is_decided_once_and_ends_the_arm(tmp_path: Path) -> None:
    drawn = units(60) + units(3, "coverage", start=100)
    with ledger(tmp_path, drawn) as (at, audit, _):
        while at.gate(audit).state == "open":
            assert judge(at, audit, 1)
        state = at.gate(audit)
        assert (state.state, state.passed) == ("pass", True)
        assert 10 < state.n < 40
        assert state.low > 0.65
        assert at.progress(audit, 1).left is None
        assert at.claim(audit, 1) is None  # nothing asks for more
        assert at.undo(audit, 1, nonce="u") is None
        assert at.gate(audit) == state
    with Ledger.open(tmp_path / "audit.db") as again:
        assert again.gate(audit) == state


def test_what_each_principle_still_needs_stays_open(tmp_path: Path) -> None:
    drawn = units(40)
    with ledger(tmp_path, drawn, design={"per_principle": 25}) as (at, audit, _):
        n = 0
        while judge(at, audit, 1):
            n += 1
        assert at.gate(audit).state == "pass"
        assert n == 25


def test_a_gate_that_was_told_stays_decided_though_its_process_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ledger(tmp_path, units(60)) as (at, audit, _):
        monkeypatch.setattr(at, "_settle", lambda audit: None)  # killed after each verdict's row
        while at.gate(audit).state == "open":
            judge(at, audit, 1)
    with Ledger.open(tmp_path / "audit.db") as again:
        state = again.gate(audit)
        assert state.passed
        assert again.undo(audit, 1, nonce="u") is None
        assert again.claim(audit, 1) is None
        assert again.gate(audit) == state


@pytest.mark.parametrize(("wanted", "more"), [(0, 0), (55, 4)])
def test_second_reviews_end_with_the_gate(tmp_path: Path, wanted: int, more: int) -> None:
    drawn = [Unit(audits.pair(k), "gate", k, 0.1, 1 + (k % 5 == 0)) for k in range(80)]
    design = {"per_principle": wanted}
    with ledger(tmp_path, drawn, people=2, tau=0.5, design=design) as (at, audit, _):
        for _ in range(60):  # far ahead of the other
            judge(at, audit, 1)
        while at.gate(audit).state == "open":
            assert judge(at, audit, 2)
        n = at.gate(audit).n
        done = 0
        while judge(at, audit, 2):
            done += 1
        assert (n, done) == (15, more)
        assert judge(at, audit, 1) is None


def test_a_bad_judge_fails(tmp_path: Path) -> None:
    with ledger(tmp_path, units(60)) as (at, audit, _):
        while at.gate(audit).state == "open":
            assert judge(at, audit, 1, "b")
        assert at.gate(audit).state == "fail"
        assert not at.gate(audit).passed


def test_a_lead_overrides_with_a_reason(tmp_path: Path) -> None:
    with ledger(tmp_path, units(3), people=2) as (at, audit, _):
        with pytest.raises(Refused, match="no lead"):
            at.override(audit, 2, "because")
        with pytest.raises(Refused, match="reason"):
            at.override(audit, 1, "")
        state = at.override(audit, 1, "a dry run")
        assert (state.state, state.by, state.reason) == ("overridden", "person 1", "a dry run")
        assert state.passed


def test_disagreement_is_ruled_on_without_names(tmp_path: Path) -> None:
    with ledger(tmp_path, units(2, reviews=2), people=2) as (at, audit, _):
        judge(at, audit, 1, "a")
        judge(at, audit, 2, "b")
        (dispute,) = at.disputes(audit)
        assert (dispute.number, dispute.verdicts) == (1, ("a", "b"))
        assert at.gate(audit).passing < 1  # nobody knows: counts against PASS
        with pytest.raises(Refused):
            at.adjudicate(audit, 1, 2, "a", "I know", nonce="r")
        with pytest.raises(AuditError, match="no ruling"):
            at.adjudicate(audit, 1, 1, "left", "I know", nonce="r")
        ruled = at.adjudicate(audit, 1, 1, "a", "it does less harm", nonce="r")
        assert at.adjudicate(audit, 1, 1, "a", "it does less harm", nonce="r") == ruled
        assert at.disputes(audit) == []
        assert at.gate(audit).passing > 1
        assert at.undo(audit, 1, nonce="u") is None


def test_only_what_is_disputed_is_ruled_on(tmp_path: Path) -> None:
    with ledger(tmp_path, units(30)) as (at, audit, _):
        for verdict in ("b", "b", "cant"):
            judge(at, audit, 1, verdict)
        before = at.gate(audit)
        for number in (1, 30):  # undisputed; never judged
            with pytest.raises(Refused, match="waits for no ruling"):
                at.adjudicate(audit, number, 1, "a", "so that it passes", nonce=f"r{number}")
        assert at.gate(audit) == before
        for verdict in ("b", "a"):  # nobody could judge it; the later ruling replaces the first
            at.adjudicate(audit, 3, 1, verdict, "seen", nonce=verdict)
        assert at.gate(audit).mean == pytest.approx(1 / 3)


def test_undisputed_rulings_in_ledgers_of_old_count_nothing(tmp_path: Path) -> None:
    with ledger(tmp_path, units(30)) as (at, audit, _):
        for _ in range(5):
            judge(at, audit, 1, "b")
        before = at.gate(audit)
        row = {"audit": audit, "reviewer": 1, "verdict": "a", "text": "because", "created": 0}
        with at.database.writing() as raw:
            for n in range(1, 31):
                which = {"number": n, "unit": n, "nonce": f"r{n}"}
                chain.append(raw, "adjudication", row | which)
        assert at.gate(audit) == before
        judge(at, audit, 1, "b")  # ruled on before anybody judged it
        assert (at.gate(audit).n, at.gate(audit).mean) == (6, 0.0)
        assert at.verify().problems == ()


def test_the_guideline_freezes_with_the_first_gate_verdict(tmp_path: Path) -> None:
    drawn = units(1, "calibration", start=50) + units(2)
    with ledger(tmp_path, drawn) as (at, audit, _):
        judge(at, audit, 1)
        sha = at.guideline(audit, "Be fairer.", 1)
        assert at.audit(audit).plan.guideline == "Be fairer."
        judge(at, audit, 1)
        with pytest.raises(Refused, match="frozen"):
            at.guideline(audit, "Be fairest.", 1)
        assert at.audit(audit).guideline_sha == sha
        assert at.frozen(audit)
        assert at.verify().problems == ()


def test_an_audit_that_is_removed_is_missed(tmp_path: Path) -> None:
    with ledger(tmp_path, units(2)):
        pass
    with sqlite3.connect(tmp_path / "audit.db") as at:
        at.execute("DELETE FROM audit")
    with Ledger.open(tmp_path / "audit.db") as at:
        assert at.verify().problems == ("audit 1 was removed after it was drawn",)


def test_a_verdict_names_the_guideline_that_was_at_hand(tmp_path: Path) -> None:
    with ledger(tmp_path, units(4, "calibration"), people=2) as (at, audit, _):

        def said(nonce: str, guideline: str) -> str:
            """The version that a verdict was stored under."""
            view = at.claim(audit, 2)
            assert view is not None
            assert view.stage
            more: Any = {"nonce": nonce, "guideline": guideline}
            at.decide(audit, view.number, 2, view.stage, "left", **more)
            with sqlite3.connect(tmp_path / "audit.db") as rows:
                last = "SELECT guideline_sha FROM decision ORDER BY seq DESC LIMIT 1"
                return rows.execute(last).fetchone()[0]

        old = at.audit(audit).guideline_sha
        assert said("first", old) == old
        new = at.guideline(audit, "Be fairer.", 1)
        assert said("page of before", old) == old
        assert at.unread(audit, 2)
        at.undo(audit, 2, nonce="z")
        assert at.unread(audit, 2)  # nothing was judged meanwhile
        assert said("again", new) == new
        assert not at.unread(audit, 2)
        assert said("forged", "f" * 64) == new
        assert at.verify().problems == ()


def test_every_version_of_the_guideline_is_kept_and_reviewers_are_told(tmp_path: Path) -> None:
    drawn = units(3, "calibration", start=50) + units(2)
    with ledger(tmp_path, drawn, people=2) as (at, audit, _):
        judge(at, audit, 2)
        assert not at.frozen(audit)
        assert not at.unread(audit, 2)
        at.guideline(audit, "Be fairer.", 1)
        assert at.unread(audit, 2)
        judge(at, audit, 2)
        assert not at.unread(audit, 2)
        at.guideline(audit, "Be fair.", 1)  # a text of before is a version of its own
        told = [(version.text, version.by) for version in at.guidelines(audit)]
        assert told == [("Be fair.", ""), ("Be fairer.", "person 1"), ("Be fair.", "person 1")]
        with pytest.raises(Refused, match="no lead"):
            at.guideline(audit, "Mine.", 2)
        for text in (" ", "x" * 50_001):
            with pytest.raises(Refused, match="1 to 50,000"):
                at.guideline(audit, text, 1)
    with sqlite3.connect(tmp_path / "audit.db") as at:
        at.execute("UPDATE audit SET guideline_sha = (SELECT max(sha) FROM guideline_version)")
        at.execute(
            "UPDATE audit SET guideline_sha = (SELECT sha FROM guideline_version "
            "WHERE text = 'Be fairer.')"
        )
    with Ledger.open(tmp_path / "audit.db") as at:
        assert "guideline of audit 1" in at.verify().problems[0]


def test_progress_counts_items_and_minutes(tmp_path: Path) -> None:
    with ledger(tmp_path, units(60)) as (at, audit, _):
        before = at.progress(audit, 1)
        assert before.left
        for _ in range(5):
            judge(at, audit, 1)
        now = at.progress(audit, 1)
        assert (now.done, now.target, now.batch) == (5, 60, 5)
        assert now.left
        assert now.left < before.left
        assert now.minutes == pytest.approx(now.left * 9 / 60)


# --- people ---------------------------------------------------------------------------------------


def test_tokens_are_shown_once_and_kept_as_hashes(tmp_path: Path) -> None:
    with ledger(tmp_path, units(1)) as (at, _, clock):
        person, token = at.add_reviewer("Ann")
        assert token.encode() not in (tmp_path / "audit.db").read_bytes()
        session = at.redeem(token)
        assert session
        assert at.redeem(token) is None
        assert at.by_session(session) == person
        assert at.by_session(token) is None
        at.logout(session)
        assert at.by_session(session) is None
        old = at.invite("Ann")
        clock.now += 8 * 24 * 3600
        assert at.redeem(old) is None
        live, link = at.redeem(at.invite("Ann")), at.invite("Ann")
        assert live
        at.deactivate(person.id)
        assert at.by_session(live) is None
        assert at.redeem(link) is None
        with pytest.raises(NotFound):
            at.deactivate(person.id)
        with pytest.raises(Refused, match="called"):
            at.add_reviewer("Ann")
        with pytest.raises(Refused, match="no name"):
            at.add_reviewer("\x1b[31m")


def test_who_reviews_and_as_what_is_on_record(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "audit.db") as at:
        at.invite("Lea", "lead")  # before there is an audit
        at.create(audits.plan(), units(1))
        at.invite("Ben", by="Lea")
        at.invite("Ben", by="Lea")  # another link changes nothing
        at.invite("Ben", "lead", by="Lea")
        at.invite("Lea")  # she stays a lead
        at.deactivate(2)
        assert [(r.name, r.role, r.active) for r in at.reviewers()] == [
            ("Lea", "lead", True), ("Ben", "lead", False),
        ]  # fmt: skip
        session = at.redeem(at.invite("Ben", "reviewer"))
        assert session
        assert at.by_session(session) == Reviewer(2, "Ben", "reviewer")
        assert at.verify().problems == ()
    with closing(sqlite3.connect(tmp_path / "audit.db")) as raw:
        rows = raw.execute("SELECT \"by\", figures FROM gate_event WHERE state = 'reviewer'")
        told = [(by, *json.loads(figures).values()) for by, figures in rows.fetchall()]
    assert told == [
        ("", 1, "Lea", "lead", True), ("Lea", 2, "Ben", "reviewer", True),
        ("Lea", 2, "Ben", "lead", True), ("", 2, "Ben", "lead", False),
        ("", 2, "Ben", "reviewer", True),
    ]  # fmt: skip


def test_a_ledger_of_old_names_its_people_with_its_next_audit(tmp_path: Path) -> None:
    with ledger(tmp_path, units(2), people=2):
        pass
    path = tmp_path / "audit.db"
    gone = "DELETE FROM gate_event WHERE state = 'reviewer'"
    first = "(SELECT hash FROM gate_event)"
    assert changed(path, gone, f"UPDATE audit_ledger SET seq = 1, head = {first}") == ()
    with Ledger.open(path) as at:
        at.create(audits.plan(labels="other"), units(1, start=5))
        assert at.verify().rows == 4
    assert changed(path, "UPDATE reviewer SET role = 'lead' WHERE id = 2") == (
        "reviewer 2 is not the one on record: person 2, reviewer",
    )


# --- proof ----------------------------------------------------------------------------------------


def filled(folder: Path) -> tuple[Path, str]:
    """A ledger with all kinds of rows, closed; its file and its head."""
    drawn = units(6, reviews=2)
    with ledger(folder, drawn, people=2) as (at, audit, _):
        for k in range(4):
            judge(at, audit, 1, "a")
            judge(at, audit, 2, "ab"[k % 2])
        at.undo(audit, 1, nonce="undo")
        at.note(audit, 2, 1, "a note", nonce="note")
        at.adjudicate(audit, 2, 1, "a", "seen", nonce="ruling")
        at.override(audit, 1, "a test")
        found = at.verify()
        assert found.problems == ()
        return folder / "audit.db", found.head


def changed(path: Path, *statements: str) -> tuple[str, ...]:
    """What `verify` says after somebody has been at the file with a tool of his own."""
    with sqlite3.connect(path) as raw:
        names = [
            name for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        ]
        for name in names:
            raw.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            assert raw.execute(statement).rowcount
    raw.close()
    with Ledger.open(path) as at:
        return at.verify().problems


@pytest.mark.parametrize("table", ["decision", "adjudication", "gate_event", "item", "unit"])
@pytest.mark.parametrize("act", ["UPDATE {} SET id = id", "DELETE FROM {}"])
def test_rows_cannot_be_changed(tmp_path: Path, table: str, act: str) -> None:
    path, _ = filled(tmp_path)
    column = "seq" if table in ("decision", "adjudication", "gate_event") else "id"
    with sqlite3.connect(path) as raw, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        raw.execute(act.format(table).replace("id = id", f"{column} = {column}"))
    raw.close()


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE decision SET verdict = 'b' WHERE seq = 5", "decision 5 was changed"),
        ("UPDATE decision SET created = created + 1 WHERE seq = 5", "decision 5 was changed"),
        ("UPDATE adjudication SET text = 'x'", "adjudication"),
        ("UPDATE gate_event SET state = 'pass' WHERE state = 'overridden'", "gate_event"),
        ("DELETE FROM decision WHERE seq = 6", "row 6 is missing"),
        ("UPDATE reviewer SET name = name || ' '", "reviewer 1 is not the one on record"),
        ("UPDATE reviewer SET role = 'lead'", "reviewer 2 is not the one on record"),
        ("DELETE FROM reviewer WHERE id = 2", "reviewer 2 is not the one on record"),
        ("UPDATE audit SET tau = 0.5", "plan of audit 1"),
        ("UPDATE unit SET arm = 'targeted' WHERE number = 2", "plan of audit 1"),
        ("UPDATE item SET label = 'b' WHERE id = 2", "item pair000001"),
        ("UPDATE guideline_version SET text = 'Be unfair.'", "guideline"),
        ("UPDATE audit_ledger SET head = 'x'", "the ledger ends"),
    ],
)
def test_a_change_is_found(tmp_path: Path, statement: str, said: str) -> None:
    path, _ = filled(tmp_path)
    assert said in " ".join(changed(path, statement))


def test_every_flipped_bit_of_a_row_is_found(tmp_path: Path) -> None:
    path, _ = filled(tmp_path)
    with sqlite3.connect(path) as raw:
        names = [row[1] for row in raw.execute("PRAGMA table_info(decision)")]
        rows = raw.execute("SELECT * FROM decision ORDER BY seq").fetchall()
    raw.close()
    rng, copies = random.Random(0), tmp_path / "copies"
    copies.mkdir()
    for k in range(20):
        row = rng.choice(rows)
        column = rng.choice(
            [n for n, v in enumerate(row) if v not in (None, "") and names[n] != "seq"]
        )
        value = row[column]
        if isinstance(value, int):
            flipped = str(value ^ (1 << rng.randrange(8)))
        else:
            at = rng.randrange(len(value))
            turned = chr(ord(value[at]) ^ (1 << rng.randrange(5)))
            flipped = "'" + (value[:at] + turned + value[at + 1 :]).replace("'", "''") + "'"
        copy = copies / f"{k}.db"
        copy.write_bytes(path.read_bytes())
        statement = f'UPDATE decision SET "{names[column]}" = {flipped} WHERE seq = {row[0]}'
        assert changed(copy, statement), statement


def test_an_end_that_was_cut_off_is_found_against_a_head(tmp_path: Path) -> None:
    path, head = filled(tmp_path)
    with sqlite3.connect(path) as raw:
        (last,) = raw.execute("SELECT max(seq) FROM gate_event").fetchone()
        before = raw.execute("SELECT hash FROM adjudication").fetchone()[0]
    raw.close()
    cut = changed(
        path,
        f"DELETE FROM gate_event WHERE seq = {last}",
        f"UPDATE audit_ledger SET seq = {last - 1}, head = '{before}'",
    )
    assert cut == ()  # by itself the rest is whole
    with Ledger.open(path) as at:
        assert any("cut off" in problem for problem in at.verify(head=head).problems)
        assert at.verify(head=before).problems == ()


# --- size -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_many_items_do_not_slow_it(tmp_path: Path, n: int) -> None:
    with ledger(tmp_path, units(n, "coverage"), frame_size=n) as (at, audit, _):
        judge(at, audit, 1)
        began = time.process_time()
        for _ in range(20):
            judge(at, audit, 1)
            at.progress(audit, 1)
            at.ready(audit, 1)
        assert (time.process_time() - began) / 20 < 0.03
