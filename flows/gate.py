"""The audit gate: training waits for people's judgement of the labels, and holds nothing while it
waits.

With `audit_gate`, the flow draws a sample for review, leaves `awaiting.json` in the run's folder
and ends in the state AwaitingAudit. The verdict is a row of the audit's ledger, bound to the
digest of the labels that were judged. When it is there, flows/watch.py says `rlaif.audit.passed`,
and the trigger of the deployment `training` (prefect.yaml) goes on in the run's folder. No process,
no timeout and no open database lies between, so that a wait of weeks outlives restarts, upgrades
and edits of code.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from flows import shown
from flows.steps import Steps
from flows.watch import AWAITING
from rlaif.errors import RunError
from rlaif.pipeline import Pipeline
from rlaif.runs import stage_record

if TYPE_CHECKING:
    from rlaif.audit import GateState

log = logging.getLogger("rlaif.flows")


class Awaiting(Exception):
    """People have not decided yet."""


def audited(run: Pipeline, step: Steps, preferred: Path, *, gated: bool) -> Path:
    """The labels that training may read: as people left them, if they have audited any.

    Raises:
        Awaiting: the run is `gated`, by the flow's parameter or by its config, and nobody has
            decided yet; the sample is drawn, and the request for reviews is sent.
        RunError: the labels have failed.
    """
    config = run.config
    if gated or config.audit.gate:
        _gate(run.run.folder, step(run.sampled, preferred), stage_record(preferred)["digest"])
    return step(run.audit, preferred) if config.preferences.overlay else preferred


def _gate(folder: Path, sample: Path, labels: str) -> None:
    found = state(folder)
    if found.passed:
        log.info("the audit gate is open: %s", said(found))
        (folder / AWAITING).unlink(missing_ok=True)
        return
    if found.state == "fail":
        raise RunError(
            f"the labels have failed their audit: {said(found)}",
            where=str(folder),
            remedy="mend the principles that reviewers disagree with and build again; or a lead "
            f"lets it pass: rlaif audit status {folder} --override NAME --reason TEXT",
        )
    _ask(folder, sample, labels)
    raise Awaiting(
        f"The labels wait for people ({said(found)}). To review them: rlaif audit serve {folder}\n"
        "Training begins by itself when the gate has passed (the watch process of `make server` "
        "sees to it); elsewhere, give the same command again."
    )


def state(folder: Path) -> GateState:
    """What the audit's ledger says of a run's labels as they are."""
    from rlaif.audit import gate_state

    return gate_state(folder)


def said(found: GateState) -> str:
    """The gate's state and why, on one line."""
    from rlaif.audit.told import sentence

    return f"{found.state}: {sentence(found)}"


def _ask(folder: Path, sample: Path, labels: str) -> None:
    note = folder / AWAITING
    asked = json.dumps({"labels": labels, "sample": str(sample)})
    if note.is_file() and note.read_text("utf-8") == asked:
        return  # the same labels: they were asked for already
    draft = note.with_suffix(".tmp")
    draft.write_text(asked, "utf-8")
    draft.replace(note)
    shown.event("rlaif.audit.requested", folder, labels=labels)
