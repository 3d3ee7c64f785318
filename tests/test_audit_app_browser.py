"""The review app in a real Chromium: by keyboard alone, off-line, in two hands, under attack."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.auditing import Live, critique, fill, live, pair
from tests.hostile import PAYLOADS

pytestmark = pytest.mark.browser
Page = Any
Open = Callable[..., Page]
Route = Callable[[Any], object] | None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Live]:
    with live(tmp_path) as running:
        yield running


@pytest.fixture
def come(chromium: Any, server: Live) -> Iterator[Open]:
    """A page of a reviewer who has logged in, in a browser profile of his own.

    At the end no script has failed, and the policy was never broken.
    """
    contexts, wrong = [], []

    def come(name: str = "Anna", role: str = "reviewer", **how: Any) -> Page:
        contexts.append(
            chromium.new_context(**({"viewport": {"width": 1280, "height": 860}} | how))
        )
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: "Policy" in said.text and wrong.append(said.text))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda asked: _own(asked.url, server) or wrong.append(asked.url))
        page.goto(server.link(name, role))
        page.wait_for_url(f"{server.url}/")
        return page

    yield come
    for context in contexts:
        context.close()
    assert not wrong


def _own(url: str, server: Live) -> bool:
    return url.startswith((f"{server.url}/", "data:"))


def takes_keys(page: Page) -> None:
    """Wait until the app hears keys and clicks: not at once after something new appears."""
    page.locator("body[data-takes-keys]").wait_for()


def arrive(page: Page, number: int | None = None) -> int:
    """Wait until an item (that item) is there and takes keys; its number."""
    which = "article.item" if number is None else f'article.item[data-item="{number}"]'
    page.locator(which).wait_for()
    takes_keys(page)
    return int(page.get_attribute("article.item", "data-item"))


def begin(page: Page, server: Live, audit: int) -> None:
    """Take the next item, by its address and one key."""
    page.goto(f"{server.url}/audits/{audit}/items/1")
    takes_keys(page)
    page.keyboard.press("Enter")


def first_item(server: Live, come: Open, verdicts_go: Route = None) -> tuple[int, Page]:
    """A new audit, and a reviewer who looks at its first item.

    What happens to verdicts on their way is said before the page is opened: in one that is open
    already, a request right after `page.route` may still pass it by.
    """
    audit = fill(server.ledger)
    page = come()
    if verdicts_go:
        page.route("**/verdict", verdicts_go)
    begin(page, server, audit)
    arrive(page, 1)
    return audit, page


def verdicts(server: Live, audit: int) -> list[tuple[int, str]]:
    return [(d.number, d.verdict) for d in server.ledger.decisions(audit) if d.act == "verdict"]


# --- reviewing ------------------------------------------------------------------------------------


def test_fifty_items_by_keyboard_alone(server: Live, come: Open) -> None:
    audit = fill(server.ledger, 60, arm="calibration")
    page = come()
    takes_keys(page)
    page.keyboard.press("Enter")
    for i in range(1, 51):
        arrive(page, i)
        if i == 5:  # a note with digits in it, and a flag
            page.keyboard.press("c")
            page.keyboard.type("1 is better than 2; z")
            page.keyboard.press("Escape")
            page.keyboard.press("f")
        if i == 7:  # look at the guideline, the help and the marks, and go on
            for key, id in (("g", "guideline"), ("?", "help")):
                page.keyboard.press(key)
                page.locator(f"#{id}[open]").wait_for()
                page.keyboard.press("1")
                page.keyboard.press("Escape")
            page.keyboard.press("d")
            page.locator("#sides mark").first.wait_for()
        page.keyboard.press("12340"[i % 5])
        if i == 10:  # take it back, and say something else
            arrive(page, 11)
            page.keyboard.press("z")
            arrive(page, 10)
            page.keyboard.press("3")
        if i % 20 == 0:
            page.get_by_role("heading", name="20 judged").wait_for()
            takes_keys(page)
            page.keyboard.press("Enter")
            page.get_by_role("heading", name="You and the AI agree").wait_for()
            takes_keys(page)
            page.keyboard.press("Enter")
    arrive(page, 51)
    given = {d.number: d for d in server.ledger.decisions(audit) if d.act == "verdict"}
    assert sorted(given) == list(range(1, 51))
    for number, d in given.items():
        side = "1" if d.verdict == d.left else "2"
        key = {"tie": "3", "both_bad": "4", "cant": "0"}.get(d.verdict, side)
        assert key == ("3" if number == 10 else "12340"[number % 5])
    acts = [(d.act, d.number, d.text) for d in server.ledger.decisions(audit)]
    assert ("note", 5, "1 is better than 2; z") in acts
    assert ("flag", 5, "on") in acts
    assert sum(d.active_ms for d in given.values()) > 50 * 100
    assert server.ledger.verify().problems == ()


def test_a_critique_by_keyboard_alone(server: Live, come: Open) -> None:
    audit = fill(server.ledger, 2, kind="critique")
    page = come()
    begin(page, server, audit)
    arrive(page, 1)
    page.keyboard.press("y")
    page.get_by_role("heading", name="Which version").wait_for()
    assert page.locator("#sides mark").count() > 1
    takes_keys(page)
    page.keyboard.press("2")
    page.get_by_role("button", name="Show what the AI said").wait_for()
    takes_keys(page)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Is the critique right").wait_for()
    assert page.locator("ins").count() > 1
    takes_keys(page)
    for key in "157a":
        page.keyboard.press(key)
    arrive(page, 2)
    answers = server.ledger.look(audit, 1, 1).answers
    assert answers["critique"] == "correct"
    assert answers["defects"] == "evasive,new_violation"
    assert answers["revision"] == "accept"


def test_everything_by_mouse_and_name_without_single_keys(server: Live, come: Open) -> None:
    audit = fill(server.ledger)
    page = come()
    page.get_by_role("button", name="Begin").click()
    arrive(page, 1)
    page.get_by_role("button", name="Help").click()
    page.get_by_label("Single keys work").uncheck()
    page.get_by_role("button", name="Close").click()
    page.keyboard.press("1")
    page.keyboard.press("s")
    page.get_by_label("Flag").check()
    page.keyboard.press("Enter")  # in a field, it is no verdict
    page.get_by_role("button", name="Equally good").click()
    assert arrive(page, 2) == 2
    page.get_by_role("button", name="Skip").click()
    page.get_by_label("The item is broken").check()
    page.get_by_role("button", name="Skip it").click()
    arrive(page, 3)
    assert "Skipped" in page.get_by_role("status").first.inner_text()
    page.get_by_role("button", name="Undo").click()
    arrive(page, 2)
    page.get_by_role("link", name="Previous").click()
    page.locator(".yours").wait_for()
    assert verdicts(server, audit) == [(1, "tie")]


def test_two_reviewers_race(server: Live, come: Open) -> None:
    audit = fill(server.ledger, 24, arm="calibration")
    pages = [come("Anna"), come("Ben")]
    for page in pages:
        begin(page, server, audit)
    for _ in range(10):
        for page in pages:
            arrive(page)
        before = [page.get_attribute("article.item", "data-item") for page in pages]
        assert before[0] != before[1]
        for page in pages:
            page.keyboard.press("1")
        for page, number in zip(pages, before, strict=True):
            page.locator(f'article.item:not([data-item="{number}"])').wait_for()
    numbers = [number for number, _ in verdicts(server, audit)]
    assert len(numbers) == len(set(numbers)) == 20


# --- nothing is lost, nothing is doubled ----------------------------------------------------------


def test_a_verdict_given_off_line_is_kept_and_sent_once(server: Live, come: Open) -> None:
    audit, page = first_item(server, come)
    page.context.set_offline(True)
    page.keyboard.press("3")
    page.get_by_text("Not saved yet").wait_for()
    assert "offline" in page.inner_text("#unsaved")
    page.keyboard.press("1")  # one is waiting already
    page.wait_for_timeout(1500)
    assert verdicts(server, audit) == []
    assert page.get_attribute("article.item", "data-item") == "1"
    page.context.set_offline(False)
    arrive(page, 2)
    assert page.locator("#unsaved").is_hidden()
    assert verdicts(server, audit) == [(1, "tie")]


def test_an_answer_lost_on_the_way_back_doubles_nothing(server: Live, come: Open) -> None:
    lost = []

    def lose(route: Any) -> None:
        if len(lost) == 2:
            return route.continue_()
        lost.append(route.fetch().status)  # it arrives, and is stored
        return route.abort()

    audit, page = first_item(server, come, lose)
    page.keyboard.press("3")
    arrive(page, 2)
    assert lost == [200, 200]
    assert verdicts(server, audit) == [(1, "tie")]


def test_a_verdict_survives_that_the_page_is_closed(server: Live, come: Open) -> None:
    audit, page = first_item(server, come)
    page.context.set_offline(True)
    page.keyboard.press("3")
    page.get_by_text("Not saved yet").wait_for()
    page.close()
    page.context.set_offline(False)
    other = page.context.new_page()
    other.goto(f"{server.url}/")
    other.get_by_text("Your earlier verdict is saved now.").wait_for()
    assert verdicts(server, audit) == [(1, "tie")]


def test_a_verdict_that_is_refused_is_not_called_saved(server: Live, come: Open) -> None:
    audit, page = first_item(server, come)
    page.context.set_offline(True)
    page.keyboard.press("1")
    page.get_by_text("Not saved yet").wait_for()
    (reviewer,) = [r.id for r in server.ledger.reviewers() if r.role == "reviewer"]
    server.ledger.skip(audit, 1, reviewer, "too long", nonce="another device")
    page.close()
    page.context.set_offline(False)
    other = page.context.new_page()
    other.goto(f"{server.url}/")
    other.get_by_text("Your earlier verdict was refused: ").wait_for()
    assert not verdicts(server, audit)


def test_the_guideline_that_is_read_is_the_one_that_stands(server: Live, come: Open) -> None:
    audit, page = fill(server.ledger, 4, arm="calibration", guideline="Be fair."), come()
    begin(page, server, audit)
    arrive(page, 1)
    page.keyboard.press("g")
    page.get_by_text("Be fair.").wait_for()
    page.get_by_role("button", name="Close").click()
    lead = server.ledger.add_reviewer("Lea", "lead")[0]
    server.ledger.guideline(audit, "Be fairer.", lead.id)
    page.keyboard.press("1")
    arrive(page, 2)
    page.get_by_role("button", name="Read it").click()
    page.get_by_text("Be fairer.").wait_for()


def test_what_is_not_saved_can_be_taken_back(server: Live, come: Open) -> None:
    audit, page = first_item(server, come, lambda route: route.abort())
    page.keyboard.press("3")
    page.get_by_text("Not saved yet").wait_for()
    takes_keys(page)
    page.keyboard.press("z")
    page.locator("#unsaved").wait_for(state="hidden")
    page.unroute("**/verdict")
    arrive(page, 1)
    page.keyboard.press("4")
    arrive(page, 2)
    assert verdicts(server, audit) == [(1, "both_bad")]


def test_a_double_click_and_a_held_key_judge_one_item(server: Live, come: Open) -> None:
    audit, page = first_item(server, come)
    page.get_by_role("button", name="Equally good").dblclick()
    arrive(page, 2)
    takes_keys(page)
    assert verdicts(server, audit) == [(1, "tie")]
    page.keyboard.down("4")
    arrive(page, 3)
    for _ in range(3):
        page.keyboard.down("4")  # as a key that is held repeats itself
    page.keyboard.up("4")
    takes_keys(page)
    assert verdicts(server, audit) == [(1, "tie"), (2, "both_bad")]


def test_a_second_tab_says_what_the_first_decided(server: Live, come: Open) -> None:
    audit, page = first_item(server, come)
    other = page.context.new_page()
    other.goto(f"{server.url}/audits/{audit}/items/1")
    arrive(other, 1)
    page.keyboard.press("3")
    arrive(page, 2)
    other.keyboard.press("4")
    other.get_by_text("You had judged this already: equally good").wait_for()
    assert verdicts(server, audit) == [(1, "tie")]


# --- for everybody --------------------------------------------------------------------------------


def every_page(server: Live, page: Page) -> Iterator[str]:
    """Leads the page through each kind of page of the app; their names."""
    pairs = fill(server.ledger, 4, arm="targeted", reviewers=2)
    rounds = fill(server.ledger, 4, kind="critique", reviewers=2)
    ben = server.client("Ben")
    ben.judge(pairs, ben.post(f"/audits/{pairs}/next"), "tie")
    ben.judge(rounds, ben.judge(rounds, ben.post(f"/audits/{rounds}/next"), "no"), "tie")
    page.goto(server.url)
    yield "home"
    page.goto(f"{server.url}/audits/{pairs}/items/1")
    yield "not taken"
    takes_keys(page)
    page.keyboard.press("Enter")
    arrive(page, 1)
    yield "pair"
    page.keyboard.press("d")
    page.locator("#sides mark").first.wait_for()
    page.keyboard.press("c")
    yield "marks and note"
    page.keyboard.press("Escape")
    for key, id in (("s", "skip"), ("g", "guideline"), ("?", "help")):
        page.keyboard.press(key)
        page.locator(f"#{id}[open]").wait_for()
        page.wait_for_timeout(200)
        yield id
        page.keyboard.press("Escape")
    page.keyboard.press("1")
    page.get_by_text("Show what the AI said").wait_for()
    yield "committed"
    takes_keys(page)
    page.keyboard.press("Enter")
    page.locator("#reveal").wait_for()
    page.get_by_text("Change my mind").click()
    yield "revealed"
    begin(page, server, rounds)
    arrive(page, 1)
    yield "violated"
    page.keyboard.press("y")
    page.get_by_role("heading", name="Which version").wait_for()
    yield "better"
    takes_keys(page)
    page.keyboard.press("1")
    page.get_by_text("Show what the AI said").wait_for()
    takes_keys(page)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Is the critique right").wait_for()
    yield "critique"
    for audit in (pairs, rounds):
        page.goto(f"{server.url}/audits/{audit}/lead")
        yield "lead"
        page.locator("a[href*=disputes]").first.click()
        page.locator(".dispute").wait_for()
        yield "dispute"
    ruled = {"verdict": "tie", "nonce": "ruled", "reason": "Both."}
    server.client("Lena", "lead").post(f"/audits/{pairs}/disputes/1", **ruled)
    page.goto(f"{server.url}/audits/{pairs}/inspect/1")
    yield "inspected"
    for path in ("nowhere", f"audits/{pairs}/reveals", "login?token=x"):
        page.route("**/static/app.js*", lambda route: route.abort())  # the login page stays
        page.goto(f"{server.url}/{path}")
        page.unroute("**/static/app.js*")
        yield path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_any_page(server: Live, come: Open, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = come(role="lead", color_scheme=scheme, reduced_motion="reduce")
    rules = {
        "type": "tag",
        "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    }
    grounds = set()
    for name in every_page(server, page):
        found = axe.run(page, options={"runOnly": rules}).response["violations"]
        wrong = [(v["id"], n["html"]) for v in found for n in v["nodes"] if v["impact"] != "minor"]
        assert not wrong, f"{name} ({scheme}): {wrong}"
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds == {{"light": "rgb(250, 249, 246)", "dark": "rgb(21, 24, 27)"}[scheme]}


@pytest.mark.parametrize(("width", "height"), [(640, 430), (320, 568)])  # 200% zoom; 400%, a phone
def test_no_page_scrolls_sideways(server: Live, come: Open, width: int, height: int) -> None:
    page = come(role="lead", viewport={"width": width, "height": height}, reduced_motion="reduce")
    for name in every_page(server, page):
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{name} is {wide} wide"


def test_motion_is_left_out_for_those_who_ask(server: Live, come: Open) -> None:
    for wish, name in (("reduce", "none"), ("no-preference", "appear")):
        page = come(wish, reduced_motion=wish)
        begin(page, server, fill(server.ledger))
        arrive(page, 1)
        shown = page.evaluate("getComputedStyle(document.querySelector('.item')).animationName")
        assert shown == name


def test_a_back_button_leads_back(server: Live, come: Open) -> None:
    _, page = first_item(server, come)
    page.keyboard.press("1")
    arrive(page, 2)
    page.go_back()
    page.locator(".yours").wait_for()
    assert page.url.endswith("/items/1")
    page.keyboard.press("j")
    arrive(page, 2)


# --- hostile texts --------------------------------------------------------------------------------


def test_hostile_texts_are_texts(server: Live, come: Open) -> None:
    """All payloads in every field of every page: no dialog, no request elsewhere, the very text."""
    everything = "\n".join(PAYLOADS)
    law = [{"id": everything, "text": everything}]
    turns = [{"role": "user", "content": payload} for payload in PAYLOADS]
    evil = {"messages": turns, "a": everything, "b": f"{everything}\nmore", "principles": law}
    said = {"rationales": [{"principle": everything, "text": everything}]}
    one, round = (
        pair(0, **evil),
        critique(0, **{k: evil[k] for k in ("messages", "a", "principles")}),
    )
    one = replace(one, ai={**one.ai, **said}, stratum=everything)
    round = replace(
        round, ai={"label": "revised", "critique": everything, "b": f"{everything} more"}
    )
    hostile = {"title": everything, "guideline": everything, "reviewers": 2, "arm": "targeted"}
    pairs = fill(server.ledger, items=[one, pair(1)], **hostile)
    rounds = fill(server.ledger, kind="critique", items=[round, critique(1)], **hostile)
    ben = server.client("<img src=x onerror=alert(1)>")
    ben.judge(pairs, ben.post(f"/audits/{pairs}/next"), "tie", note=everything)
    first = ben.judge(rounds, ben.post(f"/audits/{rounds}/next"), "no", note=everything)
    ben.judge(rounds, first, "tie")

    page = come("<script>alert(2)</script>", "lead")
    count = "(text) => document.body.textContent.split(text).length - 1"

    def holds(times: int) -> None:
        assert page.evaluate(count, everything) >= times
        assert page.evaluate("window.pwned === undefined && !document.querySelector('#page img')")

    takes_keys(page)
    holds(2)
    begin(page, server, pairs)
    arrive(page, 1)
    holds(4)  # the question, the principle's name, both sides
    turned = page.locator(".asked .prose").evaluate_all("(all) => all.map((e) => e.textContent)")
    assert turned == PAYLOADS
    page.keyboard.press("d")
    page.locator("#sides mark").wait_for()
    holds(4)
    page.keyboard.press("g")
    page.locator("#guideline .prose").wait_for()
    holds(5)
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    page.fill("#note", everything)
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    page.get_by_text("Show what the AI said").wait_for()
    holds(5)  # the note, too
    takes_keys(page)
    page.keyboard.press("Enter")
    page.locator("#reveal").wait_for()
    holds(7)  # its reasons, and under which principle
    begin(page, server, rounds)
    arrive(page, 1)
    holds(3)
    page.keyboard.press("y")
    page.get_by_role("heading", name="Which version").wait_for()
    takes_keys(page)
    page.keyboard.press("1")
    page.get_by_text("Show what the AI said").wait_for()
    takes_keys(page)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Is the critique right").wait_for()
    holds(4)
    assert page.input_value("#edited") == f"{everything} more"
    for audit in (pairs, rounds):
        page.goto(f"{server.url}/audits/{audit}/lead")
        holds(2)
        page.locator("a[href*=disputes]").first.click()
        page.locator(".dispute").wait_for()
        holds(3)
