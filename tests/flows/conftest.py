"""One box for all tests of deployments, and the run that goes through it undisturbed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlaif.audit import where
from rlaif.audit.ledger import Ledger
from tests.flows.serving import CHANGES, Box, box, until


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with box(tmp_path_factory.mktemp("box")) as made:
        yield made


@pytest.fixture(scope="session")
def waiting(up: Box) -> str:
    """A flow run that has made labels and waits for people."""
    id = up.trigger("rlaif/feedback")
    assert up.ended(id)["state_name"] == "Completed", up.flow_run(id)["state"]["message"]
    # Everything up to the gate is there, and what waits is another config all the same.
    id = up.trigger("rlaif/pipeline", audit_gate=True, changes=CHANGES)
    assert up.ended(id)["state_name"] == "AwaitingAudit", up.flow_run(id)["state"]["message"]
    return id


@pytest.fixture(scope="session")
def trained(up: Box, waiting: str) -> dict[str, Any]:
    """The flow run that went on by itself, after everything was killed and started again."""
    run = up.runs / "small"
    up.stop(signal.SIGKILL)
    let_pass(run)
    up.start()

    def going_on() -> list[dict[str, Any]]:
        found = up.api.runs("SCHEDULED", "PENDING", "RUNNING", "COMPLETED", "FAILED")
        return [r for r in found if r["parameters"].get("config_file") == str(run)]

    (by_itself,) = until(going_on)
    return up.ended(by_itself["id"])


def let_pass(run: Path) -> None:
    """A lead overrides the gate."""
    with Ledger.open(where(run)) as ledger:
        lead, _ = ledger.add_reviewer("Lea", "lead")
        ledger.override(ledger.audits()[-1].id, lead.id, "a rehearsal: nothing is released")
