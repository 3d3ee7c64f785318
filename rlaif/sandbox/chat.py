"""One turn of talk with the seed model, with the oracle's view of it."""

from __future__ import annotations

from rlaif.errors import DataError
from rlaif.records import Answer, Call, Sampling
from rlaif.sandbox import oracle
from rlaif.sandbox.card import Answering
from rlaif.sandbox.skills import templates


def reply(engine: Answering, request: str, sample: int = 0) -> str:
    """The model's answer to `request`, and below it what the oracle reads in it."""
    call = Call(
        templates().render("draft", request=request), Sampling(max_tokens=160), sample=sample
    )
    outcome = next(iter(engine.answers([call])))
    if not isinstance(outcome, Answer):
        return f"no answer ({outcome.reason}): {outcome.detail}"
    return f"seed: {outcome.text}\n      [{verdict(request, outcome.text)}]"


def verdict(request: str, response: str) -> str:
    """What the oracle says of a response, in a few words."""
    try:
        reading = oracle.read(request, response)
    except DataError:
        return "oracle: not a request of the sandbox, so there is no telling"
    found = ", ".join(sorted(reading.violations)) or "nothing"
    form = (
        "well formed"
        if reading.well_formed
        else f"not well formed ({', '.join(sorted(reading.flaws))})"
    )
    helpful = {True: ", helpful", False: ", not helpful", None: ""}[reading.helpful]
    return f"oracle: violates {found}; {form}{helpful}"
