"""How people audit the labels before anything is trained on them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rlaif.config.section import File, Section


class AuditConfig(Section):
    """A blind review of a sample of the labels, and the gate that it may open or shut."""

    gate: bool = False
    """Training waits until people agree with the labels."""

    threshold: float = Field(default=0.70, gt=0, lt=1)
    """The mean agreement that the gate asks for. People agree with one another on 63 to 81 of 100
    pairs, so little above 0.75 can be had."""

    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """How probable a wrong PASS may be, and a wrong FAIL."""

    cap: int = Field(default=400, gt=0)
    """Items after which an undecided gate is inconclusive."""

    reviewers: int = Field(default=1, gt=0)
    """How many people review. With one, nothing is reviewed twice."""

    overlap: float = Field(default=0.2, ge=0, le=1)
    """Share of the items that two people judge, where there are two."""

    calibration: int = Field(default=30, ge=0)
    """Items to warm up on, judged by two where there are two; they never count."""

    per_principle: int = Field(default=30, ge=0)
    """Judge at least so many items of each principle, so that each has a figure."""

    targeted: int = Field(default=20, ge=0)
    """Items picked because the judge contradicts itself or is unsure. They fix data and count in
    no estimate."""

    retest: float = Field(default=0.05, ge=0, le=0.5)
    """Share of the pairs that come back to the same person, later and looking like any other: how
    often do people say the same again? They count in no other figure. 0: none."""

    tie: float = Field(default=0.05, ge=0, lt=0.5)
    """A label so near to 0.5 says that the two are equal."""

    principles: Literal["tell", "block"] = "tell"
    """What a principle does that people surely contradict, though the gate says PASS. tell: it is
    named wherever the gate is. block: the gate opens only when every principle has its items
    (`per_principle`) and none is named or quarantined, or when a lead overrides it."""

    guideline: File | None = None
    """A text that reviewers have beside each item; a lead may change it until the gate's first
    verdict. Unset: a short one that is shipped."""
