"""Runs one command and makes sure that nothing of it outlives the process that asked for it.

    python -I keeper.py LIFELINE PATIENCE -- COMMAND...

LIFELINE is the read end of a pipe whose write end only the owner holds: end-of-file means that the
owner closed it or is dead, however it died (`kill -9` too). Then the command gets SIGTERM, and
PATIENCE seconds later its whole process group SIGKILL; on Linux the keeper is also the subreaper,
so that processes which left the group are found and killed as well. It is a process of its own
because the death signal of prctl is tied to the thread that forked, and reaches no grandchildren.
Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def main() -> int:
    """Start the command, wait for its end or the owner's, leave nothing behind."""
    lifeline, patience_s, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[4:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    with subprocess.Popen(command, start_new_session=True, preexec_fn=_prepare_child) as child:
        _wait(child, lifeline)
        code = _end(child, patience_s)
        _kill_strays(child.pid)
    return code if code >= 0 else 128 - code


def _prepare_child() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _wait(child: subprocess.Popen[bytes], lifeline: int) -> None:
    while child.poll() is None:
        readable, _, _ = select.select([lifeline], [], [], 0.1)
        if readable:
            return


def _end(child: subprocess.Popen[bytes], patience_s: float) -> int:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(patience_s)
        except subprocess.TimeoutExpired:
            child.kill()
    return child.wait()


def _kill_strays(group: int) -> None:
    """Kill what is left of the group, then every orphan that came to us, until none is left."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        _kill(-group)
        for pid in _children():
            _kill(pid)
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            time.sleep(0.02)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _children() -> list[int]:
    try:
        return [int(pid) for pid in Path("/proc/thread-self/children").read_text().split()]
    except OSError:
        return []


if __name__ == "__main__":
    sys.exit(main())
