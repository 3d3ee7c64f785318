"""The JSON files that Bai et al. released with their paper, as a constitution.

The paper keeps critiques, comparisons and few-shot dialogues in separate lists. A critique request
and its revision request become one principle without a question for the judge; a comparison becomes
one with nothing but that question. "Human:", "CritiqueRequest:" and "Options:" around the texts are
left away: here they are the templates' business.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlaif.constitution.schema import (
    Constitution,
    CritiqueExample,
    Examples,
    PreferExample,
    Principle,
)
from rlaif.errors import DataError
from rlaif.records import Message

_MARKS = r"(Human|Assistant|CritiqueRequest|Critique|RevisionRequest|Revision)"
_OPTION = r"\(%s\) \[\[\[(.*?)\]\]\]"
_ROLES = {"Human": "user", "H": "user", "Assistant": "assistant", "A": "assistant"}


@dataclass(slots=True)
class Imported:
    """What was found so far; `left_out` says what has no place in a constitution, and why."""

    principles: list[Principle] = field(default_factory=list)
    critique: list[CritiqueExample] = field(default_factory=list)
    prefer: list[PreferExample] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def constitution(self, id: str) -> Constitution:
        """All of it as one constitution."""
        return Constitution(
            id=id,
            version="1",
            title="Imported from the files of Bai et al. (2022)",
            principles=tuple(self.principles),
            examples=Examples(critique=tuple(self.critique), prefer=tuple(self.prefer)),
        )


def import_files(paths: Sequence[Path]) -> Imported:
    """Read files of instructions and of few-shot dialogues, told apart by their shape.

    Raises:
        DataError: a file is none of the paper's, or there are dialogues but no principles.
    """
    contents = [(path, _read(path)) for path in paths]
    found = Imported()
    for path, content in sorted(contents, key=lambda pair: _is_dialogues(pair[1])):
        try:
            _add(content, found)
        except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
            why = f"{type(error).__name__} {error}"
            if isinstance(error, ValidationError):
                why = error.errors()[0]["msg"]
            what = f"this is not one of the paper's files: {why}"
            remedy = "give *Instructions.json, and *FewShotPrompts.json if you like"
            raise DataError(what, where=str(path), remedy=remedy) from error
    if not found.principles:
        where, remedy = ", ".join(map(str, paths)), "add a file of instructions"
        raise DataError("no principles are in these files", where=where, remedy=remedy)
    return found


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        what, remedy = f"this is not a JSON file: {error}", "check the path"
        raise DataError(what, where=str(path), remedy=remedy) from error


def _is_dialogues(content: Any) -> bool:
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, dict) or (isinstance(first, str) and "\n\nCritique:" in first)


def _add(content: Any, found: Imported) -> None:
    if isinstance(content, dict):
        found.principles += _critiques(content)
    elif not _is_dialogues(content):
        before = sum(not principle.critique for principle in found.principles)
        found.principles += _comparisons(content, before)
    elif isinstance(content[0], str):
        for number, text in enumerate(content):
            _add_critique_example(number, text, found)
    else:
        if not (judges := [p.id for p in found.principles if p.prefer]):
            raise ValueError("there is no comparison that these dialogues could belong to")
        for number, entry in enumerate(content):
            found.prefer.append(_prefer_example(judges[number % len(judges)], entry))


def _critiques(content: dict[str, Any]) -> Iterator[Principle]:
    for id, entry in content.items():
        yield Principle(
            id=re.sub(r"[^a-z0-9]+", "-", id.lower()).strip("-"),
            critique=tuple(_bare(text, "CritiqueRequest", "Critique") for text in entry["prompt"]),
            revise=(_bare(entry["edit_request"], "RevisionRequest", "Revision"),),
            prefer=(),
        )


def _comparisons(content: list[str], before: int) -> Iterator[Principle]:
    for number, text in enumerate(content, before):
        question = text.strip().removesuffix("Options:").strip()
        yield Principle(id=f"compare{number}", critique=(), revise=(), prefer=(question,))


def _bare(text: str, before: str, after: str) -> str:
    return text.strip().removeprefix(f"{before}:").removesuffix(f"{after}:").strip()


def _add_critique_example(number: int, text: str, found: Imported) -> None:
    """A dialogue belongs to the principle whose critique request it quotes."""
    _, *parts = re.split(rf"\n\n{_MARKS}:", text)
    turns = [(mark, body.strip()) for mark, body in zip(parts[::2], parts[1::2], strict=True)]
    said = dict(turns)
    talk = [(mark, body) for mark, body in turns if mark in _ROLES and body]
    owner = next((p.id for p in found.principles if said["CritiqueRequest"] in p.critique), None)
    if owner is None:
        found.left_out.append(f"critique dialogue {number}: its request is no principle's")
        return
    example = CritiqueExample(
        principle=owner,
        conversation=_messages(talk[:-1]),
        response=talk[-1][1],
        critique=said["Critique"],
        revision=said["Revision"],
    )
    found.critique.append(example)


def _prefer_example(principle: str, entry: dict[str, Any]) -> PreferExample:
    """The paper fills in any comparison here; we spread the dialogues over the principles."""
    if "corrects" in entry:
        _, *parts = re.split(r"\n\n(Human|Assistant):", entry["prompt"])
        talk = zip(parts[::2], parts[1::2], strict=True)
        better, worse = entry["corrects"][0], entry["incorrects"][0]
        reasoning = ""
    else:
        asked, answer = entry["prompt"].split("\n\nAssistant:", 1)
        _, *parts = re.split(r"\n\n([HA]):", asked.split("\n\n{}")[0])
        talk = zip(parts[::2], parts[1::2], strict=True)
        options = [re.findall(_OPTION % letter, asked, re.DOTALL)[0] for letter in "AB"]
        better, worse = options if answer.rstrip().endswith("(A)") else reversed(options)
        reasoning = answer.split("\n\nHuman:")[0].partition("step by step:")[2].strip()
    return PreferExample(
        principle=principle,
        conversation=_messages([(mark, body) for mark, body in talk if body.strip()]),
        better=better,
        worse=worse,
        reasoning=reasoning,
    )


def _messages(turns: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
    return tuple(Message(_ROLES[mark], body.strip()) for mark, body in turns)  # type: ignore[arg-type]
