"""The review app over HTTP: blindness, logging in, who may ask, and that nothing is said twice."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.routing import APIRoute

from rlaif.audit import ADDRESS
from rlaif.audit.app import serving, shown
from rlaif.audit.app.security import POLICY, hosts
from rlaif.audit.app.serving import _ended_by_hand, application, serve
from rlaif.audit.app.shown import changes, differing, parts
from rlaif.audit.records import Item
from rlaif.errors import RunError
from tests.auditing import SECRET, Client, Live, asked, critique, fill, live, pair

LEAKS = (SECRET, "0.13", "0.86", "86%", "14%", "no_fault", "revised", "rationale")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Live]:
    with live(tmp_path) as running:
        yield running


def verdicts(server: Live, audit: int) -> list[str]:
    return [d.verdict for d in server.ledger.decisions(audit) if d.act == "verdict"]


# --- blindness ------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ["calibration", "gate", "coverage", "targeted"])
def test_no_byte_of_a_blind_page_tells_what_the_ai_said(server: Live, arm: Any) -> None:
    audit = fill(server.ledger, 6, arm=arm)
    anna = server.client()
    page = anna.post(f"/audits/{audit}/next")
    for _ in range(5):
        number = asked(page)[0]
        url = f"/audits/{audit}/items/{number}"
        again = [url, f"{url}/sides", f"{url}/sides?marks=1", f"/audits/{audit}/guideline", "/"]
        for seen in (page, *(anna.get(path)[1] for path in again)):
            assert not [leak for leak in LEAKS if leak in seen]
        page = anna.judge(audit, page, "left")
        assert not [leak for leak in LEAKS if leak in page]
        page = anna.post(f"/audits/{audit}/next")


def test_the_page_does_not_tell_which_side_is_which(server: Live) -> None:
    """The two sides' markup is the same, and the item's own order is not to be seen."""
    audit = fill(server.ledger, 20)
    anna, lefts, page = server.client(), set(), ""
    for i in range(19):
        page = anna.post(f"/audits/{audit}/next") if not page else anna.judge(audit, page, "tie")
        left, right = re.findall(r"<section><h2>(?:Left|Right)</h2>(.+?)</section>", page, re.S)
        bare = [re.sub(r">[^<]+</div>", "></div>", side) for side in (left, right)]
        assert bare[0] == bare[1].replace("Right", "Left")
        lefts.add(pair(i).payload["a"] in left)
    assert lefts == {True, False}


def test_a_response_is_judged_before_its_revision_is_seen(server: Live) -> None:
    audit = fill(server.ledger, 4, kind="critique")
    anna = server.client()
    page = anna.post(f"/audits/{audit}/next")
    assert "Take care." not in page
    page = anna.judge(audit, page, "yes")
    assert asked(page)[1] == "better"
    assert not [leak for leak in LEAKS if leak in page]
    page = anna.judge(audit, page, "left")
    assert SECRET not in page
    assert f"{SECRET} 0" in anna.post(f"/audits/{audit}/items/1/reveal")


def test_pairs_are_revealed_by_the_batch(server: Live) -> None:
    audit = fill(server.ledger, 45, frame=5000)
    anna = server.client()
    page = anna.post(f"/audits/{audit}/next")
    for i in range(19):
        page = anna.judge(audit, page, "left" if i % 4 else "tie")
    early = anna.post(f"/audits/{audit}/items/1/reveal")
    assert "20 at a time" in early
    assert SECRET not in early
    page = anna.judge(audit, page, "left")
    assert "20 judged" in page
    assert SECRET not in page
    page = anna.post(f"/audits/{audit}/reveals")
    assert re.search(r"You and the AI agree on \d+ of 20", page)
    assert f"{SECRET} 3" in anna.get(f"/audits/{audit}/items/4")[1]


def test_targeted_pairs_are_revealed_one_by_one(server: Live) -> None:
    audit = fill(server.ledger, 3, arm="targeted")
    anna = server.client()
    page = anna.judge(audit, anna.post(f"/audits/{audit}/next"), "left")
    assert "Show what the AI said" in page
    page = anna.post(f"/audits/{audit}/items/1/reveal")
    assert SECRET in page
    assert re.search(r"left (14|86)%", page)
    number, stage, nonce = 1, "prefer", re.findall('name="nonce" value="(.+?)"', page)[0]
    url = f"/audits/{audit}/items/{number}/change"
    page = anna.post(url, stage=stage, nonce=nonce, verdict="right")
    assert 'left is better</b> <span class="soft">then</span> <b>right is better' in page
    page = anna.post(f"/audits/{audit}/undo", nonce="u1")
    assert "nothing to take back" in page


# --- one verdict, once ----------------------------------------------------------------------------


def test_a_verdict_sent_again_is_one_verdict(server: Live) -> None:
    audit = fill(server.ledger)
    anna = server.client()
    page = anna.post(f"/audits/{audit}/next")
    said = {"note": "a note", "flag": "1"}
    first, again = (anna.judge(audit, page, "left", **said) for _ in range(2))
    assert asked(first) == asked(again)
    acts = [(d.act, d.number) for d in server.ledger.decisions(audit)]
    assert sorted(acts) == [("flag", 1), ("note", 1), ("verdict", 1)]


def test_a_second_tab_adds_nothing_and_says_so(server: Live) -> None:
    audit = fill(server.ledger)
    anna = server.client()
    page = anna.post(f"/audits/{audit}/next")
    anna.judge(audit, page, "left")
    for nonce in (asked(page)[2], "another"):
        told = anna.judge(audit, page, "right", nonce=nonce)
        assert "You had judged this already: left is better" in told
    assert len(verdicts(server, audit)) == 1


def test_undo_brings_the_item_back(server: Live) -> None:
    audit = fill(server.ledger)
    anna = server.client()
    page = anna.judge(audit, anna.post(f"/audits/{audit}/next"), "left")
    back = anna.post(f"/audits/{audit}/undo", nonce="u1")
    assert asked(back)[0] == 1
    assert asked(anna.judge(audit, back, "both_bad"))[0] == asked(page)[0]
    assert server.ledger.verify().problems == ()


def test_skipping_needs_no_verdict(server: Live) -> None:
    audit = fill(server.ledger)
    anna = server.client()
    number, _, nonce = asked(anna.post(f"/audits/{audit}/next"))
    url = f"/audits/{audit}/items/{number}/skip"
    page = anna.post(url, reason="expertise", note="<b>law</b>", nonce=nonce)
    assert asked(page)[0] != number
    assert server.ledger.decisions(audit)[0].text == "It needs an expert: <b>law</b>"


def test_two_reviewers_never_have_the_same_item(server: Live) -> None:
    audit = fill(server.ledger)
    taken = [asked(server.client(f"R{i}").post(f"/audits/{audit}/next"))[0] for i in range(8)]
    assert len(set(taken)) == 8


def test_critique_and_revision_are_reviewed_in_one_form(server: Live) -> None:
    audit = fill(server.ledger, 4, kind="critique")
    anna = server.client()
    page = anna.judge(audit, anna.post(f"/audits/{audit}/next"), "yes")
    anna.judge(audit, page, "right")
    page = anna.post(f"/audits/{audit}/items/1/reveal")
    assert "<del>" in page
    assert "<ins>" in page
    said = {"critique": "partial", "defects": ["evasive", "unchanged"], "edited": "A better one."}
    anna.judge(audit, page, "edit", **said)
    answers = server.ledger.look(audit, 1, 1).answers
    assert answers["critique"] == "partial"
    assert answers["defects"] == "evasive,unchanged"
    assert answers["revision"] == "edit"
    edited = next(d for d in server.ledger.decisions(audit) if d.verdict == "edit")
    assert edited.text == "A better one."


def test_without_javascript_a_form_leads_to_the_next_page(server: Live) -> None:
    audit = fill(server.ledger)
    anna = server.client()
    plain = {"HX_Request": None, "X_CSRF_Token": None}
    token = anna.headers["X-CSRF-Token"]
    status, _, headers = anna.ask("POST", f"/audits/{audit}/next", {"csrf": token}, **plain)
    assert (status, headers["location"]) == (303, f"/audits/{audit}/items/1")
    page = anna.ask("GET", headers["location"], **plain)[1]
    number, stage, nonce = asked(page)
    fields = {"csrf": token, "stage": stage, "nonce": nonce, "verdict": "tie"}
    url = f"/audits/{audit}/items/{number}/verdict"
    status, _, headers = anna.ask("POST", url, fields, **plain)
    assert (status, headers["location"]) == (303, f"/audits/{audit}/items/2")
    assert verdicts(server, audit) == ["tie"]


def test_errors_are_pages(server: Live) -> None:
    audit = fill(server.ledger)
    anna = server.client()
    for path in (
        f"/audits/{audit}/items/9999",
        "/audits/77/items/1",
        "/nowhere",
        "/audits/x/items/1",
    ):
        status, page = anna.get(path)
        assert (status, "All audits" in page) == (404, True), path
    page = anna.post(f"/audits/{audit}/next")
    number, stage, nonce = asked(page)
    url = f"/audits/{audit}/items/{number}/verdict"
    for verdict in ("up", ""):
        fields = {"stage": stage, "nonce": nonce, "verdict": verdict}
        assert anna.ask("POST", url, fields)[0] == 400
    assert (
        anna.ask("POST", f"/audits/{audit}/items/7/verdict", fields | {"verdict": "tie"})[0] == 409
    )
    assert verdicts(server, audit) == []


# --- who may ask ----------------------------------------------------------------------------------


def changing(server: Live) -> list[str]:
    """The path of every route that changes anything."""
    app = application(server.ledger, port=1)
    routes = [r for r in app.routes if isinstance(r, APIRoute) and "POST" in (r.methods or ())]
    return [re.sub(r"\{\w+\}", "1", route.path) for route in routes]


def test_nothing_is_changed_for_a_stranger(server: Live) -> None:
    fill(server.ledger)
    lead = server.client("Lena", "lead")
    lead.post("/audits/1/next")
    before = server.ledger.verify().rows
    paths = changing(server)
    assert len(paths) > 8
    fields = {"stage": "prefer", "verdict": "left", "nonce": "n", "reason": "other"}
    other = f"http://evil.example:{lead.host.split(':')[1]}"
    wrong: list[dict[str, str | None]] = [
        {"Host": "evil.example"}, {"Host": None}, {"Host": "127.0.0.1"},
        {"Host": lead.host.replace("127.0.0.1", "1.2.3.4")}, {"Origin": other},
        {"Origin": None}, {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"},
        {"Cookie": None}, {"Cookie": f"{lead.headers['Cookie']}x"},
        {"X_CSRF_Token": None}, {"X_CSRF_Token": "0" * 64},
    ]  # fmt: skip
    for path in paths:
        for headers in wrong:
            if path == "/login" and headers.keys() & {"Cookie", "X_CSRF_Token"}:
                continue  # whoever logs in has neither
            assert lead.ask("POST", path, fields, **headers)[0] == 403, (path, headers)
    assert server.ledger.verify().rows == before


def test_pages_are_for_those_with_a_session_alone(server: Live) -> None:
    fill(server.ledger)
    stranger, anna = Client(server.url), server.client()
    app = application(server.ledger, port=1)
    reads = [r.path for r in app.routes if isinstance(r, APIRoute) and "GET" in (r.methods or ())]
    for path in (re.sub(r"\{\w+\}", "1", path) for path in reads):
        status, page = stranger.get(path)
        assert status == (200 if path == "/login" else 403)
        assert "respect" not in page
        assert anna.ask("GET", path, Host="evil.example")[0] == 403
    assert anna.ask("PUT", "/audits/1/next", {})[0] == 405
    assert anna.ask("POST", "/audits/1/next", {}, Content_Length="99999999")[0] == 413
    assert anna.ask("POST", "/audits/1/next", None)[0] == 413


def test_a_link_works_once_and_its_preview_burns_nothing(server: Live) -> None:
    link = server.link("Anna")
    stranger = Client(server.url)
    token = link.split("token=")[1]
    for _ in range(2):
        assert "Log in" in stranger.get(f"/login?token={token}")[1]
    status, _, headers = stranger.ask("POST", "/login", {"token": token})
    assert status == 303
    cookie = headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert token not in cookie
    assert stranger.ask("POST", "/login", {"token": token})[0] == 403
    assert stranger.ask("POST", "/login", {"token": ""})[0] == 403


def test_a_link_logs_in_whoever_was_somebody_else_here(server: Live) -> None:
    fill(server.ledger, 2)
    anna = server.client()
    before = anna.get("/")[1]
    token = server.ledger.invite("Ben")
    page = anna.get(f"/login?token={token}")[1]
    assert "Log in" in page
    bare = {"X_CSRF_Token": None, "HX_Request": None}
    status, _, headers = anna.ask("POST", "/login", {"token": token}, **bare)
    assert status == 303
    assert "Anna" in before
    assert anna.get("/")[0] == 403  # that session has ended
    anna.headers["Cookie"] = headers["set-cookie"].split(";")[0]
    assert "Ben" in anna.get("/")[1]


def test_the_server_is_nobody_elses(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving.getpass, "getuser", lambda: "kim")
    ledger = server.ledger
    lea = ledger.add_reviewer("Lea", "lead")[0]

    def came() -> Any:
        own, token = serving._own_invitation(ledger)
        found = ledger.by_session(ledger.redeem(token) or "")
        assert found
        assert found.name == own  # which the terminal says
        return found

    assert (came().name, came().role) == ("kim", "lead")
    assert came() != lea
    monkeypatch.setattr(serving.getpass, "getuser", lambda: "pat")
    ledger.add_reviewer("pat")
    assert (came().name, came().role) == ("pat (server)", "lead")
    assert came().name == "pat (server)"


def test_logging_out_ends_the_session(server: Live) -> None:
    anna = server.client()
    assert anna.get("/")[0] == 200
    assert anna.ask("POST", "/logout", {})[0] == 303
    assert anna.get("/")[0] == 403


def test_every_answer_carries_the_policy(server: Live) -> None:
    fill(server.ledger)
    anna = server.client()
    for path in ("/", "/audits/1/items/1", "/nowhere", "/static/app.js", "/static/none.js"):
        _, _, headers = anna.ask("GET", path)
        assert headers["content-security-policy"] == POLICY
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cache-control"] == (
            "public, max-age=31536000" if path.endswith("app.js") else "no-store"
        )
    assert "unsafe" not in POLICY


def test_templates_hold_nothing_that_the_policy_forbids() -> None:
    folder = Path(application.__code__.co_filename).parent / "templates"
    for path in folder.glob("*.j2"):
        text = path.read_text("utf-8")
        for banned in ("|safe", "| safe", "style=", "<style", "javascript:", "autoescape", "http:"):
            assert banned not in text, path.name
        assert not re.search(r"\son\w+=", text), path.name
        assert not re.search(r"<script(?! src=\"/static/)", text), path.name


def test_beyond_loopback_a_name_is_needed(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "192.168.1.2", "::", "example.org"):
        with pytest.raises(RunError, match="--allow-host"):
            serve(tmp_path, host=host)


def test_hosts_are_exact() -> None:
    found = hosts(8765, ["Audit.example.org", "other:99"])
    assert "127.0.0.1:8765" in found
    assert {"audit.example.org", "audit.example.org:8765", "other:99"} <= found.keys()
    assert not {"127.0.0.1", "other", "other:8765", "evil.audit.example.org"} & found.keys()
    found = hosts(8765, ["https://Audit.example.org/", "http://other:99"])
    assert (found["audit.example.org"], found["other:99"]) == ("https", "http")
    for wrong in ("ftp://audit.example.org", "https://", "https://audit.example.org/path", "a b"):
        with pytest.raises(RunError, match="names no host"):
            hosts(8765, [wrong])


def test_behind_tls_links_and_cookies_are_for_tls(tmp_path: Path) -> None:
    site = {"Host": "audit.example.org", "Origin": "https://audit.example.org"}
    with live(tmp_path, allow_host=("https://audit.example.org",)) as server:
        here = Client(server.url)
        for headers, secure in ((site, True), ({}, False)):  # on this machine there is no proxy
            token = server.link("Lena", "lead").split("token=")[1]
            answer = here.ask("POST", "/login", {"token": token}, **headers)
            assert ("secure" in answer[2]["set-cookie"].lower()) is secure
        audit, lead = fill(server.ledger), server.client("Lena")
        page = lead.ask("POST", f"/audits/{audit}/invite", {"name": "Anna"}, **site)[1]
        assert "https://audit.example.org/login?token=" in page


def test_the_link_that_is_printed_leads_to_the_proxy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = list[str]()

    def ended(*_: Any, **__: Any) -> None:
        told.append((tmp_path / ADDRESS).read_text())

    monkeypatch.setattr(uvicorn.Server, "run", ended)
    named = ("https://audit.example.org",)
    serve(tmp_path, db=str(tmp_path / "audit.db"), host="0.0.0.0", port=0, allow_host=named)
    assert "Review at https://audit.example.org/login?token=" in capsys.readouterr().out
    assert told == ["https://audit.example.org\n"]


# --- texts ----------------------------------------------------------------------------------------


def test_hidden_characters_are_named() -> None:
    found = parts("a\u202eb\u200b\u200b\x00c\n\td")
    assert found == [
        ("", "a"), ("U+202E RIGHT-TO-LEFT OVERRIDE", "RLO"), ("", "b"),
        ("U+200B ZERO WIDTH SPACE", "ZWSP ×2"), ("U+0000 control character", "U+0000"),  # noqa: RUF001
        ("", "c\n\td"),
    ]  # fmt: skip


WORDS = [" ".join(f"w{(i * k) % 97}" for i in range(20_000)) for k in (1, 7)]
LONG = {
    "loop": ("I am sorry. " * 5000, "I am so sorry. " * 5000),
    "words": (WORDS[0], WORDS[1]),
    "one-word": ("a" * 100_000, "b" * 100_000),
    "lines": ("a\n" * 20_000, "b a\n" * 20_000),
    "hidden": ("\u200b" * 20_000, "\u202e" * 20_000),
    "nothing": ("", "x " * 20_000),
}


@pytest.mark.parametrize("name", LONG)
def test_degenerate_texts_are_compared_in_no_time(name: str) -> None:
    before, after = LONG[name]
    started = time.process_time()
    runs = changes(before, after)
    assert time.process_time() - started < 1  # plain difflib takes minutes
    assert "".join(text for kind, text in runs if kind != "out") == after


def test_a_diff_loses_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "BUDGET", 30.0)
    rng = random.Random(0)
    for _ in range(200):
        before, after = (
            "".join(
                rng.choice(("a ", "b. ", "c\n", "\u202e", "dd")) for _ in range(rng.randrange(30))
            )
            for _ in range(2)
        )
        runs = changes(before, after)
        assert "".join(t for k, t in runs if k != "out") == after
        assert "".join(t for k, t in runs if k != "in").split() == before.split()


def test_a_diff_names_the_words_that_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "BUDGET", 30.0)
    runs = changes(
        "You are an idiot. Ask your doctor, and rest.", "I see. Ask your doctor, and rest more."
    )
    assert ("same", " Ask your doctor, and") in runs
    left, right = differing("the red house", "the blue house")
    assert ("differs", " red") in left
    assert ("differs", " blue") in right
    assert {kind for kind, _ in left + right} == {"same", "differs"}


@pytest.mark.parametrize("make", [pair, critique])
def test_long_texts_are_whole(server: Live, make: Any) -> None:
    loop = "I cannot help with that. " * 4000
    long: Item = make(0, a=loop)
    audit = fill(server.ledger, kind=long.kind, items=[long])
    anna = server.client()
    page = anna.post(f"/audits/{audit}/next")
    assert loop in page
    if long.kind == "preference":
        assert "<mark>" in anna.get(f"/audits/{audit}/items/1/sides?marks=1")[1]


def test_an_interrupt_while_the_server_starts_is_not_lost() -> None:
    """As an exception, one was, in a callback that Python runs between two lines."""
    server = uvicorn.Server(uvicorn.Config(FastAPI()))
    before = signal.getsignal(signal.SIGINT)
    with _ended_by_hand(server):
        os.kill(os.getpid(), signal.SIGINT)
    assert server.should_exit
    assert signal.getsignal(signal.SIGINT) is before
