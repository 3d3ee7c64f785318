"""From a row of a source to a conversation that ends with the user's turn, or the reason why not.

Nothing is shortened. Texts stay as they are; only a transcript's turns lose the white space around
them, which belongs to its format.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast, get_args

from rlaif.config.run import SourceConfig
from rlaif.records import Message, Role

SPLITS = {"train": "train"} | dict.fromkeys(("heldout", "test", "validation"), "heldout")
_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_ROLES: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}


class Why(StrEnum):
    """Why a row gives no prompt."""

    NO_COLUMN = "no_column"  # the row does not have the prompt's column
    NOT_TEXT = "not_text"  # neither a text nor a list of messages
    NOT_A_TRANSCRIPT = "not_a_transcript"  # no "Human:" turn, or text before the first turn
    EMPTY = "empty"  # no turn, or a turn without text
    BAD_ROLES = "bad_roles"  # turns that don't alternate, or don't end with the user's
    OVERSIZED = "oversized"  # longer than max_chars
    BAD_ID = "bad_id"  # an id that is neither a text nor a number
    BAD_TAGS = "bad_tags"  # tags that are no texts
    UNKNOWN_SPLIT = "unknown_split"  # a split that is not one of SPLITS
    DUPLICATE = "duplicate"  # the same messages as an earlier row


class Unfit(Exception):
    """A row that gives no prompt."""

    def __init__(self, why: Why, detail: str) -> None:
        self.why, self.detail = why, detail
        super().__init__(detail)


@dataclass(frozen=True, slots=True)
class Item:
    """What a row says; `id` and `split` are "" where it does not say them."""

    messages: tuple[Message, ...]
    id: str
    tags: tuple[str, ...]
    split: str


def item(source: SourceConfig, row: dict[str, Any], max_chars: int) -> Item:
    """The conversation of a row, with what the row says about it.

    Raises:
        Unfit: the row gives no prompt.
    """
    if source.column not in row:
        have = ", ".join(map(str, row)) or "none"
        raise Unfit(Why.NO_COLUMN, f"no column {source.column!r}; its columns are: {have}")
    value = row[source.column]
    messages = dialogue(value) if source.format == "transcript" else conversation(value)
    _check(messages, max_chars)
    id, tags, split = (
        row.get(column) if column else None
        for column in (source.id_column, source.tags_column, source.split_column)
    )
    return Item(messages, _id(id), _tags(source, tags), _split(split))


def dialogue(value: object) -> tuple[Message, ...]:
    """A dialogue up to the user's last turn: what the assistant says after it is dropped.

    It is a list of messages, or a text as HH-RLHF has them: a turn begins with "Human:" or
    "Assistant:" after a blank line; the words elsewhere are text.
    """
    turns = list(_transcript(value) if isinstance(value, str) else conversation(value))
    while turns and turns[-1].role == "assistant":
        turns.pop()
    return tuple(turns)


def _transcript(text: str) -> Iterator[Message]:
    before, *parts = _TURN.split(text)
    if before.strip() or not parts:
        raise Unfit(Why.NOT_A_TRANSCRIPT, 'it does not begin with "Human:"')
    for who, said in zip(parts[::2], parts[1::2], strict=True):
        yield Message(_ROLES[who], said.strip())


def conversation(value: object) -> tuple[Message, ...]:
    """A text as one user turn, or a list of {"role": ..., "content": ...} as it is."""
    if isinstance(value, str):
        return (Message("user", value),)
    if not isinstance(value, list):
        raise Unfit(Why.NOT_TEXT, f"neither a text nor a list of messages, but {_kind(value)}")
    return tuple(_message(turn) for turn in value)


def _message(turn: object) -> Message:
    role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (0, 0)
    if not isinstance(role, str) or not isinstance(content, str):
        raise Unfit(Why.NOT_TEXT, 'a message is not {"role": a text, "content": a text}')
    if role not in get_args(Role):
        raise Unfit(Why.BAD_ROLES, f"a role is {role[:40]!r}, not {', '.join(get_args(Role))}")
    return Message(cast(Role, role), content)


def _check(messages: tuple[Message, ...], max_chars: int) -> None:
    """Unfit unless it is (system) user (assistant user)*, with text in each, and not too long."""
    if not messages or not all(message.content.strip() for message in messages):
        raise Unfit(Why.EMPTY, "a turn has no text" if messages else "it has no turn")
    roles = [message.role for message in messages]
    turns = roles[roles[0] == "system" :]
    if not turns or turns[-1] != "user":
        remedy = "; `format: transcript` drops the answer at the end" * (roles[-1] == "assistant")
        raise Unfit(Why.BAD_ROLES, "it does not end with the user's turn" + remedy)
    if turns != (["user", "assistant"] * len(turns))[: len(turns)]:
        raise Unfit(Why.BAD_ROLES, f"turns do not alternate: {' '.join(roles[:20])}")
    if (chars := sum(len(message.content) for message in messages)) > max_chars:
        raise Unfit(Why.OVERSIZED, f"{chars:,} characters; max_chars is {max_chars:,}")


def _id(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        what = f"an id is a text or a whole number, this is {_kind(value)}; see `id_column`"
        raise Unfit(Why.BAD_ID, what)
    return str(value)


def _tags(source: SourceConfig, value: object) -> tuple[str, ...]:
    own = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(own, list) or not all(isinstance(tag, str) for tag in own):
        raise Unfit(Why.BAD_TAGS, f"tags are texts, these are {_kind(value)}; see `tags_column`")
    return tuple(dict.fromkeys([*source.tags, *own]))


def _split(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str) and value in SPLITS:
        return SPLITS[value]
    what = f"split is {str(value)[:40]!r}, not {', '.join(SPLITS)}; see `split_column`"
    raise Unfit(Why.UNKNOWN_SPLIT, what)


def _kind(value: object) -> str:
    names = {
        list: "a list", dict: "an object", str: "an empty text", bool: "true or false",
        int: "a number", float: "a number with a fraction",
    }  # fmt: skip
    return "null" if value is None else names.get(type(value), f"of type {type(value).__name__}")
