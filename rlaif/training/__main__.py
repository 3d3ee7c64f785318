"""The child process of a training: `python -m rlaif.training MODULE:FUNCTION FOLDER`."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from pathlib import Path

from rlaif import errors
from rlaif.errors import RlaifError
from rlaif.training.launching import DISK_FULL, ERROR, LOG, write_whole

_PATIENCE = timedelta(days=1)  # of processes that wait for the first one to make the examples
_FULL = ("No space left on device", "os error 28", "PytorchStreamWriter failed writing")


def main(entry: str, folder: Path) -> int:
    """Call the entry; an error that was raised on purpose is left for the parent."""
    module, _, function = entry.partition(":")
    try:
        with _alone(folder), _joined():
            getattr(import_module(module), function)(folder)
    except Exception as error:
        traceback.print_exc()
        if any(map(_disk_full, _causes(error))):
            return DISK_FULL
        if isinstance(error, RlaifError) and not (folder / ERROR).exists():
            write_whole(folder / ERROR, _told(error))
        return 1
    return 0


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait for a training whose parent died, and which may still be writing its last checkpoint."""
    with (folder / LOG).open("ab") as file:
        if os.environ.get("RANK", "0") == "0":
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _joined() -> Iterator[None]:
    """Meet the other processes of the training, if it has any, before anybody else does it: NCCL's
    own patience is ten minutes, and on a CPU each would be alone. Part from them at the end: Gloo
    may abort a process that exits with its threads, and a finished training would count as failed.
    """
    if "LOCAL_RANK" not in os.environ:
        yield
        return
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=_PATIENCE)
    yield
    state.destroy_process_group()


def _told(error: RlaifError) -> dict[str, str]:
    names = [kind.__name__ for kind in type(error).__mro__]
    kind = next(name for name in names if hasattr(errors, name))
    return {"kind": kind, "what": error.what, "where": error.where, "remedy": error.remedy}


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _disk_full(error: BaseException) -> bool:
    full = (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "errno", None) in full or any(mark in str(error) for mark in _FULL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
