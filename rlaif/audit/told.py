"""What an audit proved, in words that a report may print; and the gate as the pipeline asks it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlaif.audit import current, where
from rlaif.audit.errors import Drawn
from rlaif.audit.ledger import Ledger
from rlaif.audit.records import GateState, Kind
from rlaif.audit.sampling import sample
from rlaif.config.audit import AuditConfig
from rlaif.errors import RlaifError, RunError


def sampled(run: Path, config: AuditConfig, seed: int, kind: Kind = "preference") -> Path:
    """Draw the audit of a run's labels, unless it is drawn, be it in another way; the ledger, or
    its run if that is elsewhere."""
    with Ledger.open(where(run)) as ledger:
        if current.latest(ledger, run, kind) is None:
            with suppress(Drawn):  # another process was quicker
                sample(ledger, run, config, seed=seed, kind=kind)
    place = where(run)
    return place if isinstance(place, Path) else run


def require(run: Path) -> GateState:
    """The gate of a run's labels, which must have passed.

    Raises:
        RunError: it has not; the remedy is the next thing to do.
    """
    state = current.state_of(run)
    if state.passed:
        return state
    raise RunError(f"training waits for the audit: {sentence(state)}", where=str(run),
                   remedy=remedy(run, state))  # fmt: skip


def sentence(state: GateState) -> str:
    """What the gate says, in one sentence."""
    return "; ".join(said for said in (_sentence(state), _but(state), *state.again) if said)


def headline(state: GateState) -> str:
    """The state in a word, and what a PASS does not cover."""
    word, but = state.state.upper(), state.state == "pass" and state.doubted
    return f"{word}, BUT NOT FOR {', '.join(state.doubted)}" if but else word


def _but(state: GateState) -> str:
    """What single principles add to what the gate says."""
    said = []
    if state.doubted:
        said.append(f"people contradict the labels of {', '.join(state.doubted)}")
    if state.held and state.lacking:
        said.append(f"too little is judged of {', '.join(state.lacking)}")
    if state.held:
        said.append("this blocks training (audit.principles: block)")
    return ("but " if said and state.state == "pass" else "") + "; ".join(said)


def _sentence(state: GateState) -> str:
    tau, chance = f"{state.tau:.0%}", f"{state.alpha:.0%}"
    level = f"{1 - state.alpha:.0%} interval {state.low:.0%} to {state.high:.0%}"
    after = f"after {state.n} items; {level}; wrong by chance in at most {chance} of audits"
    if state.state == "pass":
        return f"people agree with more than {tau} of the labels ({after})"
    if state.state == "fail":
        return f"people agree with less than {tau} of the labels ({after})"
    if state.state == "inconclusive":
        return (
            f"{state.n} items do not tell whether people agree with {tau} of the labels ({level})"
        )
    if state.state == "overridden":
        return f"{state.by} let training begin all the same, because: {state.reason}"
    return f"{state.n} items are judged, and more are needed" if state.audit else state.why


def told(run: Path) -> dict[str, Any] | None:
    """The gate of a run's labels for its report; None where nothing was ever drawn."""
    try:
        if not current.exists(run):
            return None
        state = current.state_of(run)
    except RlaifError as error:
        return {"state": "unreadable", "sentence": error.what}
    if state.audit is None:
        return None
    return asdict(state) | {"sentence": sentence(state)}


def remedy(run: Path, state: GateState) -> str:
    """The next thing to do, where the gate has not passed."""
    if state.held and not state.doubted:
        return f"rlaif audit serve {run}, judge on until each principle has its items"
    if state.state == "open":
        draw = "" if state.audit else f"rlaif audit sample {run}, then "
        return f"{draw}rlaif audit serve {run}, judge until it says PASS, and run this again"
    return (
        f"rlaif audit status {run} --principles says what people contradict; mend the law, or use "
        "their verdicts (rlaif audit export --form overlay) in a new run; or a lead lets it pass: "
        f"rlaif audit status {run} --override NAME --reason TEXT"
    )
