"""From verdicts back into the labels: overlays, exports, imports, the gate in the pipeline."""

from __future__ import annotations

import csv
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import audits
import finished_run
import pytest
from audits import judge, ledger, units

from rlaif.audit import exporting, gate_state, where
from rlaif.audit.current import latest
from rlaif.audit.importing import READ, import_file
from rlaif.audit.ledger import Ledger
from rlaif.audit.overlay import Overlaid, labels, overrides
from rlaif.audit.overview import overview
from rlaif.audit.records import Item, Unit
from rlaif.audit.told import headline, sentence
from rlaif.cli import main
from rlaif.cli.audit import FORMS, _lines
from rlaif.config import RunConfig
from rlaif.constitution import Constitution, Principle, load, loads
from rlaif.errors import DataError, RunError
from rlaif.jsonl import rows, writing
from rlaif.pipeline import Pipeline
from rlaif.records import Pair, Prompt, Verdict
from rlaif.report import report
from rlaif.shipped import folder
from rlaif.trace import trace

LAW = Constitution(
    id="law", version="1",
    principles=(Principle(id="harm", critique=(), revise=(), prefer=("Which?",)),),
)  # fmt: skip


# --- overlays -------------------------------------------------------------------------------------


def test_who_overrides_a_label(tmp_path: Path) -> None:
    drawn = units(5, reviews=2)
    with ledger(tmp_path, drawn, people=2) as (at, audit, _):
        said = [("b", "b"), ("a", "b"), ("tie", "both_bad"), ("cant", "cant"), ("a", "b")]
        for one, other in said:
            judge(at, audit, 1, one)
            judge(at, audit, 2, other)
        at.adjudicate(audit, 5, 1, "b", "seen", nonce="r")
        with at.folded(audit) as fold:
            found = {row.pair: (row.target, row.why) for row in overrides(fold)}
    assert found == {
        "pair000000": (0.0, "agreed"), "pair000002": (0.5, "agreed"), "pair000004": (0.0, "ruling"),
    }  # fmt: skip


def test_one_person_alone_overrides(tmp_path: Path) -> None:
    with ledger(tmp_path, units(3)) as (at, audit, _):
        for verdict in ("b", "tie", "cant"):
            judge(at, audit, 1, verdict)
        with at.folded(audit) as fold:
            found = {row.pair: (row.target, row.why) for row in overrides(fold)}
    assert found == {"pair000000": (0.0, "alone"), "pair000001": (0.5, "alone")}


def pairs(folder: Path, targets: list[float | None]) -> Path:
    folder.mkdir()
    with writing(folder / "pairs.jsonl") as write:
        for n, target in enumerate(targets):
            verdicts = (Verdict("harm", target),) if target is not None else ()
            write(Pair(f"p{n}", Prompt("q", ()), "A", "B", target, verdicts=verdicts))
    return folder


def test_an_overlay_leaves_the_labels_and_changes_what_is_trained_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    judged = pairs(tmp_path / "preferences", [0.9, 0.2, None, 0.6])
    before = (judged / "pairs.jsonl").read_bytes()
    overlay = tmp_path / "overlay.jsonl"
    with writing(overlay) as write:
        write(Overlaid("p0", 0.0, 0.9, "b", "ruling", 1))
        write(Overlaid("p2", 1.0, None, "a", "agreed", 2))
        write(Overlaid("gone", 1.0, 0.4, "a", "agreed", 2))
        write(Overlaid(stratum="harm", error=0.1, n=30))
    into = tmp_path / "audit"
    into.mkdir()
    told = labels(into, pairs=judged, overlay=overlay, law=LAW)
    assert told == {"pairs": 4, "overridden": 2, "turned": 1, "softened": 2, "unknown": 1}
    assert "1 of 3 pairs are not in this run" in caplog.text
    targets = [pair.target for pair in rows(into / "pairs.jsonl", Pair)]
    assert targets == pytest.approx([0.0, 0.2 * 0.9 + 0.8 * 0.1, 1.0, 0.6 * 0.9 + 0.4 * 0.1])
    assert (judged / "pairs.jsonl").read_bytes() == before


@pytest.mark.parametrize("row", [Overlaid("gone", 1.0), Overlaid(stratum="gone", error=0.1)])
def test_an_overlay_that_fits_nothing_is_refused(tmp_path: Path, row: Overlaid) -> None:
    overlay = tmp_path / "overlay.jsonl"
    with writing(overlay) as write:
        write(row)
    (tmp_path / "audit").mkdir()
    judged = pairs(tmp_path / "preferences", [0.9])
    with pytest.raises(DataError, match="fits a pair") as found:
        labels(tmp_path / "audit", pairs=judged, overlay=overlay, law=LAW)
    assert found.value.remedy


@pytest.mark.parametrize(
    "row", [Overlaid("p0", 1.2), Overlaid("p0"), {"pair": "p0", "target": "high"}]
)
def test_a_bad_overlay_is_refused(tmp_path: Path, row: Any) -> None:
    overlay = tmp_path / "overlay.jsonl"
    with writing(overlay) as write:
        write(row)
    (tmp_path / "audit").mkdir()
    judged = pairs(tmp_path / "preferences", [0.9])
    with pytest.raises(DataError):
        labels(tmp_path / "audit", pairs=judged, overlay=overlay, law=LAW)


# --- a whole run ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run.made(tmp_path_factory.mktemp("runs"), train=40, heldout=4)


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / made.name))


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLAIF_STORE", str(tmp_path / "store.sqlite3"))
    monkeypatch.delenv("RLAIF_AUDIT", raising=False)


def opened(run: Path, **sections: Any) -> Any:
    """The pipeline of a copied run, under other sections."""
    told = json.loads((run / "run.json").read_text("utf-8"))["config"]
    return Pipeline.open(RunConfig.model_validate(told | sections), root=run.parent)


def agree(run: Path, rate: float = 1.0) -> None:
    """One reviewer who agrees with the labels, mostly, until the gate is decided."""
    rng = random.Random(0)
    with Ledger.open(where(run)) as at:
        audit = latest(at, run)
        assert audit
        person = at.reviewers()[0].id if at.reviewers() else at.add_reviewer("Ann", "lead")[0].id
        while (view := at.claim(audit.id, person)) and at.gate(audit.id).state == "open":
            label = at.item(audit.id, view.number).label
            item = at.item(audit.id, view.number)
            turned = {"a": "b", "b": "a", "tie": "a"}
            side = label if rng.random() < rate else turned[label]
            words = {"a": item.payload["a"], "b": item.payload["b"]}
            said = side if side == "tie" else "left" if view.left == words[side] else "right"
            at.decide(audit.id, view.number, person, "prefer", said, nonce=view.nonce)


def test_the_gate_holds_training_back_until_it_passes(run: Path) -> None:
    with opened(run, audit={"gate": True, "calibration": 3}) as pipeline:
        with pytest.raises(RunError, match=r"rlaif audit serve .*run") as told:
            pipeline.audit(run / "preferences")
        assert "waits for the audit" in told.value.what
        agree(run)
        assert gate_state(run).state == "pass"
        assert pipeline.audit(run / "preferences") == run / "preferences"


def test_a_failed_gate_says_what_to_do(run: Path) -> None:
    asked = {"gate": True, "calibration": 0, "threshold": 0.9}  # a tie that is contradicted is 0.5
    with opened(run, audit=asked) as pipeline:
        pipeline.sampled(run / "preferences")
        agree(run, 0.0)
        assert gate_state(run).state == "fail"
        assert not gate_state(run).passed
        with pytest.raises(RunError, match="--override") as told:
            pipeline.audit(run / "preferences")
        assert "--principles" in told.value.remedy
        assert main(["audit", "status", str(run), "--override", "Ann", "--reason", "a test"]) == 0
        assert gate_state(run).state == "overridden"
        assert pipeline.audit(run / "preferences") == run / "preferences"


def test_an_audit_of_other_labels_says_nothing(run: Path) -> None:
    with opened(run, audit={"gate": True, "calibration": 3}) as pipeline:
        pipeline.sampled(run / "preferences")
        agree(run)
        assert gate_state(run).passed
        stage = run / "preferences" / "stage.json"
        stage.write_text(stage.read_text().replace('"digest": "', '"digest": "0'))
        assert gate_state(run).state == "open"
        assert gate_state(run).audit is None


def test_off_by_default(run: Path) -> None:
    with opened(run) as pipeline:
        assert pipeline.audit(run / "preferences") == run / "preferences"
    assert not (run / "audit.db").exists()


def test_an_overlay_goes_through_the_pipeline(run: Path, tmp_path: Path) -> None:
    assert main(["audit", "sample", str(run), "--set", "calibration=3"]) == 0
    agree(run, 0.5)
    overlay = tmp_path / "overlay.jsonl"
    command = ["audit", "export", str(run), "--form", "overlay", "--soften", "--out", str(overlay)]
    assert main(command) == 0
    told = json.loads((run / "run.json").read_text("utf-8"))["config"]["preferences"]
    with opened(run, preferences=told | {"overlay": str(overlay)}) as pipeline:
        audited = pipeline.audit(run / "preferences")
        assert audited == run / "audit"
        assert pipeline.run.is_made_from("audit", None, {
            "pairs": run / "preferences", "overlay": overlay,
            "constitution": pipeline.constitution.digest,
        })  # fmt: skip
        assert pipeline.audit(run / "preferences") == audited
    applied = list(rows(audited / "overrides.jsonl", Overlaid))
    assert applied
    changed = {pair.id: pair.target for pair in rows(audited / "pairs.jsonl", Pair)}
    assert all(changed[row.pair] == row.target for row in applied)
    found = trace(run, applied[0].pair)
    assert "overridden" in found.used[f"audit {applied[0].pair}"]
    page = report(run).read_text("utf-8")
    assert "Audit by people" in page
    assert "in the place of" in page
    figures = json.loads((run / "report" / "report.json").read_text())["audit"]
    assert figures["overlay"]["overridden"] == len(applied)
    assert figures["gate"]["n"] > 0
    with pytest.raises(DataError, match="there already"):
        exporting.export(next(iter_ledger(run)), 1, "overlay", overlay)


def iter_ledger(run: Path) -> Iterator[Ledger]:
    with Ledger.open(where(run)) as at:
        yield at


# --- exports and imports --------------------------------------------------------------------------

HOSTILE = '=HYPERLINK("http://evil")\n\'quoted\', "double", é \u202e'


def hostile(n: int) -> Unit:
    item = audits.pair(n)
    payload = dict(item.payload) | {"a": HOSTILE, "b": f"+{n}"}
    return Unit(Item(item.id, "preference", "harm", payload, item.ai), "gate", n, 0.01, 2)


def test_spreadsheets_run_nothing(tmp_path: Path) -> None:
    with ledger(tmp_path, [hostile(n) for n in range(3)], people=2) as (at, audit, _):
        view = at.claim(audit, 1)
        assert view
        at.decide(audit, 1, 1, "prefer", "tie", nonce="-1+1")
        for k, first in enumerate(exporting.FORMULA):
            at.note(audit, 1, 1, f"{first}cmd|calc", nonce=f"{first}{k}")
        out = tmp_path / "out.csv"
        n, _ = exporting.export(at, audit, "csv", out)
        with out.open(newline="", encoding="utf-8") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert n == 8
        assert not [cell for cell in cells if cell.startswith(exporting.FORMULA)]
        assert any(cell == "'" + HOSTILE for cell in cells)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet", "argilla", "labelstudio"])
def test_there_and_back(tmp_path: Path, form: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    drawn, out = [hostile(n) for n in range(6)], tmp_path / "out"
    (tmp_path / "one").mkdir()
    with ledger(tmp_path / "one", drawn, people=2) as (at, audit, _):
        for n in range(6):
            view = at.claim(audit, 1)
            assert view
            at.decide(audit, n + 1, 1, "prefer", ["left", "right", "tie"][n % 3], nonce=f"n{n}")
        said = {row.number: row.verdict for row in at.decisions(audit)}
        exporting.export(at, audit, form, out)
        text = out.read_bytes()
        if form in ("argilla", "labelstudio"):  # to be reviewed blind there, too
            assert b"SECRET" not in text
            assert b"0.9" not in text
    (tmp_path / "two").mkdir()
    with ledger(tmp_path / "two", drawn, people=2) as (at, audit, _):
        assert import_file(at, audit, out, form, "elsewhere") == (6, 0)
        assert import_file(at, audit, out, form, "elsewhere") == (0, 6)
        rows = at.decisions(audit)
        assert {row.number: row.verdict for row in rows} == said
        assert {(row.blind, row.source) for row in rows} == {("unknown", "elsewhere")}
        assert at.gate(audit).n == 0  # nobody knows whether they were blind
        assert at.verify().problems == ()


@pytest.mark.parametrize("form", READ)
def test_what_was_taken_back_or_late_does_not_come_back(tmp_path: Path, form: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    out, said = tmp_path / "out", '{"item": "pair000000", "reviewer": "person 1", "verdict": 1}'
    (tmp_path / "in.jsonl").write_text(said)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with ledger(tmp_path / "one", units(3), people=2) as (at, audit, clock):
        judge(at, audit, 1, "a")
        at.undo(audit, 1, nonce="u")
        judge(at, audit, 1, "b")
        import_file(at, audit, tmp_path / "in.jsonl")  # an "a" from elsewhere counts no more
        assert at.claim(audit, 1)
        clock.now += 3600
        judge(at, audit, 2, "tie")
        assert at.decide(audit, 2, 1, "prefer", "left", nonce="late").extra
        exporting.export(at, audit, form, out)
    with ledger(tmp_path / "two", units(3), people=2) as (at, audit, _):
        assert import_file(at, audit, out, form, "elsewhere") == (2, 0)
        found = [(row.number, row.reviewer, row.verdict) for row in at.decisions(audit)]
    assert found == [(1, 1, "b"), (2, 2, "tie")]


def test_an_old_export_with_something_taken_back_is_refused(tmp_path: Path) -> None:
    with ledger(tmp_path, units(2)) as (at, audit, _):
        judge(at, audit, 1)
        at.undo(audit, 1, nonce="u")
        out = tmp_path / "out.jsonl"
        exporting.export(at, audit, "jsonl", out)
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        for line in lines:
            del line["supersedes"]
        out.write_text("\n".join(map(json.dumps, lines)))
        with pytest.raises(DataError, match=r"row 2.*does not say which"):
            import_file(at, audit, out)


@pytest.mark.parametrize("form", READ)
def test_critiques_there_and_back(tmp_path: Path, form: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    out, labels = tmp_path / "out", ("revised", "no_fault")
    drawn = [Unit(audits.critique(n, labels[n]), "gate", n, 0.01) for n in range(2)]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with ledger(tmp_path / "one", drawn) as (at, audit, _):
        assert at.claim(audit, 1, number=1)
        at.decide(audit, 1, 1, "violated", "yes", nonce="1")
        at.decide(audit, 1, 1, "better", "tie", nonce="2")
        at.reveal(audit, 1, 1)
        at.decide(audit, 1, 1, "defects", "", nonce="3")
        at.decide(audit, 1, 1, "revision", "accept", nonce="4")
        exporting.export(at, audit, form, out)
    blind = form in ("argilla", "labelstudio")
    if blind:  # nothing tells the one that was revised from the other
        first, second = json.loads(out.read_text())
        data = "fields" if form == "argilla" else "data"
        assert "after" not in out.read_text()
        assert first[data].keys() == second[data].keys()
        assert "better" not in out.read_text()
    with ledger(tmp_path / "two", drawn) as (at, audit, _):
        assert import_file(at, audit, out, form, "elsewhere") == (1 if blind else 2, 0)


def test_a_corrected_import_is_told_apart(tmp_path: Path) -> None:
    with ledger(tmp_path, units(2)) as (at, audit, _):
        out = tmp_path / "in.jsonl"
        row = {"item": "pair000000", "reviewer": "Zoe"}
        out.write_text(json.dumps(row | {"verdict": 0}) + "\n" + json.dumps(row | {"verdict": 4}))
        assert import_file(at, audit, out) == (1, 0)
        assert [row.verdict for row in at.decisions(audit)] == ["both_bad"]  # the last one
        out.write_text(json.dumps(row | {"verdict": 0}))
        with pytest.raises(DataError, match=r"Zoe said 'both_bad'.*not 'cant'") as found:
            import_file(at, audit, out)
        assert "another source" in str(found.value.remedy)
        assert import_file(at, audit, out, source="corrected") == (1, 0)
        with at.folded(audit) as fold:
            assert fold.units[1].imported[2].answers == {"prefer": "cant"}


def test_imports_count_for_overlays(tmp_path: Path) -> None:
    with ledger(tmp_path, units(2, reviews=2), people=2) as (at, audit, _):
        judge(at, audit, 1, "b")
        out = tmp_path / "in.jsonl"
        out.write_text('{"item": "pair000000", "reviewer": "Zoe", "verdict": "right"}\n')
        import_file(at, audit, out, "jsonl", "spreadsheet")
        with at.folded(audit) as fold:
            assert [(row.pair, row.why) for row in overrides(fold)] == [("pair000000", "agreed")]


def test_the_command_offers_the_forms_that_there_are() -> None:
    assert FORMS == exporting.FORMS
    assert FORMS[:5] == READ


def test_an_import_touches_nothing_that_was_judged_here(tmp_path: Path) -> None:
    with ledger(tmp_path, units(20, reviews=2), people=2) as (at, audit, _):
        for _ in range(10):
            judge(at, audit, 1)
            judge(at, audit, 2)
        judge(at, audit, 1)
        before, out = at.gate(audit), tmp_path / "out.csv"
        exporting.export(at, audit, "csv", out)
        assert import_file(at, audit, out) == (21, 0)
        with at.folded(audit) as fold:
            assert fold.gate().n == before.n == 10
            assert "pair000010" not in {row.pair for row in overrides(fold)}  # still one person
        judge(at, audit, 2)
        assert at.gate(audit).n == 11
        assert at.verify().problems == ()


def test_who_judged_elsewhere_may_still_judge_here(tmp_path: Path) -> None:
    with ledger(tmp_path, units(2)) as (at, audit, _):
        out = tmp_path / "in.jsonl"
        out.write_text('{"item": "pair000000", "reviewer": "person 1", "verdict": "b"}\n')
        import_file(at, audit, out, "jsonl", "spreadsheet")
        at.guideline(audit, "Be fairer.", 1)  # the gate has not begun
        assert not at.unread(audit, 1)  # they have done nothing here
        view = at.claim(audit, 1)
        assert view
        assert (view.number, view.stage, view.answers) == (1, "prefer", {})
        judge(at, audit, 1, "a")
        assert at.undo(audit, 1, nonce="u")
        judge(at, audit, 1, "a")
        assert (at.gate(audit).n, at.gate(audit).mean) == (1, 1.0)
        with at.folded(audit) as fold:
            assert [row.verdict for row in overrides(fold)] == ["a"]  # what was said here


@pytest.mark.parametrize(
    "line",
    [
        '{"item": "nobody", "reviewer": "Zoe", "verdict": "a"}',
        '{"item": "pair000000", "reviewer": "Zoe", "verdict": "perhaps"}',
        '{"item": "pair000000", "reviewer": "Zoe", "verdict": "a", "stage": "violated"}',
        '{"item": "pair000000", "verdict": "a"}',
        "{",
    ],
)
def test_a_bad_import_adds_nothing(tmp_path: Path, line: str) -> None:
    with ledger(tmp_path, units(2)) as (at, audit, _):
        out = tmp_path / "in.jsonl"
        good = '{"item": "pair000001", "reviewer": "Zoe", "verdict": "a"}\n'
        out.write_text(good + line + "\n")
        with pytest.raises(DataError):
            import_file(at, audit, out, "jsonl", "spreadsheet")
        assert at.decisions(audit) == []


ANSWER = b'"annotations": [{"result": [{"value": {"choices": ["a"]}}]}]'


@pytest.mark.parametrize(
    ("form", "content", "said"),
    [
        ("csv", None, "No such file"),
        ("jsonl", None, "No such file"),
        ("parquet", None, "No such file"),
        ("argilla", None, "No such file"),
        ("csv", "item,reviewer\npair000000,Zo\u00e9\n".encode("latin-1"), ":2: this is not UTF-8"),
        ("csv", b"item\n" + b"x" * 200_000, ":1: field larger"),
        (
            "csv",
            b"item,reviewer,verdict\npair000000,Zoe,perhaps\n",
            "item 1: 'perhaps'.*prefer: a",
        ),
        ("jsonl", b"\n[1]\n", ":2: Expected `object`"),
        ("jsonl", b'{"item": "\xe9"}', ":1: .*utf-8"),
        ("argilla", b'{"id": "pair000000"}', "Expected `array`"),
        ("argilla", b'[{"responses": []}]', "required field `id`"),
        ("argilla", b'[{"id": "pair000000", "responses": ["a"]}]', "Expected `object`"),
        ("labelstudio", b'[{"id": 1, ' + ANSWER + b"}]", "required field `data`"),
        ("labelstudio", b'[{"data": {"item": "pair000000"}, "annotations": 3}]', "Expected `array"),
        ("labelstudio", b"nothing", "malformed"),
        ("parquet", b"nothing", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(
    tmp_path: Path, form: str, content: bytes | None, said: str
) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    file = tmp_path / "verdicts"
    if content is not None:
        file.write_bytes(content)
    with ledger(tmp_path, units(2)) as (at, audit, _):
        with pytest.raises(DataError, match=f"(?s)^{file}.*{said}") as found:
            import_file(at, audit, file, form, "elsewhere")
        assert found.value.remedy
        assert at.decisions(audit) == []


def test_trl_rows(tmp_path: Path) -> None:
    with ledger(tmp_path, units(3)) as (at, audit, _):
        for verdict in ("a", "b", "tie"):
            judge(at, audit, 1, verdict)
        out = tmp_path / "trl.jsonl"
        assert exporting.export(at, audit, "trl", out)[0] == 2
        found = [json.loads(line) for line in out.read_text().splitlines()]
        assert [row["chosen"][0]["content"][0] for row in found] == ["A", "B"]
        assert found[0]["prompt"] == [{"role": "user", "content": "question 0"}]


# --- the overview ---------------------------------------------------------------------------------


def mixed(n: int, flipped: str) -> list[Unit]:
    """Pairs under three principles; the labels of one are turned round."""
    made = []
    for k in range(n):
        name = ("harm", "lies", "rude")[k % 3]
        label = "b" if name == flipped else "a"
        made.append(Unit(audits.pair(k, label, name), "gate", k, 0.1))
    return made


def test_a_principle_that_nobody_can_judge_is_not_contradicted(tmp_path: Path) -> None:
    drawn = [Unit(audits.pair(k, "a", f"p{k % 2}"), "gate", k, 0.1) for k in range(80)]
    changed: dict[str, Any] = {"strata": {"p0": 400, "p1": 400}, "frame_size": 800, "cap": 80}
    with ledger(tmp_path, drawn, **changed) as (at, audit, _):
        for k in range(80):
            judge(at, audit, 1, "a" if k % 4 else "cant")
        p0 = {row.principle: row for row in overview(at, audit).principles}["p0"]
    assert not p0.named
    assert p0.shrunk == 1.0
    assert p0.agreement.value == 0.5  # of the labels, as the gate counts


def test_a_broken_principle_is_named_with_an_edit(tmp_path: Path) -> None:
    law = load(folder("constitution") / "sandbox.yaml")
    from rlaif.constitution import to_yaml

    drawn, names = [], [p.id for p in law.principles][:3]
    for k in range(90):
        label = "b" if k % 3 == 1 else "a"
        drawn.append(Unit(audits.pair(k, label, names[k % 3]), "gate", k, 0.1))
    changed: dict[str, Any] = {
        "strata": dict.fromkeys(names, 300), "frame_size": 900, "constitution": to_yaml(law),
        "cap": 90, "design": {"per_principle": 30},
    }  # fmt: skip
    with ledger(tmp_path, drawn, **changed) as (at, audit, _):
        while judge(at, audit, 1, "a"):
            pass
        seen = overview(at, audit)
        by_name = {row.principle: row for row in seen.principles}
        assert [name for name, row in by_name.items() if row.named] == [names[1]]
        broken = by_name[names[1]]
        assert broken.quarantined
        assert broken.direction == "reversed"
        assert broken.exemplars
        assert "+      - " in broken.edit or "+    prefer" in broken.edit
        assert "better: " in broken.edit  # with an item that people decided, as an example
        assert seen.principles[0] == broken
        edited = apply(to_yaml(law), broken.edit)
        assert loads(edited, Path("mended.yaml")).digest != law.digest
        figures = seen.agreement
        assert figures["weighted"].value == pytest.approx(2 / 3, abs=0.08)
        assert figures["humans"].value is None
        assert figures["humans"].why
        assert figures["left_rate"].value == pytest.approx(0.5, abs=0.2)
        assert seen.confusion["b"] == {"a": 30}
        assert len(seen.path) == seen.gate.n
        json.dumps(seen.json())


@pytest.mark.parametrize("rule", ["tell", "block"])
def test_a_pass_says_which_principle_it_does_not_cover(tmp_path: Path, rule: str) -> None:
    strata = dict.fromkeys(("harm", "lies", "rude"), 300)
    covered = dict.fromkeys(strata, 40)
    changed: dict[str, Any] = {
        "strata": strata, "frame_size": 900, "tau": 0.5,
        "design": {"per_principle": 40, "principles": rule, "covered": covered},
    }  # fmt: skip
    with ledger(tmp_path, mixed(120, "lies"), **changed) as (at, audit, _):
        while at.gate(audit).state == "open":
            judge(at, audit, 1, "a")
        early = at.gate(audit)
        assert early.state == "pass"
        assert early.passed == (rule == "tell")  # nobody can tell yet whom it does not cover
        if rule == "block":
            assert early.lacking
            assert "too little is judged of" in sentence(early)
        while judge(at, audit, 1, "a"):
            pass
        found = at.gate(audit)
        assert (found.state, found.doubted, found.lacking) == ("pass", ("lies",), ())
        assert headline(found) == "PASS, BUT NOT FOR lies"
        assert "but people contradict the labels of lies" in sentence(found)
        assert found.passed == (rule == "tell")
        seen = overview(at, audit)
        assert next(_lines(seen, False)).startswith("PASS, BUT NOT FOR lies: ")
        assert seen.json()["gate"]["doubted"] == ("lies",)
        at.override(audit, 1, "they are few")
        assert at.gate(audit).passed
        assert "person 1 let training begin" in sentence(at.gate(audit))
        assert at.verify().problems == ()


def test_mostly_ties_are_warned_of(tmp_path: Path) -> None:
    design = {"labels": {"tie": 80, "a": 10, "b": 10}}
    with ledger(tmp_path, units(3), design=design) as (at, audit, _):
        assert any("80% of the labels say tie" in line for line in overview(at, audit).warnings)


def apply(text: str, diff: str) -> str:
    """A unified diff, applied."""
    lines, out, at = text.splitlines(), list[str](), 0
    for line in diff.splitlines()[2:]:
        if line.startswith("@@"):
            start = int(line.split()[1].split(",")[0][1:]) - 1
            out += lines[at:start]
            at = start
        elif line.startswith("+"):
            out.append(line[1:])
        else:
            assert lines[at] == line[1:]
            at += 1
            out += [] if line.startswith("-") else [line[1:]]
    return "\n".join(out + lines[at:]) + "\n"


def test_nothing_judged_is_undefined_everywhere(tmp_path: Path) -> None:
    with ledger(tmp_path, units(3)) as (at, audit, _):
        seen = overview(at, audit)
        for name, figure in seen.agreement.items():
            assert figure.value is None, name
            assert figure.why, name
        assert seen.principles == ()
        assert seen.alternative.why
        assert json.dumps(seen.json()).count("NaN") == 0


def test_critiques_have_violation_and_win_rates(tmp_path: Path) -> None:
    drawn = [
        Unit(audits.critique(k, "revised" if k % 2 else "no_fault"), "gate", k, 0.1)
        for k in range(40)
    ]
    design = {"labels": {"revised": 500, "no_fault": 500}, "per_principle": 40}
    with ledger(tmp_path, drawn, design=design) as (at, audit, _):
        while view := at.claim(audit, 1):
            if view.stage == "violated":
                said = "yes" if (view.number - 1) % 2 else "no"
            else:
                said = "left" if view.left.startswith("after") else "right"
            assert view.stage
            at.decide(audit, view.number, 1, view.stage, said, nonce=view.nonce)
        found = overview(at, audit).agreement
        assert found["violation_rate"].value == pytest.approx(0.5, abs=0.05)
        assert found["revision_win_rate"].value == 1.0


def test_people_below_the_threshold_are_warned_of(tmp_path: Path) -> None:
    with ledger(tmp_path, units(30, reviews=2), people=2, cap=30) as (at, audit, _):
        for k in range(24):
            judge(at, audit, 1, "a")
            judge(at, audit, 2, "ab"[k % 2])
        seen = overview(at, audit)
        assert seen.agreement["humans"].value == pytest.approx(0.5)
        assert any("out of reach" in warning for warning in seen.warnings)
        assert len(seen.disputes) == 12


# --- the command ----------------------------------------------------------------------------------


def test_the_gate_is_not_redrawn_until_it_passes(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def sample(*more: str) -> tuple[int, str, str]:
        command = ["audit", "sample", str(run), "--set", "cap=12", "--set", "calibration=0"]
        command += ["--set", "targeted=0", "--set", "per_principle=0", *more]
        code = main(command)
        out, err = capsys.readouterr()
        return code, out, err

    assert json.loads(sample("--json")[1])["new"]
    assert "audit 1 (drawn already): " in sample()[1]
    agree(run, 0.0)
    before = gate_state(run)
    code, _, told = sample("--set", "threshold=0.2")
    assert code == 1
    assert "audit 1 of these labels is drawn, with another threshold" in told
    assert f"rlaif audit sample {run} --again NAME --reason TEXT" in told
    assert gate_state(run) == before
    redraw = ["--set", "threshold=0.2", "--again", "Ann"]
    assert sample(*redraw)[0] == 1  # why?
    assert gate_state(run) == before
    assert sample(*redraw, "--reason", "it was too hard")[0] == 0
    assert main(["audit", "status", str(run)]) == 0
    out = capsys.readouterr().out
    assert "drawn again after audit 1 of these labels" in out
    assert "by Ann, because: it was too hard" in out


def test_the_command_from_sample_to_verify(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = str(run)
    assert main(["audit", "status", name]) == 1
    assert "rlaif audit sample" in capsys.readouterr().err
    assert main(["audit", "sample", name, "--set", "calibration=3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sizes"]["gate"] > 10
    assert main(["audit", "sample", name, "--set", "threshold=7"]) == 1
    assert "threshold" in capsys.readouterr().err
    text = tmp_path / "guideline.md"
    text.write_text("Judge by the principle.")
    change = ["audit", "guideline", name, "--change", str(text), "--by", "Ann"]
    assert main(change) == 1
    assert "no reviewer is called 'Ann'" in capsys.readouterr().err
    assert main(["audit", "status", name, "--invite", "Ann", "--role", "lead"]) == 0
    capsys.readouterr()
    assert main([*change, "--json"]) == 0
    guideline = json.loads(capsys.readouterr().out)
    assert not guideline["frozen"]
    assert [one["by"] for one in guideline["versions"]] == ["", "Ann"]
    agree(run)
    assert main(["audit", "status", name, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["gate"]["state"] == "pass"
    assert main(["audit", "status", name, "--principles"]) == 0
    out = capsys.readouterr().out
    assert "PASS: people agree with more than 70% of the labels" in out
    assert told["head"] in out
    assert main(["audit", "guideline", name]) == 0
    out = capsys.readouterr().out
    assert "Judge by the principle." in out
    assert "it stands" in out
    assert main(change) == 1
    assert "frozen" in capsys.readouterr().err
    assert main(["audit", "export", name, "--out", str(tmp_path / "x.jsonl"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] > 10
    file = tmp_path / "x.jsonl"
    assert main(["audit", "import", name, str(file), "--source", "twin", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["new"] > 10
    assert main(["audit", "verify", name, "--head", told["head"]]) == 0
    assert "intact" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="1"):
        main(["audit", "verify", name, "--head", "0" * 64, "--json"])
    assert "cut off" in capsys.readouterr().out
    assert main(["audit", "status", name, "--invite", "Zoe"]) == 0
    assert "one-time token for Zoe: " in capsys.readouterr().out
    assert main(["audit", "status", name, "--invite", "Max", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["invited"] == "Max"
    with Ledger.open(where(run)) as at:
        session = at.redeem(told["token"])
        assert session
        owner = at.by_session(session)
        assert owner
        assert owner.name == "Max"


def test_a_guideline_that_is_not_there_is_named(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = ["audit", "sample", str(run), "--set", "calibration=3"]
    assert main([*sample, "--set", "guideline=/nowhere/g.md"]) == 1
    told = capsys.readouterr().err
    assert "error: /nowhere/g.md: the guideline cannot be read (No such file" in told
    assert "guideline=null" in told
    config = json.loads((run / "run.json").read_text("utf-8"))
    config["config"]["audit"]["guideline"] = "/nowhere/g.md"
    (run / "run.json").write_text(json.dumps(config), "utf-8")
    assert main(sample) == 1
    assert main([*sample, "--set", "audit.guideline=null"]) == 0
    assert gate_state(run).audit == 1


def test_a_script_learns_whether_training_may_begin(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", "sample", str(run), "--set", "threshold=0.9"]) == 0
    agree(run, 0.0)
    check = ["audit", "status", str(run), "--check"]
    capsys.readouterr()
    assert main(check[:-1]) == 0
    plain = capsys.readouterr().out
    for more in ((), ("--json",)):
        with pytest.raises(SystemExit, match="1"):
            main([*check, *more])
        out = capsys.readouterr().out
        assert out == plain if not more else json.loads(out)["gate"]["state"] == "fail"
    assert main([*check, "--override", "Ann", "--reason", "a rehearsal"]) == 0
    assert capsys.readouterr().out.startswith("OVERRIDDEN: ")
