"""The audit gate of a run that waits, however somebody goes on with it; no Prefect server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from flows import audit as deployments
from flows import gate
from flows import pipeline as flow
from flows.gate import Awaiting, audited
from flows.parameters import asked
from rlaif.audit import where
from rlaif.audit.ledger import Ledger
from rlaif.config import RunConfig
from rlaif.errors import RunError
from rlaif.pipeline import Pipeline
from tests import finished_run

NOTE = json.dumps({"labels": "d", "sample": "s", "until": "report", "shards": 1})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run.made(tmp_path_factory.mktemp("runs"), train=40, heldout=4)


@pytest.fixture
def run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RLAIF_STORE", str(tmp_path / "store.sqlite3"))
    monkeypatch.setenv("RLAIF_ACCELERATOR", "")
    monkeypatch.delenv("RLAIF_AUDIT", raising=False)
    for name in ("event", "review"):
        monkeypatch.setattr(gate.shown, name, lambda *args, **payload: None)
    return Path(shutil.copytree(made, tmp_path / made.name))


class Plainly:
    """Steps without Prefect."""

    def __init__(self, until: str = "report") -> None:
        self.until = until

    def __call__(self, stage: Callable[..., Path], *inputs: Path | None) -> Path:
        return stage(*inputs)


def opened(run: Path, **sections: Any) -> AbstractContextManager[Pipeline]:
    """The pipeline of a run, under other sections."""
    told = json.loads((run / "run.json").read_text("utf-8"))["config"]
    return Pipeline.open(RunConfig.model_validate(told | sections), root=run.parent)


def through(pipeline: Pipeline, until: str = "report") -> Path:
    """The labels that the flow lets training read."""
    step: Any = Plainly(until)
    return audited(pipeline, step, pipeline.run.folder / "preferences")


def override(run: Path) -> None:
    with Ledger.open(where(run)) as at:
        lead, _ = at.add_reviewer("Lea", "lead")
        at.override(at.audits()[-1].id, lead.id, "a rehearsal")


def test_a_run_that_waits_is_gated_however_it_goes_on(run: Path) -> None:
    with opened(run, audit={"gate": True}) as pipeline, pytest.raises(Awaiting):
        through(pipeline)
    assert (run / "awaiting.json").is_file()
    with opened(run, audit={"gate": False}) as pipeline:  # as one goes on by hand
        with pytest.raises(Awaiting) as told:
            through(pipeline)
        assert "--audit-gate" not in str(told.value)  # which nobody needs to remember
        with pytest.raises(RunError, match="waits for the audit"):
            pipeline.audit(run / "preferences")  # as without Prefect
        assert (run / "awaiting.json").is_file()
        override(run)
        assert through(pipeline) == run / "preferences"
        assert not (run / "awaiting.json").exists()


@pytest.mark.parametrize("by", ["the flow", "the library"])
def test_who_crosses_the_gate_waits_no_longer(run: Path, by: str) -> None:
    with opened(run, audit={"gate": True}) as pipeline:
        pipeline.sampled(run / "preferences")
        override(run)
        (run / "awaiting.json").write_text(NOTE, "utf-8")
        (through if by == "the flow" else lambda p: p.audit(run / "preferences"))(pipeline)
    assert not (run / "awaiting.json").exists()


def test_a_shorter_request_takes_nothing_from_a_longer_one_that_waits(run: Path) -> None:
    for until in ("report", "evaluation"):
        with opened(run, audit={"gate": True}) as pipeline, pytest.raises(Awaiting):
            through(pipeline, until=until)
    assert json.loads((run / "awaiting.json").read_text("utf-8"))["until"] == "report"


def test_other_labels_of_a_run_that_waits_are_gated_too(run: Path) -> None:
    (run / "awaiting.json").write_text(NOTE, "utf-8")  # of labels that are made anew by now
    with opened(run, audit={"gate": True}) as pipeline, pytest.raises(Awaiting):
        through(pipeline)
    now = json.loads((run / "awaiting.json").read_text("utf-8"))["labels"]
    assert now == json.loads((run / "preferences" / "stage.json").read_text("utf-8"))["digest"]


def test_a_gate_that_a_parameter_asks_for_is_on_record(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before there are labels, the run has no awaiting.json, and is gated all the same."""

    def build(pipeline: Pipeline, step: Any, **how: Any) -> Path:
        pipeline.run.record()  # as the first stage does
        return pipeline.run.folder

    monkeypatch.setattr(flow, "build", build)
    given = {"config_file": str(run), "runs": str(run.parent), "until": "report", "shards": 1}
    given |= {"fresh": None, "audit_gate": True}
    assert not asked(given).config.audit.gate
    ungated = asked(given).config
    flow.carried_out(asked(given), given)
    assert asked(given).config.audit.gate
    with Pipeline.open(ungated, root=run.parent) as pipeline:  # by its file, which has no gate
        assert pipeline.gated
        pipeline.run.record()
        with pytest.raises(RunError, match="waits for the audit"):
            pipeline.audit(run / "preferences")
    assert asked(given).config.audit.gate


def test_an_unreadable_record_is_no_way_around_the_gate(run: Path) -> None:
    ungated = asked({"config_file": str(run), "runs": str(run.parent)}).config
    (run / "run.json").write_text('{"config": {"aud', "utf-8")
    with pytest.raises(RunError, match="cannot be read"), Pipeline.open(ungated, root=run.parent):
        pass


# --- the deployments of the audit -----------------------------------------------------------------


def audits(run: Path) -> list[tuple[str, float]]:
    with Ledger.open(where(run)) as at:
        return [(one.plan.kind, one.plan.tau) for one in at.audits()]


def test_a_sample_of_either_kind_is_drawn_once(run: Path) -> None:
    for kind in ("critique", "preference", "critique", "preference"):
        ended = deployments.sample.fn(str(run), kind)
        assert ended.name == "Drawn"
        assert "rlaif audit serve" in ended.message
    assert audits(run) == [("critique", 0.7), ("preference", 0.7)]


def test_a_sample_that_was_drawn_in_another_way_is_no_failure(run: Path) -> None:
    with opened(run, audit={"threshold": 0.8}) as pipeline:
        pipeline.sampled(run / "preferences")
    assert deployments.sample.fn(str(run)).name == "Drawn"  # as a tripwire starts it
    assert audits(run) == [("preference", 0.8)]


def test_nobody_is_asked_to_review_what_is_decided(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(deployments.shown, "event", lambda name, run: told.append(name))
    deployments.sample.fn(str(run))
    assert told == ["rlaif.audit.requested"]
    override(run)
    ended = deployments.sample.fn(str(run))  # as a later report's tripwire starts it
    assert told == ["rlaif.audit.requested"]
    assert "Lea let training begin" in ended.message
    assert "to be reviewed" not in ended.message


def test_verdicts_come_into_the_audit_of_their_kind(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "told.jsonl"
    verdict = {"number": 1, "reviewer": "Ada", "verdict": "yes", "stage": "violated"}
    file.write_text(json.dumps(verdict) + "\n", "utf-8")
    deployments.sample.fn(str(run))
    with pytest.raises(RunError, match="no critique sample is drawn"):
        deployments.bring.fn(str(run), str(file), kind="critique")
    deployments.sample.fn(str(run), "critique")
    ended = deployments.bring.fn(str(run), str(file), kind="critique")
    assert ended.message == "1 verdicts added, 0 were there already"


def test_verdicts_for_a_run_that_is_not_there_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no preference sample is drawn"):
        deployments.bring.fn(str(tmp_path / "mistyped"), "told.csv")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flow", [deployments.sample, deployments.bring])
def test_the_kind_is_a_field_with_a_description_and_choices(flow: Any) -> None:
    field = flow.parameters.properties["kind"]
    assert field["enum"] == ["preference", "critique"]
    assert field["default"] == "preference"
    assert field["description"]
