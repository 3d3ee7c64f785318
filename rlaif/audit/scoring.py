"""How far a person's verdict agrees with what the AI said: 1 yes, 0 no, a half for a tie."""

from __future__ import annotations

from collections.abc import Mapping

PLACE = {"a": 1.0, "tie": 0.5, "both_bad": 0.5, "b": 0.0}


def score(kind: str, label: str, answers: Mapping[str, str]) -> float | None:
    """Agreement of blind answers, in the item's sides, with the AI's label; None: can't be judged.

    preference: 1 - |label - verdict| with a = 1, ties = 1/2, b = 0. critique: where the AI found no
    fault, whether the person does; where it revised, whether the revision (b) is the better one.
    """
    if kind == "preference":
        place = PLACE.get(answers.get("prefer", ""))
        return None if place is None else 1.0 - abs(PLACE[label] - place)
    if label == "no_fault":
        return {"no": 1.0, "yes": 0.0}.get(answers.get("violated", ""))
    place = PLACE.get(answers.get("better", ""))
    return None if place is None else 1.0 - place


def question(kind: str, label: str) -> str:
    """The answer that `score` reads."""
    if kind == "preference":
        return "prefer"
    return "violated" if label == "no_fault" else "better"


def same(verdict: str) -> str:
    """A verdict without the shades that make no difference."""
    return {"both_bad": "tie", "unsure": "cant"}.get(verdict, verdict)


def turned(verdict: str, left: str) -> str:
    """left and right as the item's sides, or the other way about; the rest as it is."""
    sides = {"left": left, "right": "b" if left == "a" else "a"}
    back = {side: word for word, side in sides.items()}
    return sides.get(verdict) or back.get(verdict) or verdict
