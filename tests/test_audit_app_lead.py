"""The lead's pages: results, disagreements, overriding, invitations; and the plots."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rlaif.audit.app import plots
from rlaif.audit.overview import overview
from rlaif.audit.records import Again, Plan, Unit
from rlaif.constitution import load, to_yaml
from rlaif.shipped import folder
from tests.auditing import SECRET, Client, Live, asked, fill, live, pair


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Live]:
    with live(tmp_path) as running:
        yield running


def judged(server: Live, audit: int, name: str, agree: bool, n: int = 1) -> None:
    """n items judged as the AI did, or the other way round."""
    reviewer = next((r for r in server.ledger.reviewers() if r.name == name), None)
    id = reviewer.id if reviewer else server.ledger.add_reviewer(name)[0].id
    for _ in range(n):
        view = server.ledger.claim(audit, id)
        if view is None:
            return
        item = server.ledger.item(audit, view.number)
        said = "left" if (view.left == item.payload[item.label]) == agree else "right"
        server.ledger.decide(audit, view.number, id, "prefer", said, nonce=view.nonce)


def test_leads_settle_what_reviewers_differ_on(server: Live) -> None:
    audit = fill(server.ledger, 5, reviewers=2)
    for name, agree in (("Anna", True), ("Ben", False)):
        judged(server, audit, name, agree, 2)
    lead = server.client("Lena", "lead")
    page = lead.get(f"/audits/{audit}/lead")[1]
    assert re.findall(r"disputes/(\d)", page) == ["1", "2"]
    url = f"/audits/{audit}/disputes/1"
    page = lead.get(url)[1]
    for hidden in (SECRET, "Anna", "Ben", "0.13", "0.86"):
        assert hidden not in page
    sides = re.findall(r'aria-label="(?:Left|Right) response">(.+?)</div>', page)
    assert "AI prefers" not in lead.get(f"/audits/{audit}/inspect/1")[1]  # before the ruling
    said = {"verdict": "left", "nonce": "n1"}
    assert lead.ask("POST", url, said | {"reason": " "})[0] == 409
    page = lead.post(url, **said, reason="It is kinder.")
    assert "Item 1 is settled: left is better" in page
    assert "item 2" in page  # the next one
    lead.post(f"/audits/{audit}/disputes/2", verdict="tie", nonce="n2", reason="Both.")
    assert lead.get(url)[0] == 404
    assert "AI prefers" in lead.get(f"/audits/{audit}/inspect/1")[1]
    undisputed = {"verdict": "left", "nonce": "n3", "reason": "I say so."}
    assert lead.ask("POST", f"/audits/{audit}/disputes/3", undisputed)[0] == 409
    item = server.ledger.item(audit, 1)
    with server.ledger.folded(audit) as fold:
        ruling = fold.units[1].ruling
    assert item.payload[ruling or ""] == sides[0]


def test_the_results_hold_every_figure(server: Live) -> None:
    audit = fill(server.ledger, 40, frame=2000)
    judged(server, audit, "Anna", True, 12)
    page = server.client("Lena", "lead").get(f"/audits/{audit}/lead")[1]
    assert "OPEN" in page
    assert "100%" in page
    for wanted in (
        "agreement with the AI",
        "kappa",
        "Reviewers",
        "Anna",
        "Evidence after 12 items",
    ):
        assert wanted in page
    assert "nan" not in page.lower().replace("finance", "")
    assert "style=" not in page


def test_items_are_inspected_once_nobody_is_to_judge_them_blind(server: Live) -> None:
    audit = fill(server.ledger, 5, reviewers=2)
    lead = server.client("Lena", "lead")
    url = f"/audits/{audit}/inspect/1"
    for name in ("Anna", "Ben"):
        assert lead.get(url)[0] == 409
        judged(server, audit, name, False)
    status, page = lead.get(url)
    assert status == 200
    assert f"{SECRET} 0" in page
    assert "The AI prefers the" in page
    assert "Anna" not in page
    rounds = fill(server.ledger, 2, kind="critique")
    anna = server.client("Carl")
    first = anna.judge(rounds, anna.post(f"/audits/{rounds}/next"), "no")
    anna.judge(rounds, first, "tie")
    assert "found a fault, and revised" in lead.get(f"/audits/{rounds}/inspect/1")[1]


def test_flags_and_notes_reach_the_lead_once_an_item_is_reviewed(server: Live) -> None:
    audit = fill(server.ledger, 5, reviewers=2)
    lead = server.client("Lena", "lead")
    told = {"flag": "1", "note": "<i>both dodge</i>"}
    for name, said in (("Anna", told), ("Ben", {})):
        assert "Flags and notes" not in lead.get(f"/audits/{audit}/lead")[1]
        person = server.client(name)
        question = person.post(f"/audits/{audit}/next")
        assert asked(question)[0] == 1
        person.judge(audit, question, "tie", **said)
    page = lead.get(f"/audits/{audit}/lead")[1]
    assert "Flags and notes" in page
    assert f'href="/audits/{audit}/inspect/1"' in page
    assert "both dodge" not in page  # it is read where the item is
    assert "&lt;i&gt;both dodge&lt;/i&gt;" in lead.get(f"/audits/{audit}/inspect/1")[1]
    seen = overview(server.ledger, audit)
    assert [(row.number, row.flags, row.notes) for row in seen.marked] == [(1, 1, 1)]


def test_a_lead_who_reviews_learns_nothing_before_the_reveal(server: Live) -> None:
    audit = fill(server.ledger, 60, arm="calibration", repeats=1)
    lead = server.client("Lena", "lead")
    page = lead.post(f"/audits/{audit}/next")
    for _ in range(19):
        page = lead.judge(audit, page, "left")
    assert lead.get(f"/audits/{audit}/inspect/2")[0] == 409
    lead.judge(audit, page, "left")  # the batch is full
    assert lead.get(f"/audits/{audit}/inspect/2")[0] == 200
    assert lead.get(f"/audits/{audit}/inspect/1")[0] == 409  # it comes back


def test_the_guideline_changes_until_the_gate_begins(server: Live) -> None:
    first = [pair(k) for k in range(3)]
    units = [Unit(item, "calibration", k, 0.1) for k, item in enumerate(first)]
    units += [Unit(pair(9), "gate", 0, 0.1)]
    law = to_yaml(load(folder("constitution") / "sandbox.yaml"))
    names = {"insult": 100, "advert": 100}
    plan = Plan("preference", "f" * 64, 200, names, 7, guideline="Be fair.", constitution=law)
    audit = server.ledger.create(plan, units)
    anna, lead = server.client(), server.client("Lena", "lead")
    panel = anna.get(f"/audits/{audit}/guideline")[1]
    for wanted in ("Be fair.", "Equally good", "Both bad", "Can&#39;t judge", "insult", "belittle",
                   "A lead may still change it"):  # fmt: skip
        assert wanted in panel
    assert "preachy" not in panel  # not in this audit
    page = anna.judge(audit, anna.post(f"/audits/{audit}/next"), "left")
    assert "The guideline has changed" not in page
    url = f"/audits/{audit}/guideline"
    assert anna.ask("POST", url, {"text": "Mine."})[0] == 403
    assert lead.ask("POST", url, {"text": " "})[0] == 409
    page = lead.post(url, text="Be <b>fairer</b>.")
    assert "Be &lt;b&gt;fairer&lt;/b&gt;." in page
    assert page.count("UTC") == 2  # both versions
    number = asked(anna.post(f"/audits/{audit}/next"))[0]
    page = anna.get(f"/audits/{audit}/items/{number}")[1]
    assert "The guideline has changed since your last verdict" in page
    panel = anna.get(url)[1]
    assert "Be &lt;b&gt;fairer&lt;/b&gt;." in panel
    assert "by Lena" in panel
    for _ in range(3):
        page = anna.judge(audit, anna.post(f"/audits/{audit}/next"), "left")
    assert "The guideline has changed" not in page
    assert lead.ask("POST", url, {"text": "Too late."})[0] == 409
    assert "It stands" in anna.get(url)[1]
    assert 'name="text"' not in lead.get(f"/audits/{audit}/lead")[1]


def test_another_audit_of_the_same_labels_says_so(server: Live) -> None:
    plan = Plan("preference", "f" * 64, 200, {"respect": 200}, 7, labels="digest")
    server.ledger.create(plan, [Unit(pair(0), "gate", 0, 0.1)])
    lead = server.client("Lena", "lead")
    again = Again(server.ledger.reviewers()[-1].id, "<b>too hard</b>")
    audit = server.ledger.create(plan, [Unit(pair(1), "gate", 0, 0.1)], again)
    page = lead.get(f"/audits/{audit}/lead")[1]
    assert "Drawn again after audit 1 of these labels (undecided) by Lena, because: " in page
    assert "&lt;b&gt;too hard&lt;/b&gt;" in page


def test_a_pass_that_leaves_a_principle_out_is_no_green_light(server: Live) -> None:
    items = [replace(pair(k), stratum="harm" if k % 3 else "lies") for k in range(120)]
    audit = fill(server.ledger, frame=2000, items=items)
    id = server.ledger.add_reviewer("Anna")[0].id
    while view := server.ledger.claim(audit, id):
        item = server.ledger.item(audit, view.number)
        agree = item.stratum == "harm" or view.number % 5 == 0
        said = "left" if (view.left == item.payload[item.label]) == agree else "right"
        server.ledger.decide(audit, view.number, id, "prefer", said, nonce=view.nonce)
    assert server.ledger.gate(audit).doubted == ("lies",)
    page = server.client("Lena", "lead").get(f"/audits/{audit}/lead")[1]
    assert f"{server.ledger.gate(audit).state.upper()}" in page
    assert "contradict the labels of" in page


def test_a_decided_gate_offers_nothing_more_and_can_be_overridden(server: Live) -> None:
    audit = fill(server.ledger, 60, frame=2000)
    judged(server, audit, "Anna", False, 60)
    lead = server.client("Lena", "lead")
    page = lead.get(f"/audits/{audit}/lead")[1]
    assert "FAIL" in page
    anna = server.client("Anna")
    assert "The gate has decided" in anna.post(f"/audits/{audit}/next")
    assert lead.ask("POST", f"/audits/{audit}/override", {"reason": ""})[0] == 409
    page = lead.post(f"/audits/{audit}/override", reason="It is a rehearsal.")
    assert "OVERRIDDEN" in page
    assert "It is a rehearsal." in page
    assert server.ledger.gate(audit).by == "Lena"


def test_reviewers_see_no_results(server: Live) -> None:
    audit = fill(server.ledger)
    anna = server.client()
    assert "Results" not in anna.get("/")[1]
    for path in ("lead", "disputes/1", "inspect/1"):
        assert anna.get(f"/audits/{audit}/{path}")[0] == 403
    for path in ("disputes/1", "override", "invite", "guideline"):
        fields = {"reason": "x", "text": "x", "verdict": "left", "name": "Eve", "role": "lead"}
        assert anna.ask("POST", f"/audits/{audit}/{path}", fields)[0] == 403
    assert [r.name for r in server.ledger.reviewers()] == ["Anna"]


def test_an_invitation_is_a_link_that_works_once(server: Live) -> None:
    audit = fill(server.ledger)
    lead = server.client("Lena", "lead")
    page = lead.post(f"/audits/{audit}/invite", name="Carla")
    link = re.search(r'value="(http://.+?/login\?token=.+?)"', page)
    assert link
    carla = Client(server.url, link[1])
    assert asked(carla.post(f"/audits/{audit}/next"))[0] == 1
    assert server.ledger.reviewers()[-1].role == "reviewer"
    assert lead.ask("POST", f"/audits/{audit}/invite", {"name": ""})[0] == 409


def test_a_reviewer_who_is_known_is_made_a_lead(server: Live) -> None:
    audit = fill(server.ledger)
    ben, lead = server.client("Ben"), server.client("Lena", "lead")
    lead.post(f"/audits/{audit}/invite", name="Ben")
    assert ben.get(f"/audits/{audit}/lead")[0] == 403
    lead.post(f"/audits/{audit}/invite", name="Ben", role="lead")
    assert ben.get(f"/audits/{audit}/lead")[0] == 200
    lead.post(f"/audits/{audit}/invite", name="Ben")  # another link takes nothing away
    assert ben.get(f"/audits/{audit}/lead")[0] == 200
    server.ledger.deactivate(server.ledger.reviewers()[0].id)
    assert ben.get("/")[0] == 403


def test_plots_are_well_formed_whatever_the_figures() -> None:
    for passing, failing in (
        ([], []), ([1.0], [1.0]), ([0.0, 0.0], [math.inf, 1e300]), ([1e-300, 30.0], [0.5, 0.1]),
    ):  # fmt: skip
        drawn = ElementTree.fromstring(plots.evidence(passing, failing, 0.05))
        height = float(drawn.attrib["height"])
        for line in drawn.iter("polyline"):
            ys = [float(point.split(",")[1]) for point in line.attrib["points"].split()]
            assert all(0 <= y <= height for y in ys)
    for value in (0.0, 0.5, 1.0):
        assert len(ElementTree.fromstring(plots.interval(value, 0.0, 1.0, 0.7))) == 4
        assert "50%" in plots.scale(0.5)
