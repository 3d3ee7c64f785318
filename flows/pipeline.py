"""The whole pipeline as a Prefect flow; `rlaif run CONFIG` is this.

A task is a stage. Prefect owns order, states and the UI; the run folder and the completions store
own data, reuse and resume, so tasks cache nothing: a flow that is run again finds what is done.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from rlaif.config import load
from rlaif.pipeline import Pipeline


def step(stage: Callable[..., Path], *inputs: Path) -> Path:
    """Run a stage as a task named after it."""
    as_task = task(name=stage.__name__, cache_policy=NO_CACHE, persist_result=False)
    return as_task(stage)(*inputs)


@flow(name="rlaif", persist_result=False)
def pipeline(
    config_file: Path, changes: list[str] | None = None, fresh: list[str] | None = None,
    runs: Path = Path("runs"),
) -> Path:  # fmt: skip
    """Rebuild a model under a constitution; the result is the path of its report.

    Args:
        config_file: The run's config, a YAML file.
        changes: Changes to the config, each as section.key=value.
        fresh: Stages to make anew although they are there.
        runs: The folder that holds the runs.
    """
    config = load(config_file, changes or ())
    with Pipeline.open(config, root=runs, fresh=fresh or ()) as run:
        prompts = step(run.prompts)
        critiqued = step(run.critique, prompts)
        finetuned = step(run.finetune, critiqued)
        preferred = step(run.preferences, prompts, finetuned)
        if config.reward.enabled:
            step(run.reward, preferred, finetuned)
        policy = step(run.policy, preferred, finetuned)
        step(run.evaluation, prompts, critiqued, finetuned, preferred, policy)
        return step(run.report)
