"""The report: its figures, its page, its warnings, hostile data, and runs that are not finished."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rlaif.cli import main
from rlaif.errors import RunError
from rlaif.intervals import Share
from rlaif.jsonl import rows, writing
from rlaif.records import Chain, Message, Prompt, Sampled, Step
from rlaif.report import figures_of, report
from rlaif.report.distrust import doubts
from rlaif.report.examples import compared, shown, word_diff
from rlaif.report.page import headline
from rlaif.report.plots import calibration, ceiling, loss, strip
from tests.finished_run import CARED, made

EVIL = "</p><script>alert(1)</script>{{ 7 * 7 }}<img src=x onerror=alert(2)> \x1b[2J\u202egnp"
VOID = {"meta", "br", "img", "line", "circle", "polyline", "link", "input", "hr"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("report"), train=16, heldout=60)


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return report(run).read_text("utf-8")


class Page(HTMLParser):
    """Every tag with its attributes and every text, and whether tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def attributes(self, name: str) -> Iterator[str]:
        return (value for _, attrs in self.tags if (value := attrs.get(name)) is not None)


def copied(run: Path, to: Path) -> Path:
    shutil.copytree(run, to)
    return to


# --- figures --------------------------------------------------------------------------------------


def test_json_has_the_promised_keys(run: Path, page: str, capsys: Any) -> None:
    assert main(["report", str(run), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == figures_of(run)
    for group, names in {
        "violations": ("seed", "finetuned", "policy"),
        "helpfulness": ("seed", "finetuned", "policy", "kept"),
        "well_formed": ("seed", "finetuned", "policy"),
    }.items():
        for name in names:
            assert told[group][name]["low"] <= told[group][name]["value"]
            assert told[group][name]["value"] <= told[group][name]["high"]
    for name in ("accuracy", "one_order", "ece", "unlabelled"):
        assert told["labels"][name] is not None
    assert told["reward"]["accuracy"] == Share(33, 46).json()
    assert told["reward"]["ece"] == 0.06
    assert told["calls"]["sent"] > 100
    assert told["calls"]["cached"] >= 0
    stages = ("prompts", "critique", "finetune", "preferences", "reward", "policy", "evaluation")
    assert set(told["seconds"]) == {*stages, "total"}
    assert told["missing"] == []
    assert told["model"] == str(run / "policy" / "model")


def test_a_run_that_was_to_stop_early_says_what_there_is(
    run: Path, tmp_path: Path, capsys: Any
) -> None:
    from rlaif.cli.report import show_so_far

    early = copied(run, tmp_path / "early")
    for stage in ("reward", "policy", "evaluation", "report"):
        shutil.rmtree(early / stage, ignore_errors=True)
    show_so_far(early / "preferences")
    out = capsys.readouterr().out
    assert out.startswith(f"preferences: {early / 'preferences'}\n")
    assert "model:" not in out
    show_so_far(early / "preferences", as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["missing"], told["model"]) == (["reward", "policy", "evaluation"], None)


def test_figures_are_those_of_the_stages(run: Path) -> None:
    told = figures_of(run)
    samples = [s for s in rows(run / "evaluation" / "samples.jsonl", Sampled) if s.model == "seed"]
    guilty = sum(bool(s.truth["violations"]) for s in samples)
    assert told["violations"]["seed"]["value"] == pytest.approx(guilty / len(samples), rel=1e-4)
    by_stage = told["calls"]["by_stage"]
    assert set(by_stage) == {"critique", "preferences", "evaluation"}
    assert told["calls"]["sent"] == sum(calls["sent"] for calls in by_stage.values())


def test_the_terminal_gets_the_headline(run: Path, capsys: Any) -> None:
    assert main(["report", str(run)]) == 0
    out = capsys.readouterr().out
    share = figures_of(run)["violations"]["policy"]
    assert re.search(rf"break a principle .* {100 * share['value']:.1f}% \[", out)
    assert "helpfulness kept" in out
    assert f"\nmodel: {run / 'policy' / 'model'}\n" in out
    assert out.rstrip().endswith("report/index.html")


# --- the page -------------------------------------------------------------------------------------


def test_the_page_is_whole_and_needs_nothing_else(page: str) -> None:
    parsed = Page(page)
    names = {tag for tag, _ in parsed.tags}
    assert {"h1", "table", "svg", "title", "ins", "del", "details"} <= names
    assert not {"script", "link", "img", "iframe"} & names
    assert not re.findall(r"(?:src|href)=\"(?!#)", page)
    assert "url(" not in page
    assert "@import" not in page
    assert "prefers-color-scheme: dark" in page
    links = [href.removeprefix("#") for href in parsed.attributes("href")]
    ids = list(parsed.attributes("id"))
    assert set(links) <= set(ids)
    assert len(ids) == len(set(ids))


def test_the_page_says_what_the_figures_say(run: Path, page: str) -> None:
    told, text = figures_of(run), " ".join(Page(page).texts)
    for name in ("seed", "finetuned", "policy"):
        assert f"{100 * told['violations'][name]['value']:.1f}%" in text
    for id in told["principles"]:
        assert id in text
    for doubt in told["distrust"]:
        assert doubt["what"].split("“")[0] in text
    assert headline(told) in text
    assert "rlaif trace" in text


def test_what_a_reward_is_held_against_is_named(run: Path, tmp_path: Path) -> None:
    copy = copied(run, tmp_path / "run")
    metrics(copy, "reward", raw={"ece": 0.071}, calibrated={"ece": 0.042})
    text = report(copy).read_text("utf-8")
    assert text.count("share that is right") == 1  # the labels', against the oracle
    assert text.count("the judge&#39;s mean label") == 1
    assert "on one half 0.071, after temperature scaling 0.042" in text


def test_every_plot_is_named_and_in_bounds(page: str) -> None:
    drawn = re.findall(r"<svg.*?</svg>", page, re.S)
    assert drawn
    for svg in drawn:
        assert "aria-label=" in svg or "aria-hidden" in svg
        for value in re.findall(r'c?x[12]?="(-?[\d.]+)%"', svg):
            assert 0 <= float(value) <= 100
        assert "nan" not in svg.casefold()


def test_hostile_data_is_only_ever_text(run: Path, tmp_path: Path) -> None:
    copy = copied(run, tmp_path / "run")
    evil = Prompt("evil", (Message("user", EVIL),))
    with writing(copy / "evaluation" / "samples.jsonl") as write:
        write(Sampled("seed", evil, EVIL, violates={EVIL: 0.9}))
        write(Sampled("policy", evil, EVIL + " more", violates={"x": 0.1}))
    with writing(copy / "critique" / "chains.jsonl") as write:
        write(Chain(evil, EVIL, (Step(1, EVIL, "mended " + EVIL, EVIL),)))
    stage = json.loads((copy / "evaluation" / "stage.json").read_text("utf-8"))
    shares = stage["metrics"]["principles"].pop("harm")
    stage["metrics"]["principles"][EVIL] = shares
    stage["metrics"]["boilerplate"] = {
        "policy": [{"text": EVIL, "seed": Share(0, 9).json(), "now": Share(9, 9).json()}]
    }
    stage["metrics"]["violations"]["policy"]["why"] = EVIL
    (copy / "evaluation" / "stage.json").write_text(json.dumps(stage), "utf-8")
    record = json.loads((copy / "run.json").read_text("utf-8"))
    record["config"]["model"] = record["config"]["name"] = record["commit"] = EVIL
    (copy / "run.json").write_text(json.dumps(record), "utf-8")
    text = report(copy).read_text("utf-8")
    parsed = Page(text)
    assert not {"script", "img"} & {tag for tag, _ in parsed.tags}
    assert not [name for _, attrs in parsed.tags for name in attrs if name.startswith("on")]
    assert "49" not in re.findall(r"alert\(1\)</script>(\S+)", "".join(parsed.texts))
    assert "{{ 7 * 7 }}" in "".join(parsed.texts)


def test_hidden_characters_are_shown_as_such() -> None:
    assert "\x1b" not in shown(EVIL)
    assert "\u202e" not in shown(EVIL)
    long = shown("x" * 5000)
    assert len(long) < 1600
    assert long.endswith("(3,500 more characters)")


# --- runs that are not finished -------------------------------------------------------------------


@pytest.mark.parametrize(
    "gone",
    [
        ("evaluation",),
        ("policy", "evaluation"),
        ("reward",),
        ("critique",),
        ("finetune", "preferences", "reward", "policy", "evaluation"),
        ("prompts", "critique", "finetune", "preferences", "reward", "policy", "evaluation"),
    ],
    ids=" ".join,
)
def test_an_unfinished_run_says_what_is_missing(
    run: Path, tmp_path: Path, gone: tuple[str, ...]
) -> None:
    copy = copied(run, tmp_path / "run")
    for stage in gone:
        shutil.rmtree(copy / stage)
    text = report(copy).read_text("utf-8")
    Page(text)
    told = figures_of(copy)
    assert told["missing"] == list(gone)
    assert told["distrust"][0]["what"].startswith("The run is not finished")
    if "evaluation" in gone:
        assert told["violations"]["policy"]["why"] == "the evaluation is not finished"
        assert "This run is not evaluated yet" in text
    if "reward" in gone:
        assert told["reward"]["accuracy"]["why"] == "the reward model is not finished"


def test_metrics_of_another_shape_do_no_harm(run: Path, tmp_path: Path) -> None:
    copy = copied(run, tmp_path / "run")
    for stage in ("critique", "finetune", "preferences", "reward", "policy", "evaluation"):
        path = copy / stage / "stage.json"
        record = json.loads(path.read_text("utf-8"))
        record["metrics"] = {"strange": [1, None, {"x": "y"}]}
        path.write_text(json.dumps(record), "utf-8")
    text = report(copy).read_text("utf-8")
    Page(text)
    assert figures_of(copy)["violations"]["policy"]["value"] is None
    assert "strange" not in text


def test_not_a_run(tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(RunError, match=r"no run\.json"):
        report(tmp_path)
    assert main(["report", str(tmp_path)]) == 1
    assert "remedy" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


# --- what to distrust -----------------------------------------------------------------------------


def said(figures: dict[str, Any], record: dict[str, Any] | None = None) -> str:
    return "\n".join(d.what for d in doubts(figures, {"commit": "c"} | (record or {})))


def changed(figures: dict[str, Any], **paths: Any) -> dict[str, Any]:
    """Figures with some values set; `a__b` is figures["a"]["b"]."""
    copy = json.loads(json.dumps(figures))
    for path, value in paths.items():
        *keys, last = path.split("__")
        at = copy
        for key in keys:
            at = at.setdefault(key, {})
        at[last] = value
    return copy


SHARE = Share(90, 100).json()


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"prompts": 30}, "Only 30 held-out prompts"),
        ({"violations__policy": Share(2, 20).json()}, "to within"),
        (
            {"violations__change__policy": {"value": -0.1, "low": -0.2, "high": 0.01}},
            "may be chance",
        ),
        (
            {"violations__change__policy": {"value": 0.1, "low": 0.05, "high": 0.2}},
            "More answers break a principle than before.",
        ),
        (
            {"principles__harm__change__policy": {"value": 0.1, "low": 0.05, "high": 0.2}},
            "More answers violate “harm”",
        ),
        ({"by": "judge"}, "No oracle"),
        (
            {"audit": {"gate": {"state": "pass", "again": ["drawn again by Lea, because: x"]}}},
            "not the first one of these labels: drawn again by Lea, because: x",
        ),
        ({"audit__overlay": {"overridden": 2, "unknown": 1300}}, "on 1,300 pairs were not used"),
        ({"judge__is_trained_model": True}, "The judge is the model that was trained"),
        ({"judge__accuracy": {"advert": Share(5, 10).json()}}, "often wrong about advert"),
        ({"helpfulness__kept": {"value": 0.8, "low": 0.7, "high": 0.9}}, "Helpfulness fell"),
        ({"helpfulness__kept": {"value": 0.9, "low": 0.7, "high": 1.1}}, "may have fallen"),
        ({"helpfulness__kept": {"value": None, "why": "x"}}, "Whether help was lost"),
        ({"well_formed__policy": Share(9, 10).json()}, "well formed"),
        ({"kl": {"policy": {"token": {"value": 2.0}}}}, "far from the start"),
        ({"lengths": {"words": {"seed": {"value": 10}, "policy": {"value": 20}}}}, "length"),
        ({"labels__by_principle": {"harm": {"position_bias": -0.4, "n": 20}}}, "favours a place"),
        ({"labels": {"ece": 0.2, "calibrated": {"ece": 0.1}}}, "Labels are not calibrated"),
        ({"labels": {"accuracy": Share(6, 10).json()}}, "labels may be no better than a coin"),
        ({"labels": {"length_preference": 0.5, "pairs_made": 40}}, "Labels go with length"),
        ({"labels__label_mass": 0.1}, "probability is on the labels"),
        ({"labels__unlabelled": Share(5, 50).json()}, "have no label"),
        ({"reward__ece": 0.2}, "reward model is not calibrated"),
        ({"reward__accuracy": Share(6, 10).json()}, "no better than a coin"),
        ({"reward__accuracy": Share(0, 12).json()}, "no better than a coin"),
        ({"calls__unanswered": {"too_long": 3}}, "3 calls had no answer (3 too_long)"),
        ({"cut": {"critique": {"revise": SHARE}}}, "90.0% of the revisions were cut at max_tokens"),
        ({"cut": {"preferences-2": {"sampling": SHARE}}}, "dropped (preferences-2)"),
        ({"cut": {"evaluation": {"policy": SHARE}}}, "of the policy model's answers were cut"),
        ({"missing": ["policy"]}, "not finished: policy"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_cause_gives_its_warning(run: Path, changes: dict[str, Any], warning: str) -> None:
    calm = changed(
        figures_of(run),
        prompts=1000,
        principles={},
        boilerplate={},
        judge={},
        lengths={},
        refusals={},
        violations={"seed": SHARE, "policy": Share(40, 1000).json(), "change": {}},
        helpfulness={"kept": {"value": 1.0, "low": 0.99, "high": 1.01, "n": 9}},
        well_formed={"policy": Share(1000, 1000).json()},
        labels={},
        reward={},
    )
    assert said(calm) == "One seed, one run."
    assert warning in said(changed(calm, **changes))


@pytest.mark.parametrize("n", [13, 200])
def test_labels_that_are_as_good_as_chance_allows_are_not_doubted(n: int) -> None:
    from rlaif.calibration import Calibration
    from rlaif.report.distrust import _by_chance, _labels

    rng, errors, expected = random.Random(0), [], []
    for _ in range(200):
        found = Calibration()
        for p in (rng.random() for _ in range(n)):
            found.add(p, rng.random() < p)
        errors.append(found.ece)
        expected.append(_by_chance(found.curve))
    assert sum(expected) == pytest.approx(sum(errors), rel=0.06)
    few = {"by_principle": {"harm": {"position_bias": -0.4, "n": 3}}, "pairs_made": 2}
    assert not list(_labels(few | {"length_preference": -1.0}))


def test_a_policy_that_was_chosen_on_held_out_prompts_is_told(run: Path) -> None:
    stopped = {"wire": "kl", "why": "it is too far", "back_to": 40}
    found = doubts(changed(figures_of(run), stopped=stopped), {"commit": "c"})
    (doubt,) = (doubt for doubt in found if "tripwire" in doubt.what)
    assert "after batch 40, chosen on held-out prompts" in doubt.so


@pytest.mark.parametrize(
    ("state", "so"),
    [("fail", "what people contradict"), ("open", "not proven"), ("overridden", "not proven")],
)
def test_an_audit_that_proves_nothing_contradicts_nothing(state: str, so: str) -> None:
    from rlaif.report.distrust import _audit

    (doubt,) = _audit({"state": state, "sentence": "12 items are judged"})
    assert so in doubt.so


def test_code_that_is_in_no_commit_is_told(run: Path) -> None:
    assert "in no commit" in said(figures_of(run), {"dirty": True})
    assert "not known" in said(figures_of(run), {"commit": None})


def test_a_catchphrase_is_told(tmp_path: Path, run: Path) -> None:
    now = {"text": CARED[:20], "seed": Share(0, 50).json(), "now": Share(20, 50).json()}
    assert "repeats itself" in said(changed(figures_of(run), boilerplate={"policy": [now]}))


# --- parts ----------------------------------------------------------------------------------------


def test_word_diff_keeps_every_word() -> None:
    before = "Well, let us talk.  Buy the new lamp today.\nTell me if anything is unclear."
    after = "Well, let us talk. Tell me, if anything is still unclear."
    runs = word_diff(before, after)
    assert "".join(text for kind, text in runs if kind != "out").split() == after.split()
    gone = [text for kind, text in runs if kind == "out"]
    assert gone[0].startswith("Buy the new lamp")
    assert word_diff("same", "same") == [("same", "same")]
    assert word_diff("", "new words") == [("in", "new words")]
    assert word_diff("", "") == []


def test_a_word_that_stayed_by_chance_counts_as_changed() -> None:
    runs = word_diff("a good way to burn it is this", "no I will not help to do that")
    assert [kind for kind, _ in runs] == ["out", "in"]


def test_examples_are_of_every_kind(run: Path) -> None:
    kinds = [example.kind for example in compared(run / "evaluation" / "samples.jsonl", "policy")]
    assert kinds[:4] == ["fixed"] * 4
    assert {"fixed", "no fault in either"} <= set(kinds)


def test_what_the_judge_could_not_read_is_no_example(tmp_path: Path) -> None:
    prompt = Prompt("p", (Message("user", "Why?"),))
    guilty = Sampled("seed", prompt, "An answer.", violates={"harm": 0.9})
    unread = Sampled("policy", prompt, "Another.", violates={"evasive": 0.1}, unread=1)
    for after, kinds in ((unread, []), (replace(unread, unread=0), ["fixed"])):
        with writing(tmp_path / "samples.jsonl") as write:
            write(guilty)
            write(after)
        found = compared(tmp_path / "samples.jsonl", "policy")
        assert [example.kind for example in found] == kinds


def test_headline_never_claims_a_fall_that_may_be_chance() -> None:
    shares = {"seed": Share(50, 100).json(), "policy": Share(48, 100).json()}
    change = {"policy": {"value": -0.02, "low": -0.1, "high": 0.06}}
    assert "went from 50% to 48%" in headline({"violations": shares | {"change": change}})
    change["policy"]["high"] = -0.01
    assert "fell from" in headline({"violations": shares | {"change": change}})


def test_headline_of_an_evaluation_without_an_answer_says_so() -> None:
    nothing = {"value": None, "low": None, "high": None, "n": 0}
    figures = {"violations": {"seed": nothing, "policy": nothing}, "missing": []}
    assert headline(figures) == "This run has no answers to compare"


def test_the_change_is_told_without_an_oracle_too(run: Path, tmp_path: Path) -> None:
    copy = copied(run, tmp_path / "run")
    unknown = {"value": None, "low": None, "high": None, "n": 0, "why": "needs an oracle"}
    helpful = figures_of(run)["helpfulness"] | {"kept": unknown}
    metrics(copy, "evaluation", helpfulness=helpful, unknown_prompts=7)
    text = " ".join(Page(report(copy).read_text("utf-8")).texts)
    assert "Violations changed by" in text
    assert "is kept" not in text
    assert "but for 7 prompts that are not of its world" in text


def test_pointwise_labels_are_shown_without_orders(tmp_path: Path) -> None:
    section = {"method": "pointwise", "principles": 3}
    folder = made(tmp_path, train=6, heldout=6, preferences=section)
    text = " ".join(Page(report(folder).read_text("utf-8")).texts)
    labels = text[text.index("pairs of answers, each") : text.index("agrees with held-out labels")]
    assert "without a label" in labels
    assert not re.search("order|place", labels)


def test_plots_take_what_there_is() -> None:
    nothing = {"value": None, "low": None, "high": None, "n": 0}
    assert "not measured" in strip({"seed": nothing}, 1.0)
    assert ceiling([Share(3, 100).json()]) == 0.1
    assert ceiling([nothing]) == 1.0
    bare = calibration([{"confidence": 1.0, "accuracy": {"value": 1.0, "n": 3}}], "x", "y")
    assert "whisker" not in bare
    assert "polyline" in loss([(1.0, 0.5), (2.0, 0.5)], "flat")
    assert "&lt;b&gt;" in strip({"<b>": SHARE}, 1.0)


def metrics(run: Path, stage: str, **changes: Any) -> None:
    """Set metrics of a finished stage."""
    path = run / stage / "stage.json"
    record = json.loads(path.read_text("utf-8"))
    record["metrics"] |= changes
    path.write_text(json.dumps(record), "utf-8")


def test_what_was_cut_and_what_the_server_said_are_told(run: Path, tmp_path: Path) -> None:
    copy = copied(run, tmp_path / "run")
    lost = {"draft: length": 2, "revise: length": 1, "critique: empty": 1}
    metrics(copy, "critique", unanswered=lost)
    calls = figures_of(run)["calls"]["by_stage"]["preferences"]
    said = {"refused": "http://judge: HTTP 400: <no logprobs>"}
    metrics(
        copy,
        "preferences",
        unanswered={"length": 3},
        calls=calls | {"unanswered": {"refused": 4}, "said": said},
    )
    told, whole = figures_of(copy), figures_of(run)
    assert told["unanswered"]["critique"] == lost
    assert told["unanswered"]["preferences"] == {"length": 3}
    assert told["cut"]["critique"]["draft"] == Share(2, 16).json()
    revised = whole["cut"]["critique"]["revise"]["n"]
    assert told["cut"]["critique"]["revise"] == Share(1, revised + 1).json()
    drawn = whole["cut"]["preferences"]["sampling"]["n"]
    assert told["cut"]["preferences"]["sampling"] == Share(3, drawn + 3).json()
    assert set(told["cut"]["evaluation"]) == {"seed", "finetuned", "policy"}
    remedies = " ".join(doubt["so"] for doubt in told["distrust"])
    for limit in ("critique.draft.max_tokens", "preferences.sampling.max_tokens"):
        assert limit in remedies
    assert "One said: http://judge: HTTP 400: <no logprobs>" in remedies
    assert "&lt;no logprobs&gt;" in report(copy).read_text("utf-8")


def test_the_rounds_of_online_are_in_every_total(run: Path, tmp_path: Path) -> None:
    copy = copied(run, tmp_path / "run")
    record = json.loads((copy / "run.json").read_text("utf-8"))
    record["config"]["policy"] = {"kind": "online", "rounds": 3}
    (copy / "run.json").write_text(json.dumps(record), "utf-8")
    assert figures_of(copy)["missing"] == ["policy-1", "preferences-2", "policy-2", "preferences-3"]
    for stage in ("policy-1", "preferences-2"):
        shutil.copytree(copy / stage[:-2], copy / stage)
    told, before = figures_of(copy), figures_of(run)
    assert told["missing"] == ["policy-2", "preferences-3"]
    assert list(told["seconds"])[5:9] == ["policy-1", "preferences-2", "policy", "evaluation"]
    more = before["calls"]["by_stage"]["preferences"]["sent"]
    assert told["calls"]["sent"] == before["calls"]["sent"] + more
    assert "preferences-2" in told["cut"]
    assert "<th>preferences-2</th>" in report(copy).read_text("utf-8")
