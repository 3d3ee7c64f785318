"""A stage as a Prefect task: named after it, tried again where that may help, then shown.

Tasks cache nothing: the run folder and the completions store own data, reuse and resume, so that a
flow which is run again finds what is done.
"""

from __future__ import annotations

import fcntl
import gc
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.context import FlowRunContext
from prefect.runtime import flow_run
from prefect.states import Failed

from flows import shown
from flows.progress import progress
from flows.server import prefect_home
from rlaif.errors import ConfigError, EngineError, RlaifError, RunError, StoreError, TrainingFailed
from rlaif.pipeline import Pipeline

log = logging.getLogger("rlaif.flows")

_RETRIES, _DELAYS_S = 3, (5, 30, 120)
_LEASE_S = 60  # how long a dead run holds the accelerator
_LOCK_S, _POLL_S = 600.0, 2.0
_TURN_S = 5.0  # of waiting for the accelerator, until one is told so


class Reached(Exception):
    """The last stage that was asked for is there."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder


class Steps:
    """Runs stages as tasks, up to the one that was asked for."""

    def __init__(self, run: Pipeline, until: str) -> None:
        self.run, self.until = run, until

    def __call__(self, stage: Callable[..., Path], *inputs: Path | None) -> Path:
        """Run a stage as a task named after it.

        Raises:
            Reached: no further stage was asked for.
        """
        name = stage.__name__
        done = as_task(name, self._carry_out)(stage, inputs)
        if name == self.until:
            raise Reached(done)
        return done

    def _carry_out(self, stage: Callable[..., Path], inputs: Sequence[Path | None]) -> Path:
        folder = self.run.run.folder
        try:
            with progress(folder) as watch:
                self.run.models.watch = watch
                done = stage(*inputs)
        except (EngineError, TrainingFailed):
            shown.end_of_log(folder / "logs" / "vllm.log")
            self.run.models.stop()  # what is left of it is of no use to the next try
            raise
        shown.stage(stage.__name__, folder)
        return done


def as_task(name: str, work: Callable[..., Any]) -> Any:
    """A task that caches nothing and, under a worker, is tried again where that may help."""
    return task(
        name=name,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=_RETRIES if deployed() else 0,
        retry_delay_seconds=list(_DELAYS_S),
        retry_condition_fn=_may_pass,
    )(work)


def _may_pass(task: Any, task_run: Any, state: Any) -> bool:
    """Whether to try again: engines, trainings and databases die of what may pass, mistakes do
    not."""
    try:
        state.result()
    except (EngineError, StoreError, TrainingFailed):
        return True
    except Exception:
        return False
    return False


def deployed() -> bool:
    """Whether a worker runs us, not somebody's terminal."""
    return "PREFECT__FLOW_RUN_ID" in os.environ


def begun() -> datetime | None:
    """When the first attempt of this flow run began; None in the first one."""
    context = FlowRunContext.get()
    return context.flow_run.start_time if context and context.flow_run else None


if deployed():
    logging.getLogger("rlaif").setLevel(logging.INFO)  # what `rlaif -v` shows in a terminal


@contextmanager
def opened(open_run: Callable[[], Any]) -> Iterator[Pipeline]:
    """An open pipeline, and the accelerator.

    A later attempt of a run waits for an earlier one that is not dead yet.

    Raises:
        RunError: somebody else works in the run's folder.
    """
    with _alive(), _accelerator(), _frozen(), ExitStack() as stack:
        end = time.monotonic() + (_LOCK_S if (flow_run.run_count or 1) > 1 else 0)
        while True:
            try:
                run = stack.enter_context(open_run())
                break
            except RunError as error:
                if time.monotonic() > end or "another process" not in error.what:
                    raise
                log.info("waits for an earlier attempt: %s", error.what)
                time.sleep(_POLL_S)
        yield run


def accelerator() -> str:
    """The global concurrency limit that guards GPU and engine; "" where nothing is to be held."""
    return os.environ.get("RLAIF_ACCELERATOR", "rlaif-accelerator")


@contextmanager
def _accelerator() -> Iterator[None]:
    """Held while we work, so that two runs never train on one GPU.

    Raises:
        ConfigError: there is no such limit.
    """
    if not accelerator():
        yield
        return
    slot = _slot()
    try:
        yield
    finally:
        slot.__exit__(None, None, None)


def _slot() -> AbstractContextManager[None]:
    """An entered slot of the accelerator. It is waited for in turns, which say that we wait, and in
    short ones in a terminal: Prefect's own waiting outlasts Ctrl-C."""
    how = {"lease_duration": _LEASE_S, "raise_on_lease_renewal_failure": False}
    for turn in count():
        long = _LEASE_S if deployed() and turn else _TURN_S
        slot = concurrency(accelerator(), timeout_seconds=long, strict=deployed(), **how)
        try:
            slot.__enter__()
            return slot
        except TimeoutError:
            if not turn:
                log.warning("waits for %s, which another run has", accelerator())
        except ConcurrencySlotAcquisitionError as error:
            if "must be created" not in str(error):
                raise
            remedy = f"python -m flows.apply, or: prefect gcl create {accelerator()} --limit 1"
            raise ConfigError(str(error), where="RLAIF_ACCELERATOR", remedy=remedy) from error
    raise AssertionError


@contextmanager
def _frozen() -> Iterator[None]:
    """What Prefect has brought stays: no collection of garbage need look through it again."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _alive() -> Iterator[None]:
    """A lock that the system takes back when this process dies: flows/watch.py looks at it."""
    if not deployed():
        yield
        return
    folder = prefect_home() / "alive"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / str(flow_run.id)
    draft = path.with_suffix(".tmp")
    with draft.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        draft.replace(path)  # nobody sees it without its lock
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def told(work: Callable[[], Any]) -> Any:
    """What `work` returns; under a worker, the state to end in where it could not go on."""
    try:
        return work()
    except RlaifError as error:
        if not deployed():
            raise
        return Failed(name=_refused(error), message=str(error))


def _refused(error: RlaifError) -> str:
    """The name of the state; its message says what to do."""
    if isinstance(error, EngineError):
        return "EngineFailed"
    return {"ConfigError": "Refused", "DocumentError": "Refused", "DataError": "BadData"}.get(
        type(error).__name__, "CannotGoOn"
    )
