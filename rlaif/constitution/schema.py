"""What a constitution is: the schema of the YAML file, and the digests of what it means.

A principle's digest covers its wordings, for these are all that a model reads of it. The digest of
a constitution covers whatever can change a run: the principles with their ids, weights, tags and
`applies_to`, and the examples; not its id, version, title and description, nor the order in which
principles are listed.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from rlaif.records import Message

Wording = Literal["critique", "revise", "prefer"]
WORDINGS: tuple[Wording, ...] = ("critique", "revise", "prefer")


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _turns(value: object) -> object:
    """`Hello` and `[user: Hello, assistant: Hi, user: ...]` as messages."""
    if isinstance(value, str):
        if not value.strip():
            raise _wrong("the conversation is empty", "write what the user asks")
        return (Message("user", value.strip()),)
    if not isinstance(value, list):
        return value
    return tuple(_turn(turn) for turn in value)


def _turn(turn: object) -> object:
    if isinstance(turn, Message):
        return turn
    if isinstance(turn, dict) and len(turn) == 1:
        ((role, content),) = turn.items()
        if role in ("system", "user", "assistant") and isinstance(content, str) and content.strip():
            return Message(role, content.strip())
    raise _wrong("a turn is not `user: text` or `assistant: text`", "write `- user: Hello`")


def _wrong(what: str, remedy: str) -> PydanticCustomError:
    return PydanticCustomError("rlaif", "{what}", {"what": what, "remedy": remedy})


def _digest(content: object) -> str:
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


Id = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=64)]
Prose = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Wordings = Annotated[
    tuple[Prose, ...], BeforeValidator(_listed, json_schema_input_type=Prose | list[Prose])
]
Tags = Annotated[
    tuple[Prose, ...], BeforeValidator(_listed, json_schema_input_type=Prose | list[Prose])
]
Conversation = Annotated[
    tuple[Message, ...],
    BeforeValidator(_turns, json_schema_input_type=Prose | list[dict[str, Prose]]),
]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Principle(_Part):
    """One rule of behaviour, as it is put to a critic, a reviser and a judge."""

    id: Id
    """Stable name, such as no-insults: results, audits and diffs refer to it, and it decides which
    items meet the principle."""
    critique: Wordings
    """Asks for a critique of a response. One text, or a list of paraphrases; `[]` if the principle
    takes no part in critiques."""
    revise: Wordings
    """Asks for a better response. One text, or a list of paraphrases; `[]` if the principle
    takes no part in revisions."""
    prefer: Wordings
    """Asks a judge which of two responses is better. One text, or a list of paraphrases; `[]` if
    the principle is not for the judge."""
    weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """How often the principle is chosen, relative to the others. 0 switches it off."""
    tags: Tags = ()
    """Labels that reports group by, such as harmless or helpful."""
    applies_to: Tags = ()
    """Prompt tags: only prompts with one of these meet the principle. Empty means every prompt."""

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if not (self.critique or self.revise or self.prefer):
            raise _wrong("no wording says anything", "write `critique`, `revise` or `prefer`")
        if self.critique and not self.revise:
            raise _wrong("`critique` asks, but `revise` is empty", "write `revise`")
        for name in WORDINGS:
            if len(set(self.wordings(name))) < len(self.wordings(name)):
                raise _wrong(f"`{name}` says the same thing twice", "remove one paraphrase")
        return self

    def wordings(self, name: Wording) -> tuple[str, ...]:
        """The paraphrases of one wording; empty if the principle takes no part in it."""
        return getattr(self, name)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what a model can read of the principle."""
        return _digest([self.wordings(name) for name in WORDINGS])


class _Example(_Part):
    principle: Id
    """The principle that the example shows at work."""
    conversation: Conversation
    """What was asked: one text, or a list of turns `- user: ...` and `- assistant: ...` that ends
    with the user's."""

    @model_validator(mode="after")
    def _ends_with_user(self) -> Self:
        if not self.conversation or self.conversation[-1].role != "user":
            raise _wrong("the conversation does not end with the user's turn", "add `- user: ...`")
        return self

    @property
    def name(self) -> str:
        """What it is known by, however its answers are edited: its principle and question."""
        return json.dumps([self.principle, *(turn.content for turn in self.conversation)])


class CritiqueExample(_Example):
    """A worked critique and revision, shown before the real question."""

    response: Prose
    """The assistant's flawed answer."""
    critique: Prose
    """A good critique of it."""
    revision: Prose
    """The answer as it should have been."""


class PreferExample(_Example):
    """A worked comparison, shown before the real question; the template's caller orders the two."""

    better: Prose
    """The response that the principle prefers."""
    worse: Prose
    """The other response."""
    reasoning: str = ""
    """Why, for judges that reason before they answer."""


class Examples(_Part):
    """Few-shot dialogues. A template puts them in the same form as the real question."""

    critique: tuple[CritiqueExample, ...] = ()
    """Shown to the critic and to the reviser."""
    prefer: tuple[PreferExample, ...] = ()
    """Shown to the judge."""

    @property
    def all(self) -> tuple[CritiqueExample | PreferExample, ...]:
        """The examples of every kind."""
        return (*self.critique, *self.prefer)


class Constitution(_Part):
    """The principles that a model is rebuilt to follow."""

    id: Id
    """Stable name of the constitution."""
    version: Annotated[Prose, WithJsonSchema({"type": ["string", "number"]})]
    """Version for people, such as 1.0. Digests, not versions, decide what is computed again."""
    title: str = ""
    """One line for reports."""
    description: str = ""
    """What the constitution is for, and what it leaves out."""
    principles: tuple[Principle, ...] = Field(min_length=1)
    """The principles; their order has no effect."""
    examples: Examples = Examples()
    """Few-shot dialogues for critiques, revisions and comparisons."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        ids = {principle.id for principle in self.principles}
        if len(ids) < len(self.principles):
            raise _wrong("two principles have the same id", "rename one of them")
        if unknown := {example.principle for example in self.examples.all} - ids:
            raise _wrong(f"no principle is called {sorted(unknown)}", "correct the examples")
        if not any(principle.weight for principle in self.principles):
            raise _wrong("every principle is switched off", "give one a weight above 0")
        return self

    def __getitem__(self, id: str) -> Principle:
        """The principle of that id; raises KeyError if there is none."""
        return self._by_id[id]

    @cached_property
    def _by_id(self) -> dict[str, Principle]:
        return {principle.id: principle for principle in self.principles}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that can change a run."""
        rules = [
            [p.id, p.digest, p.weight, sorted(set(p.tags)), sorted(set(p.applies_to))]
            for p in sorted(self.principles, key=lambda p: p.id)
        ]
        return _digest([rules, self.examples.model_dump(mode="json")])

    def without(self, *ids: str) -> Constitution:
        """The same constitution less some principles and their examples; for ablations.

        Raises:
            KeyError: there is no such principle.
        """
        gone = {self[id].id for id in ids}
        return Constitution(
            **self.model_dump(include={"id", "version", "title", "description"}),
            principles=tuple(p for p in self.principles if p.id not in gone),
            examples=Examples(
                critique=tuple(e for e in self.examples.critique if e.principle not in gone),
                prefer=tuple(e for e in self.examples.prefer if e.principle not in gone),
            ),
        )


def _on_one_line(schema: Any) -> Any:
    """The schema with the line breaks of our docstrings taken out of its descriptions."""
    if isinstance(schema, dict):
        return {key: _on_one_line(value) for key, value in schema.items()}
    if isinstance(schema, list):
        return [_on_one_line(item) for item in schema]
    return " ".join(schema.split()) if isinstance(schema, str) else schema


def json_schema() -> dict[str, Any]:
    """JSON Schema of a constitution file, for editors: `Constitution`, `extends` and `drop`."""
    schema = _on_one_line(Constitution.model_json_schema())
    override = dict(schema["$defs"]["Principle"], required=["id"], title="Override")
    principles = schema["properties"]["principles"]
    schema["properties"] |= {
        "extends": {"type": "string", "description": EXTENDS, "pattern": r"\.ya?ml$"},
        "drop": {"type": "array", "items": {"type": "string"}, "description": DROP},
    }
    schema["properties"]["principles"] = {"description": principles.pop("description")}
    schema["$defs"]["Override"] = override
    schema["required"].remove("principles")
    schema |= {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "if": {"required": ["extends"]},
        "then": {
            "properties": {"principles": {"type": "array", "items": {"$ref": "#/$defs/Override"}}}
        },
        "else": {"required": ["principles"], "properties": {"principles": principles}},
    }
    return schema


EXTENDS = (
    "Another constitution, by its path from this file. Its principles are inherited; one listed "
    "here under the same id replaces the keys that it gives."
)
DROP = "Ids of inherited principles that do not hold here. Their examples go with them."
