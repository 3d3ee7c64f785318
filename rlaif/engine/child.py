"""A child process that cannot outlive us: started through the keeper, its output in a log file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_KEEPER = (sys.executable, "-I", "-S", str(Path(__file__).with_name("keeper.py")))
_STOP_S = 20.0
_LAUNCHER = re.compile(r"^E\d{4} .*torch/distributed/elastic/", re.MULTILINE)


class Child:
    """The running command, whose life hangs on a pipe of ours."""

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        *,
        patience_s: float = 3.0,
    ) -> None:
        self.log, self._patience_s = log, patience_s  # between SIGTERM and SIGKILL
        self._log_start = log.stat().st_size if log.exists() else 0
        read, self._lifeline = os.pipe()
        try:
            with log.open("ab") as sink:
                self._keeper = subprocess.Popen(
                    [*_KEEPER, str(read), str(patience_s), "--", *command],
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    pass_fds=(read,),
                    env=dict(env),
                    start_new_session=True,
                )
        except BaseException:
            os.close(self._lifeline)
            raise
        finally:
            os.close(read)

    @property
    def returncode(self) -> int | None:
        """The exit status once it has ended, 128 + the signal's number if one ended it."""
        return self._keeper.poll()

    def stop(self) -> None:
        """End it and everything it started."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        try:
            self._keeper.wait(self._patience_s + _STOP_S)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()

    def log_end(self, lines: int = 30) -> str:
        """The last lines of its output; nothing of what was in the log before it, nor what torch's
        launcher says of processes that failed."""
        with self.log.open("rb") as file:
            file.seek(max(self._log_start, self.log.stat().st_size - 65536))
            text = file.read().decode("utf-8", "replace")
        said = _LAUNCHER.split(text, maxsplit=1)[0]
        return "\n".join(line.rstrip() for line in said.splitlines()[-lines:])
