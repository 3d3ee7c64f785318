"""The audit gate: training waits for people's judgement of the labels, and holds nothing while it
waits.

With `audit_gate`, the flow draws a sample for review, leaves `awaiting.json` in the run's folder
and ends in the state AwaitingAudit. The verdict is a row of the audit's ledger, bound to the
digest of the labels that were judged. When it is there, flows/watch.py says `rlaif.audit.passed`,
and the trigger of the deployment `training` (prefect.yaml) goes on in the run's folder. No process,
no timeout and no open database lies between, so that a wait of weeks outlives restarts, upgrades
and edits of code. Whoever goes on in the folder meanwhile, and however, meets the same gate: the
run keeps it from its beginning on (`Run.open`).
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows import shown
from flows.steps import Steps
from rlaif.audit import AWAITING
from rlaif.errors import RunError
from rlaif.pipeline import Pipeline
from rlaif.stages import OPTIONAL, STAGES, stage_record

if TYPE_CHECKING:
    from rlaif.audit import GateState

log = logging.getLogger("rlaif.flows")


class Awaiting(Exception):
    """People have not decided yet."""


def audited(run: Pipeline, step: Steps, preferred: Path, *, shards: int = 1) -> Path:
    """The labels that training may read: as people left them, if they have audited any.

    Raises:
        Awaiting: the run is gated, and nobody has decided yet; the sample is drawn, and the request
            for reviews is sent.
        RunError: the audit has ended, and not with a PASS.
    """
    if run.gated:
        sample = step(run.sampled, preferred)
        found, folder = state(run.run.folder), run.run.folder
        if found.passed:
            log.info("the audit gate is open: %s", said(found))
            run.let_begin()
        else:
            run.run.record()  # the gate is new here if all stages were there before
            asked = {"labels": stage_record(preferred)["digest"], "sample": str(sample)}
            _wait(folder, found, asked | {"until": step.until, "shards": shards})
    return step(run.audit, preferred) if run.config.preferences.overlay else preferred


def _wait(folder: Path, found: GateState, asked: dict[str, Any]) -> None:
    from rlaif.audit.told import remedy

    _ask(folder, asked)
    shown.review(folder, said(found))
    if found.state == "open":
        raise Awaiting(
            f"The labels wait for people ({said(found)}). To review them: "
            f"rlaif audit serve {folder}\nTraining begins by itself when the gate has passed (the "
            f"watch process of `make server` sees to it); elsewhere: rlaif run {folder}"
        )
    raise RunError(
        f"training waits for the audit: {said(found)}",
        where=str(folder),
        remedy=remedy(folder, found),
    )


def state(folder: Path) -> GateState:
    """What the audit's ledger says of a run's labels as they are."""
    from rlaif.audit import gate_state

    return gate_state(folder)


def said(found: GateState) -> str:
    """The gate's state and why, on one line."""
    from rlaif.audit.told import sentence

    return f"{found.state}: {sentence(found)}"


def _ask(folder: Path, asked: dict[str, Any]) -> None:
    note = folder / AWAITING
    before = json.loads((note.read_text("utf-8") if note.is_file() else "") or "{}")
    again = before.get("labels") == asked["labels"]
    if again:  # two who wait for the same labels: whoever wants more gets it
        ends = before["until"], asked["until"]
        asked["until"] = max(ends, key=(*OPTIONAL, *STAGES).index)
    draft = note.with_suffix(".tmp")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(asked, file)
        file.flush()
        os.fsync(file.fileno())  # whole, whenever the power goes
    draft.replace(note)
    if not again:
        shown.event("rlaif.audit.requested", folder, labels=asked["labels"])
