"""What an audit refuses, and why.

RlaifError
└── AuditError      the ledger cannot be used, or an act is not allowed
    ├── NotFound    no such audit, item or reviewer
    ├── NotYours    the reviewer never had this item
    ├── NotAnswered a reveal, or a question behind one, before its time
    └── Refused     the act comes too late, or is not this person's
        └── Drawn   the labels have an audit already
"""

from __future__ import annotations

from rlaif.errors import RlaifError


class AuditError(RlaifError, RuntimeError):
    """The ledger cannot be used, or an act is not allowed."""


class NotFound(AuditError, LookupError):
    """No such audit, item or reviewer."""


class NotYours(AuditError, PermissionError):
    """The reviewer never had this item."""


class NotAnswered(AuditError):
    """A reveal, or a question behind one, before its time."""


class Refused(AuditError):
    """The act comes too late, or is not this person's."""


class Drawn(Refused):
    """The labels have an audit already."""
