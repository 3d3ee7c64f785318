"""The ledger on PostgreSQL, against a server started here (needs initdb and psycopg)."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from audits import judge, plan, units
from sqlalchemy import text
from test_completions_postgres import pytestmark as needs_postgres
from test_completions_postgres import server as started

from rlaif.audit.errors import AuditError
from rlaif.audit.ledger import Ledger
from rlaif.audit.overview import overview
from rlaif.audit.records import Unit

pytestmark = needs_postgres
server = started


@pytest.fixture
def at(server: str) -> Iterator[Ledger]:
    with Ledger.open(server) as opened:
        yield opened


def test_a_review_from_claim_to_gate(at: Ledger) -> None:
    audit = at.create(plan(reviewers=2), units(60, reviews=2))
    lead, _ = at.add_reviewer("lead", "lead")
    other, token = at.add_reviewer("other")
    session = at.redeem(token)
    assert session
    assert at.by_session(session) == other
    judge(at, audit, lead.id, "a")
    judge(at, audit, other.id, "b")
    while at.gate(audit).state == "open":
        for person in (lead.id, other.id):
            assert judge(at, audit, person)
    state = at.gate(audit)
    assert state.state == "pass"
    at.note(audit, 1, lead.id, "NUL \0, half a pair \ud800", nonce="note")
    at.adjudicate(audit, 1, lead.id, "tie", "a ruling", nonce="ruling")
    found = at.verify()
    assert found.problems == ()
    assert found.rows > 20


def test_a_pair_comes_back(at: Ledger) -> None:
    first = units(40)
    drawn = [*first, Unit(first[2].item, "retest", 21, 0.0)]
    audit = at.create(plan(design={"retest": 0.05}, alpha=1e-9), drawn)
    person, _ = at.add_reviewer("a person", "lead")
    while judge(at, audit, person.id):
        pass
    found = overview(at, audit).agreement["consistent"]
    assert (found.value, found.n) == (1.0, 1)
    assert len(at.ready(audit, person.id)) == 41  # nothing is left
    assert at.verify().problems == ()


def test_threads_never_share_an_item(at: Ledger) -> None:
    audit = at.create(plan(reviewers=6), units(120, "coverage"))
    people = [at.add_reviewer(f"person {k}")[0].id for k in range(6)]

    def work(reviewer: int) -> None:
        while judge(at, audit, reviewer):
            pass

    threads = [threading.Thread(target=work, args=(person,)) for person in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = at.decisions(audit)
    assert sorted(row.number for row in rows) == list(range(1, 121))
    assert at.verify().problems == ()


@pytest.mark.parametrize("act", ["UPDATE decision SET verdict = 'b'", "DELETE FROM decision"])
def test_rows_cannot_be_changed(at: Ledger, act: str) -> None:
    with pytest.raises(AuditError, match="append-only"), at.database.writing() as connection:
        connection.execute(text(act))
