"""How far a long stage is: a bar on a terminal, a progress artifact in Prefect."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import copy_context
from pathlib import Path
from threading import Event, Thread
from typing import Any

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from rlaif.progress import bar

log = logging.getLogger("rlaif.flows")

EVERY_S = 5.0
_PATIENCE_S = 10.0  # with a server that does not answer
Watch = Callable[[str, int | None], AbstractContextManager[Callable[[int], object]]]


@contextmanager
def progress(folder: Path) -> Iterator[Watch]:
    """What a stage's models tell of their calls; a training in `folder` is looked after as well.

    A thread of its own brings it to Prefect every few seconds, so that no call waits for it.
    """
    batches: dict[str, _Batch] = {}
    over = Event()
    context = copy_context()
    thread = Thread(target=context.run, args=(_report, folder, batches, over), daemon=True)
    thread.start()

    @contextmanager
    def watch(what: str, total: int | None) -> Iterator[Callable[[int], object]]:
        batch = batches.setdefault(what, _Batch(what, total))
        with bar(what, total) as shown:

            def more(n: int) -> None:
                batch.done += n
                shown(n)

            yield more

    try:
        yield watch
    finally:
        over.set()
        thread.join(_PATIENCE_S)


class _Batch:
    """Calls or steps that are done, of how many if that is known, and the artifact that says so."""

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what, self.total, self.done = what, total, 0
        self._artifact: Any = None
        self._said = -1

    def say(self) -> None:
        """Bring it to Prefect, if there is news."""
        if not self.total or self.done == self._said:
            return
        self._said = self.done
        share = min(100.0, 100.0 * self.done / self.total)
        described = f"{self.what}: {self.done:,} of {self.total:,}"
        if self._artifact is None:
            self._artifact = create_progress_artifact(share, description=described)
        else:
            update_progress_artifact(self._artifact, share, description=described)


def _report(folder: Path, batches: dict[str, _Batch], over: Event) -> None:
    """Until the stage is over; what takes less than one interval is never shown."""
    while not over.wait(EVERY_S):
        _look_at_training(folder, batches)
        try:
            for batch in list(batches.values()):
                batch.say()
        except Exception as error:  # the stage matters, not the news of it
            log.debug("no progress shown: %s", error)


def _look_at_training(folder: Path, batches: dict[str, _Batch]) -> None:
    for path in folder.glob(".*.partial/**/progress.json"):
        try:
            told = json.loads(path.read_text("utf-8"))
            what = f"{path.relative_to(folder).parts[0][1:].removesuffix('.partial')}, steps"
            batch = batches.setdefault(what, _Batch(what))
            batch.total, batch.done = told["total"], told["step"]
        except (OSError, ValueError, KeyError):
            continue  # just being replaced
