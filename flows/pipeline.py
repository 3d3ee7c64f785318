"""The whole pipeline as a Prefect flow; `rlaif run CONFIG` is this, and so is every deployment that
makes models (prefect.yaml): the parts differ in where they stop.

A task is a stage. Prefect owns order, states and what one sees; the run folder and the completions
store own data, reuse and resume.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run
from prefect.states import Completed

from flows import shown
from flows.gate import Awaiting, audited
from flows.parameters import (
    DEMO,
    Asked,
    Change,
    ConfigFile,
    Count,
    Law,
    ModelName,
    Name,
    PolicyKind,
    Principles,
    Rounds,
    Seed,
    Shards,
    Stage,
    asked,
)
from flows.shards import warm
from flows.steps import Reached, Steps, begun, deployed, opened, told
from rlaif.completions import default_path
from rlaif.constitution import Constitution
from rlaif.errors import RlaifError
from rlaif.pipeline import Pipeline
from rlaif.planning import plan


def build(run: Pipeline, step: Steps, *, shards: int = 1) -> Path:
    """Every stage in order; what is there already is reused."""
    prompts = step(run.prompts)
    warm(run, "critique", shards, prompts)
    critiqued = step(run.critique, prompts)
    finetuned = step(run.finetune, critiqued)
    warm(run, "preferences", shards, prompts, finetuned)
    preferred = step(run.preferences, prompts, finetuned)
    labels = audited(run, step, preferred, shards=shards)
    rewarded = step(run.reward, labels, finetuned) if run.config.reward.enabled else None
    policy = step(run.policy, labels, finetuned, prompts, rewarded)
    step(run.evaluation, prompts, critiqued, finetuned, preferred, policy)
    return step(run.report)


def named() -> str:
    """What a run of the flow is called in Prefect: run, constitution and model."""
    try:
        return asked(flow_run.parameters).title
    except RlaifError:
        return "a config that cannot be used"


@flow(name="rlaif", flow_run_name=named, persist_result=False)
def pipeline(
    config_file: ConfigFile = DEMO,
    until: Stage = "report",
    name: Name = "",
    constitution: Law = "",
    model: ModelName = "",
    policy: PolicyKind = "",
    prompts: Count | None = None,
    heldout: Count | None = None,
    rounds: Rounds | None = None,
    principles: Principles | None = None,
    seed: Seed | None = None,
    audit_gate: bool = False,
    changes: list[Change] | None = None,
    fresh: list[Stage] | None = None,
    shards: Shards = 1,
    runs: str = "runs",
) -> Any:
    """Rebuild a model under a constitution: prompts, critique and revision, finetuning, AI
    feedback, reward model, policy, evaluation and report.

    What is left empty is as the config file says. A finished model call is never paid twice; a
    finished stage is reused.

    Args:
        config_file: The run's config, a YAML file; or the folder of a run that began, which goes
            on with its config and its law as they stood.
        until: The last stage to make. What it needs is made first, unless it is there.
        name: The run's folder under `runs`.
        constitution: The law: a YAML file, or the name of a shipped one, such as general.
        model: What is trained: a folder with safetensors weights, or a hub name; sandbox is the
            embedded model.
        policy: How the policy is trained.
        prompts: Use so many training prompts at most.
        heldout: Use so many held-out prompts at most.
        rounds: How often each answer is critiqued and revised.
        principles: How many principles each pair of answers meets; 0 is all of them.
        seed: Every draw of the run comes from it.
        audit_gate: Train only on labels that people have audited. The run ends in the state
            AwaitingAudit and holds nothing; training begins by itself when the gate has passed.
        changes: Any other changes to the config, each as section.key=value.
        fresh: Stages to make anew although they are there.
        shards: Parts of the prompts whose calls are made side by side; see docs/operations.md.
        runs: The folder that holds the runs.
    """
    return told(lambda: _built(dict(flow_run.parameters)))


def _built(given: dict[str, Any]) -> Any:
    wanted = asked(given)
    wanted.check(given["until"])
    return carried_out(wanted, given)


def carried_out(wanted: Asked, given: dict[str, Any], law: Constitution | None = None) -> Any:
    """Build what was asked for; the path of what was made last, or the state to end in.

    `law`: the one whose plan was shown. It is built, even if its file was edited meanwhile.
    """
    if given["audit_gate"]:
        wanted = replace(wanted, config=wanted.config.gated())
    if deployed() and law is None:
        how = {"store": default_path(), "as_it_stood": wanted.as_it_stood}
        made = plan(wanted.config, root=wanted.runs, **how)
        shown.plan(made, wanted.folder)

    def open_run() -> Any:
        how = {"fresh": given["fresh"] or (), "since": begun(), "as_it_stood": wanted.as_it_stood}
        return Pipeline.open(wanted.config, root=wanted.runs, law=law, **how)

    with opened(open_run) as run:
        try:
            return build(run, Steps(run, given["until"]), shards=given["shards"])
        except Reached as reached:
            return reached.folder
        except Awaiting as waits:
            return Completed(name="AwaitingAudit", message=str(waits))
