"""Who knows what is true of an answer: in the sandbox its oracle, elsewhere nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from rlaif.records import Prompt

Reader = Callable[[Prompt, str], dict[str, Any]]
"""What is true of an answer to a prompt: `violations`, `helpful`, `well_formed` and `flaws`; empty
where the oracle does not know the prompt."""


def reader(oracle: Literal["sandbox"] | None) -> Reader | None:
    """The oracle of that name, if any."""
    return sandbox if oracle == "sandbox" else None


def faults(oracle: Literal["sandbox"] | None) -> tuple[str, ...]:
    """The faults that an oracle tells apart, named as the principles against them."""
    if oracle is None:
        return ()
    from rlaif.sandbox.world import PRINCIPLES

    return PRINCIPLES


def sandbox(prompt: Prompt, text: str) -> dict[str, Any]:
    """What the sandbox's oracle reads; `helpful` is None on a harmful request."""
    from rlaif.errors import DataError
    from rlaif.sandbox import oracle

    try:
        asked = oracle.parse_request(prompt.messages[-1].content)
    except DataError:  # a prompt from elsewhere: real text, say, in a run on the sandbox
        return {}
    reading = oracle.read(asked, text)
    return {
        "violations": sorted(reading.violations),
        "helpful": reading.helpful,
        "well_formed": reading.well_formed,
        "flaws": sorted(reading.flaws),
    }
