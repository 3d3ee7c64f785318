"""The nouns of an audit: what is planned, what a reviewer sees, what he says, and what is known.

A blind `View` holds nothing that the AI said; that comes in a `Reveal`, by another call. Reviewers
speak of left and right; what is stored speaks of the item's own sides, `a` and `b`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["preference", "critique"]
Arm = Literal["calibration", "gate", "coverage", "targeted", "retest"]
Role = Literal["reviewer", "lead", "admin"]
State = Literal["open", "pass", "fail", "inconclusive", "overridden"]

ARMS: tuple[Arm, ...] = ("calibration", "gate", "coverage", "targeted", "retest")
"""In the order in which they are reviewed; repeats (retest) come in between."""

SIDES = ("left", "right", "tie", "both_bad", "cant")
BLIND: dict[Kind, tuple[str, ...]] = {
    "preference": ("prefer",),
    "critique": ("violated", "better"),  # an item without a revision has no "better"
}
"""The questions that are answered before the reveal, in order."""

VERDICTS: dict[str, tuple[str, ...]] = {
    "prefer": SIDES,
    "violated": ("yes", "no", "unsure"),
    "better": SIDES,
    "critique": ("correct", "partial", "wrong", "missed_worse"),
    "defects": ("evasive", "lost_help", "new_violation", "factual", "unchanged"),  # any of them
    "revision": ("accept", "reject", "edit"),
}
"""What each question may be answered with; the last three are asked after the reveal."""


# --- what is planned ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Item:
    """One thing under audit: a pair with its label, or a round of critique and revision.

    `payload` may be shown before the verdict, `ai` may not. `id` names the item in its frame.
    preference: payload {messages, a, b, principles: [{id, text}]}, ai {label: a|b|tie, target,
    rationales: [{principle, text}], …}. critique: payload {messages, a: the answer before,
    principles}, ai {label: revised|no_fault, critique, b: the revision or None, …}.
    """

    id: str
    kind: Kind
    stratum: str
    payload: Mapping[str, Any]
    ai: Mapping[str, Any]

    @property
    def label(self) -> str:
        return str(self.ai["label"])


@dataclass(frozen=True, slots=True)
class Unit:
    """A place in the audit for one item.

    `order` counts within the arm; in the gate arm it is the item's place in the permutation. `pi`
    is the probability with which the design includes the item in this arm (0 for hand-picked ones).
    A unit of the arm `retest` repeats the one that has the same item; its order says how many units
    later it comes, and is that one's number once the audit is drawn.
    """

    item: Item
    arm: Arm
    order: int
    pi: float
    reviews: int = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """An audit as it is drawn, frozen before the first verdict.

    `frame_sha` is the SHA-256 of the sorted ids, one a line; `strata` counts the frame by stratum.
    `labels` is the digest of the stage that holds the labels. `reviewers` is how many people are
    expected; with 1 nothing is reviewed twice.
    """

    kind: Kind
    frame_sha: str
    frame_size: int
    strata: Mapping[str, int]
    seed: int
    labels: str = ""
    tau: float = 0.70
    alpha: float = 0.05
    cap: int = 400
    reviewers: int = 1
    title: str = ""
    guideline: str = ""
    constitution: str = ""
    """The law as YAML."""
    design: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Again:
    """A lead who has labels audited once more, and why."""

    lead: int
    reason: str


@dataclass(frozen=True, slots=True)
class Audit:
    """A plan as the ledger has it. `sizes` counts the units by arm."""

    id: int
    plan: Plan
    sizes: Mapping[str, int]
    guideline_sha: str
    constitution_sha: str
    created: int  # milliseconds since 1970, UTC


@dataclass(frozen=True, slots=True)
class Guideline:
    """A version of an audit's guideline: its text, who wrote it ("" where it was drawn with the
    audit) and when, in milliseconds since 1970. Every decision names the `sha` it was made under.
    """

    sha: str
    text: str
    by: str
    created: int


# --- who reviews ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reviewer:
    """A person; tokens are never read back."""

    id: int
    name: str
    role: Role
    active: bool = True


# --- what a reviewer sees -------------------------------------------------------------------------

Holding = Literal["none", "mine", "decided", "skipped", "lapsed"]


@dataclass(frozen=True, slots=True)
class View:
    """An item as one reviewer may see it before he has committed.

    `number` is the item's place in the audit, for links. `stage` is the next question, None where
    none is open. `holding`: `mine` has a lease until `lease_until` (ms); `decided` has all blind
    questions answered. For `prefer` and `better`, `left` and `right` are the two texts in this
    reviewer's stored order; for `violated`, `response` is the one text and the others are "".
    `answers` are his own, by question. `nonce` is one that every tab that shows this state shares.
    """

    audit: int
    number: int
    kind: Kind
    holding: Holding
    stage: str | None
    messages: tuple[Mapping[str, str], ...]
    principles: tuple[Mapping[str, str], ...]
    response: str = ""
    left: str = ""
    right: str = ""
    answers: Mapping[str, str] = field(default_factory=dict)
    flagged: bool = False
    notes: tuple[str, ...] = ()
    revealed: bool = False
    lease_until: int = 0
    nonce: str = ""


@dataclass(frozen=True, slots=True)
class Reveal:
    """What the AI said of an item, for one who has committed.

    `ai` is the item's, `label` what it says in this reviewer's words (left, right, tie; yes, no).
    `response`, `left` and `right` are the texts again (critique: before and after are `response`
    and `revision`). `stages` are the questions that are still open after the reveal.
    """

    audit: int
    number: int
    label: str
    agrees: float | None
    ai: Mapping[str, Any]
    response: str = ""
    revision: str = ""
    left: str = ""
    right: str = ""
    stages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """One of a reviewer's items, for going back and forth."""

    number: int
    holding: Holding
    revealed: bool


@dataclass(frozen=True, slots=True)
class Precedent:
    """An item under the same principle that this reviewer has decided, and how."""

    number: int
    stratum: str
    verdict: str


# --- what he says ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Decision:
    """A row of the ledger that a reviewer wrote; rows are only ever added.

    `act` is verdict, skip, undo, reveal, change, flag or note. `verdict` is in the item's sides.
    `extra` rows are kept and do not count: they came after the item had gone to somebody else.
    """

    seq: int
    audit: int
    number: int
    reviewer: int
    act: str
    stage: str
    verdict: str
    left: str
    text: str
    supersedes: int | None
    nonce: str
    active_ms: int
    extra: bool
    blind: str  # yes, no or unknown
    source: str
    created: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """What came of an act. `already`: it, or another verdict, was there; nothing was added.

    `extra`: kept, but not counted, because the lease had run out and the item went to another.
    """

    decision: Decision
    already: bool = False
    extra: bool = False


# --- what is known --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GateState:
    """Where the gate stands on the completed prefix.

    `scores` of the prefix's `n` items for PASS, worst case for what cannot be judged; `passing` and
    `failing` are the two supermartingales, each decides at 1 / alpha. `low` and `high` are the
    inverted confidence sequence at 1 - alpha. `why` says what an open gate waits for. `doubted` are
    the principles that people surely contradict; where one `blocks`, they hold training back, as do
    those that are `lacking` items. `again` says of each earlier audit of the same labels how it
    ended, and who asked for another one and why.
    """

    state: State
    n: int
    tau: float
    alpha: float
    cap: int
    passing: float = 1.0
    failing: float = 1.0
    low: float = 0.0
    high: float = 1.0
    mean: float | None = None
    audit: int | None = None
    labels: str = ""
    why: str = ""
    by: str = ""
    reason: str = ""
    doubted: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    blocks: bool = False
    again: tuple[str, ...] = ()

    @property
    def held(self) -> bool:
        """It says PASS, and single principles keep it shut."""
        return self.state == "pass" and self.blocks and bool(self.doubted or self.lacking)

    @property
    def passed(self) -> bool:
        """Training may begin."""
        return self.state in ("pass", "overridden") and not self.held


@dataclass(frozen=True, slots=True)
class Progress:
    """One reviewer's progress, and what a decision of the gate is expected to take from here.

    `done` are his items, `target` those planned for all; `left` and `minutes` are None once the
    gate is decided. `batch` of `batch_size` are done until the next reveal of batched items.
    """

    done: int
    target: int
    left: int | None
    minutes: float | None
    batch: int
    batch_size: int
    state: State
    waiting: str = ""


@dataclass(frozen=True, slots=True)
class Dispute:
    """An item on which reviewers differ, or that none could judge; names are not shown."""

    number: int
    stratum: str
    verdicts: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Adjudication:
    """A lead's final word on one item."""

    seq: int
    audit: int
    number: int
    lead: int
    verdict: str
    reason: str


@dataclass(frozen=True, slots=True)
class Verified:
    """What rechecking the ledger found; `problems` is empty where all is well."""

    rows: int
    head: str
    problems: tuple[str, ...] = ()
