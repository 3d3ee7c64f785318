"""A constitution was edited: say what follows, ask if that is wanted, and build.

The rebuilt model is a run of its own, `<name>-<digest of the law>`: the run before it stays, and
calls that the edit did not touch come from the completions store. With `changes` to the config, its
name has a digest of these, too.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from prefect import flow, suspend_flow_run
from prefect.input import (
    RunInput,
    delete_flow_run_input,
    keyset_from_base_key,
    read_flow_run_input,
)
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import ConfigDict, Field

from flows import shown
from flows.parameters import DEMO, Asked, Change, ConfigFile, Hours, Law, Stage, asked
from flows.pipeline import carried_out
from flows.steps import deployed, told
from rlaif.completions import default_path
from rlaif.constitution import Constitution, load
from rlaif.errors import RlaifError, RunError
from rlaif.planning import Plan, plan

log = logging.getLogger("rlaif.flows")

LONGEST = 64  # characters of a run's name


class Approval(RunInput):
    """A person's word on a plan. No field that decides has a default: an empty answer is none."""

    model_config = ConfigDict(extra="forbid")

    decision: Literal["rebuild", "leave"] = Field(description="rebuild = spend what the plan says.")
    by: str = Field(min_length=2, description="Who decides; it is kept in the flow run's log.")
    why: str = Field(default="", description="Kept as well.")


def named() -> str:
    """What a run of the flow is called in Prefect."""
    try:
        return f"rebuild {asked(flow_run.parameters).title}"
    except RlaifError:
        return "rebuild: a config that cannot be used"


@flow(name="rlaif-rebuild", flow_run_name=named, persist_result=False)
def rebuild(
    config_file: ConfigFile = DEMO,
    constitution: Law = "",
    approval: bool = True,
    approve_within_h: Hours = 168,
    audit_gate: bool = False,
    changes: list[Change] | None = None,
    fresh: list[Stage] | None = None,
    runs: str = "runs",
) -> Any:
    """Build a model anew because its constitution was edited.

    Shows the plan first. Started by the event rlaif.constitution.changed, or by hand.

    Args:
        config_file: The config whose model follows the constitution, a YAML file.
        constitution: The file that was edited. Where the config's law is another one, nothing is
            done. Empty: build whatever the law is now.
        approval: Wait, without holding a process, for a person who has seen the plan.
        approve_within_h: Hours that the plan waits for approval.
        audit_gate: Train only on labels that people have audited.
        changes: Any changes to the config, each as section.key=value. Other changes, another run.
        fresh: Stages to make anew although they are there.
        runs: The folder that holds the runs.
    """
    within_h = approve_within_h if approval and deployed() else None
    return told(lambda: _rebuilt(dict(flow_run.parameters), within_h))


def _rebuilt(given: dict[str, Any], approve_within_h: int | None) -> Any:
    own, edited = asked(given | {"constitution": ""}), asked(given).config.constitution
    if edited.resolve() != own.config.constitution.resolve():
        return _nothing(f"{own.config.name} follows {own.config.constitution.name}")
    law = load(own.config.constitution)  # once: what is planned, approved and named is built
    wanted = _renamed(own, law, given["changes"] or ())
    wanted.check()
    made = plan(wanted.config, root=wanted.runs, store=default_path(), law=law)
    shown.plan(made, wanted.folder, f"What the edit costs: {_summed(made)}.")
    if not given["fresh"]:  # with it, the run itself knows what an earlier attempt made anew
        if all(stage.state == "done" for stage in made.stages):
            return _nothing(f"{wanted.folder} is built already")
        _refuse_unless_fresh(made, wanted)
    if approve_within_h is not None and not _approved(made, wanted, law, approve_within_h):
        return Completed(name="LeftAsItIs", message="a person decided to leave it")
    return carried_out(wanted, given | {"until": "report", "shards": 1}, law)


def _renamed(own: Asked, law: Constitution, changes: Sequence[str]) -> Asked:
    """The run of its own: its name says which law, and which changes."""
    end = f"-{law.digest[:8]}"
    if changes:
        end += f"-{hashlib.sha256(json.dumps(changes).encode()).hexdigest()[:6]}"
    name = own.config.name[: LONGEST - len(end)] + end
    return replace(own, config=own.config.model_copy(update={"name": name}))


def _refuse_unless_fresh(made: Plan, wanted: Asked) -> None:
    """What the run would refuse is refused before anybody is asked for approval."""
    if made.fresh:
        raise RunError(
            f"stage {made.fresh} is there already, made from something else",
            where=str(wanted.folder),
            remedy=f"`fresh: [{made.fresh}]` makes it anew, and what follows from it; or give the "
            "config another name",
        )


def _nothing(why: str) -> Any:
    return Completed(name="NothingToDo", message=why)


def _summed(made: Plan) -> str:
    total = made.total
    new, most = total["new"], total["new"] + total["at_most"]
    return f"{new:,} calls, at most {most:,}; {total['cached']:,} are cached"


def _approved(made: Plan, wanted: Asked, law: Constitution, hours: int) -> bool:
    """Whether a person wants the plan carried out. The answer is to this law and this config alone:
    another edit in the meantime is asked about anew."""
    config = wanted.config.resolved()
    shown_to = hashlib.sha256(json.dumps([law.digest, config], sort_keys=True).encode())
    text = f"{wanted.title}: {_summed(made)}. The plan is among the artifacts of this flow run."
    answer = _answer(f"plan-{shown_to.hexdigest()[:12]}", text, hours)
    log.info("%s by %s: %s", answer.decision, answer.by, answer.why or "no reason given")
    return answer.decision == "rebuild"


def _answer(key: str, text: str, hours: int) -> Approval:
    """What a person said to this question. The flow ends here until then, and runs again after.

    Beside Prefect: an answer also holds for an attempt that follows a crash.
    """
    kept = keyset_from_base_key(f"suspended-{key}")
    if given := read_flow_run_input(kept["response"]):
        return Approval.model_validate(given)
    for name in (kept["schema"], kept["description"]):  # left by an attempt that crashed
        if read_flow_run_input(name):
            delete_flow_run_input(name)
    asked = Approval.with_initial_data(description=text)
    return suspend_flow_run(wait_for_input=asked, timeout=hours * 3600, key=key)
