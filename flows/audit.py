"""The audit of a run's labels from Prefect: draw a sample, bring decisions in.

Reviewing itself happens in the review app, `rlaif audit serve RUN`.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import Field

from flows import shown
from flows.gate import said
from flows.parameters import asked
from flows.steps import told
from rlaif.audit import where
from rlaif.audit.current import exists, latest, state_of
from rlaif.audit.importing import READ, import_file
from rlaif.audit.ledger import Ledger
from rlaif.audit.records import Kind
from rlaif.audit.told import sampled
from rlaif.errors import RunError

log = logging.getLogger("rlaif.flows")

RunFolder = Annotated[str, Field(min_length=1, examples=["runs/demo"])]
Form = Annotated[str, Field(json_schema_extra={"enum": ["", *READ]})]


def named() -> str:
    """What a run of these flows is called in Prefect."""
    return f"{flow_run.flow_name.removeprefix('rlaif-')} {Path(flow_run.parameters['run']).name}"


@flow(name="rlaif-audit-sample", flow_run_name=named, persist_result=False)
def sample(run: RunFolder, kind: Kind = "preference") -> Any:
    """Draw labels of a run for people to review, unless they are drawn already.

    Args:
        run: The folder of a run whose labels are there, such as runs/demo.
        kind: What is reviewed: labels of pairs (preference), for which training can wait, or rounds
            of critique and revision (critique).
    """
    return told(lambda: _sample(Path(run), kind))


@flow(name="rlaif-audit-import", flow_run_name=named, persist_result=False)
def bring(
    run: RunFolder,
    file: Annotated[str, Field(min_length=1, examples=["decisions.csv"])],
    form: Form = "",
    source: str = "",
    kind: Kind = "preference",
) -> Any:
    """Bring verdicts that were given elsewhere into the audit of a run; twice is as once. The gate
    leaves them out: nobody knows whether they were blind.

    Args:
        run: The folder of a run whose sample is drawn.
        file: A file of verdicts, as `rlaif audit import` takes it.
        form: How the file is written. Empty: by its name.
        source: Where they were given. Empty: the file's name.
        kind: Which audit they belong to: that of the labels of pairs (preference), or that of the
            critiques and revisions (critique).
    """
    return told(lambda: _bring(Path(run), Path(file), form, source, kind))


def _sample(folder: Path, kind: Kind) -> Any:
    config = asked({"config_file": str(folder), "runs": str(folder.parent)}).config
    drawn = sampled(folder, config.audit, config.seed, kind)  # also while the run trains
    found = state_of(folder, kind)
    shown.review(folder, said(found))
    if found.state != "open":  # drawn before, and decided
        return Completed(name="Drawn", message=f"{drawn}: {said(found)}")
    shown.event("rlaif.audit.requested", folder)
    message = f"{drawn} is to be reviewed: rlaif audit serve {folder} ({said(found)})"
    return Completed(name="Drawn", message=message)


def _bring(folder: Path, file: Path, form: str, source: str, kind: Kind) -> Any:
    remedy = f"run the deployment audit-sample first, with kind {kind}"
    undrawn = RunError(f"no {kind} sample is drawn", where=str(folder), remedy=remedy)
    if not exists(folder):
        raise undrawn
    with Ledger.open(where(folder)) as ledger:
        drawn = latest(ledger, folder, kind)
        if drawn is None:
            raise undrawn
        new, there = import_file(ledger, drawn.id, file, form, source)
    message = f"{new} verdicts added, {there} were there already"
    return Completed(name="Imported", message=message)
