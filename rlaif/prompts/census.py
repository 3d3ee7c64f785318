"""What was read: counts by source, split, tag and reason, and how long the prompts are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rlaif.prompts.reading import Why
from rlaif.records import Prompt


@dataclass(slots=True)
class Read:
    """The rows of one source (or of all): how many became what."""

    name: str
    train: int = 0
    heldout: int = 0
    rejected: Counter[Why] = field(default_factory=Counter)

    @property
    def prompts(self) -> int:
        return self.train + self.heldout

    @property
    def rows(self) -> int:
        return self.prompts + self.rejected.total()

    def json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "prompts": self.prompts,
            "train": self.train,
            "heldout": self.heldout,
            "rejected": {str(why): n for why, n in sorted(self.rejected.items())},
        }


@dataclass(slots=True)
class Census:
    """A tally of all that was read; its size does not grow with the number of rows."""

    sources: list[Read]
    turns: Counter[int] = field(default_factory=Counter)
    tags: Counter[str] = field(default_factory=Counter)
    chars: Counter[int] = field(default_factory=Counter)

    def keep(self, source: int, split: str, prompt: Prompt) -> None:
        """Count a prompt that is used."""
        if split == "train":
            self.sources[source].train += 1
        else:
            self.sources[source].heldout += 1
        self.turns[sum(message.role == "user" for message in prompt.messages)] += 1
        self.tags.update(prompt.tags)
        self.chars[sum(len(message.content) for message in prompt.messages)] += 1

    def reject(self, source: int, why: Why) -> None:
        """Count a row that is not."""
        self.sources[source].rejected[why] += 1

    @property
    def total(self) -> Read:
        """All sources together."""
        total = Read("all")
        for source in self.sources:
            total.train += source.train
            total.heldout += source.heldout
            total.rejected += source.rejected
        return total

    def json(self) -> dict[str, Any]:
        """Plain values: the total on top, then each source; user turns; characters a prompt."""
        return {
            **self.total.json(),
            "sources": [{"name": source.name, **source.json()} for source in self.sources],
            "turns": {str(n): count for n, count in sorted(self.turns.items())},
            "tags": dict(sorted(self.tags.items())),
            "chars": self.lengths(),
        }

    def lengths(self) -> dict[str, float]:
        """Least, mean, median, 90th and 99th percentile and most characters; {} of nothing."""
        n = self.chars.total()
        if not n:
            return {}
        mean = sum(length * count for length, count in self.chars.items()) / n
        parts = {"min": 0.0, "median": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
        return {"mean": round(mean, 1)} | {name: self._quantile(q) for name, q in parts.items()}

    def _quantile(self, q: float) -> int:
        """The smallest length that at least the share q of the prompts does not exceed."""
        seen = 0
        for length, count in sorted(self.chars.items()):
            seen += count
            if seen >= max(1, q * self.chars.total()):
                return length
        return 0
