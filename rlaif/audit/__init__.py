"""Human audit: a blind review of a sample that says whether the AI's labels can be trusted.

    rlaif audit sample runs/mine && rlaif audit serve runs/mine

A sample is drawn with known probabilities (`sampling`), reviewed blind in the app (`app`), kept in
an append-only ledger (`ledger`), decided by a test that stays valid while one looks (`gate`), told
in figures with intervals (`agreement`, `overview`), and brought back into the labels (`overlay`).
Bai et al. (2022) have no such step: they check their feedback model against crowdworkers' labels.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlaif.audit.records import GateState

LEDGER, ADDRESS = "audit.db", "audit.url"  # the second while the review app serves the run
AWAITING = "awaiting.json"
"""In the folder of a run whose training waits for an audit; gone once its gate lets training begin.
"""


def where(run: Path) -> str | Path:
    """A run's ledger: the database that $RLAIF_AUDIT names, or a file beside the run's stages."""
    return os.environ.get("RLAIF_AUDIT") or run / LEDGER


def gate_state(run: Path) -> GateState:
    """Where the gate of a run's labels stands; `open` with `audit` None where none was drawn.

    It is bound to the digest of the preferences stage as it is now: an audit of other labels says
    nothing of these.

    Raises:
        RunError: the folder is no run's, or its preferences stage is not finished.
        AuditError: the ledger cannot be read.
    """
    from rlaif.audit.current import state_of

    return state_of(run)
