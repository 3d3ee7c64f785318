"""The errors of the schema, in words that a person can act on, each at its place in the file."""

from __future__ import annotations

from collections.abc import Collection

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from rlaif.constitution.schema import (
    Constitution,
    CritiqueExample,
    Examples,
    PreferExample,
    Principle,
)
from rlaif.documents import (
    MAX_PROBLEMS,
    Mapping,
    Node,
    Problem,
    Text,
    did_you_mean,
    is_afterthought,
    locate,
    quote,
)

_MODELS: dict[tuple[str, ...], type[BaseModel]] = {
    (): Constitution,
    ("principles",): Principle,
    ("examples",): Examples,
    ("examples", "critique"): CritiqueExample,
    ("examples", "prefer"): PreferExample,
}
_SENTENCES = {
    "float_parsing": ("is not a number", "write a number such as 1.0"),
    "float_type": ("is not a number", "write a number such as 1.0"),
    "finite_number": ("is not a finite number", "write a number such as 1.0"),
    "greater_than_equal": ("is below 0", "write 0 to switch a principle off"),
    "string_type": ("is not a text", "write a text; put quotes around it if in doubt"),
    "string_too_short": ("is empty", "write a text, or leave the key out"),
    "tuple_type": ("is not a list", "write `- ` before each of its values"),
    "too_short": ("is empty", "list at least one"),
    "string_too_long": ("is longer than 64 characters", "shorten it"),
    "string_pattern_mismatch": (
        "is not an id",
        "write lower-case letters, digits and single hyphens, such as no-insults",
    ),
    "model_type": ("is not a mapping", "write `key: value` lines"),
}


def explain(
    error: ValidationError, root: Mapping, inherited: Collection[str], *, noted: bool
) -> list[Problem]:
    """Each error of a tree; `inherited` ids help to tell an override from a new principle.

    What the schema says of the constitution as a whole is left out where problems are `noted`
    already: it is one of those, without a place.
    """
    problems = []
    for detail in error.errors(include_url=False, include_input=False)[: MAX_PROBLEMS + 1]:
        overall = detail["type"] == "rlaif" and not detail["loc"]
        if not ((overall and noted) or is_afterthought(detail["type"], detail["loc"], root)):
            problems.append(_explained(detail, root, inherited))
    return problems


def _explained(detail: ErrorDetails, root: Mapping, inherited: Collection[str]) -> Problem:
    loc, kind, context = detail["loc"], detail["type"], detail.get("ctx", {})
    node, key = locate(root, loc)
    mark, text = node.mark, node.value if isinstance(node, Text) else None
    what = f"`{_name(loc)}`" + (f" ({quote(text)})" if text else "")
    if kind == "extra_forbidden":
        return Problem(key, f"the key {quote(str(loc[-1]))} is unknown", _known_key(loc))
    if kind == "missing":
        return Problem(mark, *_missing(node, loc, inherited))
    if kind == "rlaif":
        return Problem(mark, context["what"], context["remedy"])
    if isinstance(node, Text) and text is None:
        return Problem(key, f"`{_name(loc)}` has no value", "write one after the colon")
    sentence, remedy = _SENTENCES.get(kind, (f"is wrong: {detail['msg']}", "correct the value"))
    return Problem(mark, f"{what} {sentence}", remedy)


def _missing(node: Node, loc: tuple[int | str, ...], inherited: Collection[str]) -> tuple[str, str]:
    """Whose key is missing, and how to mend that."""
    key, remedy = loc[-1], f"add `{loc[-1]}: ...`"
    if loc[0] != "principles" or len(loc) == 1:
        return f"{'this example' if len(loc) > 1 else 'the constitution'} has no `{key}`", remedy
    id = node.text("id") if isinstance(node, Mapping) else None
    what = f"{f'the principle {quote(id)}' if id else 'this principle'} has no `{key}`"
    if id and (near := did_you_mean(id, inherited)):
        return what, f"{near} If it is new, {remedy}"
    absent = f", or `{key}: []` if the principle is not for that" if key != "id" else ""
    return what, remedy + absent


def _name(loc: tuple[int | str, ...]) -> str:
    """The last key on the way to a value: weight, or critique for its second paraphrase."""
    return next((str(step) for step in reversed(loc) if isinstance(step, str)), "the file")


def _known_key(loc: tuple[int | str, ...]) -> str:
    """What to do about an unknown key: the nearest known one, or all of them."""
    model = _MODELS.get(tuple(step for step in loc[:-1] if isinstance(step, str)))
    known = [*model.model_fields, *(("extends", "drop") if len(loc) == 1 else ())] if model else []
    return did_you_mean(str(loc[-1]), known) or "the keys here are " + ", ".join(known)
