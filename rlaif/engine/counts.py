"""The tally of a run's model calls: what was sent, what was cached, what has no answer and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from rlaif.records import Answer, Outcome, Reason

SAID = 500  # characters of a detail


@dataclass(slots=True)
class Counts:
    """`sent` counts HTTP requests, retries included; `answered` and `cached` count calls.

    `said` has, for each reason in `unanswered`, the detail of one such call: the server's words.
    """

    sent: int = 0
    answered: int = 0
    cached: int = 0
    unanswered: Counter[Reason] = field(default_factory=Counter)
    said: dict[Reason, str] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    def add(self, outcome: Outcome) -> None:
        """Count one outcome that came from the model (not from the store)."""
        if isinstance(outcome, Answer):
            self.answered += 1
            self.prompt_tokens += outcome.prompt_tokens
            self.completion_tokens += outcome.completion_tokens
        else:
            self.unanswered[outcome.reason] += 1
            self.said.setdefault(outcome.reason, outcome.detail[:SAID])

    def merge(self, other: Counts) -> None:
        """Add another tally to this one."""
        self.sent += other.sent
        self.answered += other.answered
        self.cached += other.cached
        self.unanswered += other.unanswered
        self.said = other.said | self.said
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.seconds += other.seconds

    @property
    def calls(self) -> int:
        """All calls that have an outcome."""
        return self.answered + self.cached + self.unanswered.total()

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Self:
        """The tally that `as_dict` gave."""
        unanswered = Counter({Reason(why): n for why, n in found["unanswered"].items()})
        said = {Reason(why): detail for why, detail in found["said"].items()}
        return cls(**{**found, "unanswered": unanswered, "said": said})

    def as_dict(self) -> dict[str, object]:
        """Plain values, for a stage's manifest."""
        return {
            "sent": self.sent,
            "answered": self.answered,
            "cached": self.cached,
            "unanswered": {reason.value: n for reason, n in sorted(self.unanswered.items())},
            "said": {reason.value: detail for reason, detail in sorted(self.said.items())},
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "seconds": round(self.seconds, 3),
        }
