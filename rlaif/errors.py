"""The errors a caller may want to catch, drawn once.

    RlaifError
    ├── ConfigError        (ValueError)       a config, constitution or template that cannot be used
    ├── DataError          (ValueError)       input data that cannot be used
    ├── EngineError        (ConnectionError)  the model server, or a request to it, failed
    │   └── ServerDied     (ChildProcessError) the server we started exited
    ├── StoreError         (OSError)          the completions store cannot be read or written
    └── RunError           (RuntimeError)     a run's folder or one of its stages cannot be used
        └── TrainingFailed (ChildProcessError) the training process we started failed

Every message says what is wrong, where, and what to do about it.
"""

from __future__ import annotations


class RlaifError(Exception):
    """Base of every error this library raises on purpose; `remedy` says what a person can do."""

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, where, remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  remedy: {self.remedy}" if self.remedy else head


class ConfigError(RlaifError, ValueError):
    """A config, constitution or template that cannot be used."""


class DataError(RlaifError, ValueError):
    """Input data that cannot be used."""


class EngineError(RlaifError, ConnectionError):
    """The model server, or a request to it, failed for a reason that retrying will not fix."""


class NotOffered(EngineError):
    """The model server answers, and has no such path or model."""


class ServerDied(EngineError, ChildProcessError):
    """The server that was started as a child process exited, or never became healthy."""


class StoreError(RlaifError, OSError):
    """The completions store cannot be read or written."""


class RunError(RlaifError, RuntimeError):
    """A run's folder, or one of its stages, cannot be used or made."""


class TrainingFailed(RunError, ChildProcessError):
    """The training that was started as a child process exited with an error."""
