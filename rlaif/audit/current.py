"""The audit of a run's labels as they are now."""

from __future__ import annotations

from pathlib import Path

from rlaif.audit import where
from rlaif.audit.items import stage_of
from rlaif.audit.ledger import Ledger
from rlaif.audit.records import Audit, GateState, Kind
from rlaif.config.audit import AuditConfig
from rlaif.config.naming import record_of
from rlaif.stages import stage_record


def exists(run: Path) -> bool:
    """Whether there may be a ledger; opening one that is not there would make it."""
    place = where(run)
    return not isinstance(place, Path) or place.is_file()


def labels(run: Path, kind: Kind = "preference") -> str:
    """The digest of what is under audit."""
    return stage_record(run / stage_of(kind))["digest"]


def latest(ledger: Ledger, run: Path, kind: Kind = "preference") -> Audit | None:
    """The newest audit of a run's labels as they are now."""
    digest = labels(run, kind)
    mine = [a for a in ledger.audits() if (a.plan.kind, a.plan.labels) == (kind, digest)]
    return mine[-1] if mine else None


def state_of(run: Path, kind: Kind = "preference") -> GateState:
    """Where the gate stands (see `rlaif.audit.gate_state`)."""
    digest = labels(run, kind)
    if exists(run):
        with Ledger.open(where(run)) as ledger:
            if (audit := latest(ledger, run, kind)) is not None:
                return ledger.gate(audit.id)
    asked = AuditConfig.model_validate(record_of(run)["config"].get("audit", {}))
    why = "no sample has been drawn"
    return GateState("open", 0, asked.threshold, asked.alpha, asked.cap, labels=digest, why=why)
