"""YAML text as a tree in which everything knows its place, and nothing is guessed.

Only the part of YAML that a constitution or a run's config needs is accepted: mappings, lists and
text. Anchors, aliases, tags, duplicate keys and characters that a reviewer cannot see are refused.
A plain scalar is always its own text, so that `no`, `on`, `1.0` and `2026-01-01` are the strings
that were typed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from rlaif.errors import ConfigError

MAX_BYTES = 1 << 20
MAX_DEPTH = 16
MAX_NODES = 20_000
MAX_PROBLEMS = 50

NULLS = {"", "~", "null", "Null", "NULL"}
_HIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # controls, NEL
    "\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"  # bidi, zero width, separators, BOM
    "\xad\u115f\u1160\u3164\uffa0"  # the soft hyphen, Hangul fillers
    "\ufff9-\ufffb\ufffe\uffff"  # annotations, no characters
    "\U000e0000-\U000e007f\U000e0100-\U000e01ef]"  # tag characters, variation selectors
)
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file, or in a text with a name; line and column count characters from 1."""

    path: Path | str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a file, where, and what to do about it."""

    mark: Mark
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.mark}: {self.what}\n  remedy: {self.remedy}"


class DocumentError(ConfigError):
    """A file that cannot be used; `problems` holds all that was found, in file order."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(problems[:MAX_PROBLEMS])
        self.unlisted = len(problems) - len(self.problems)
        first = self.problems[0]
        super().__init__(first.what, where=str(first.mark), remedy=first.remedy)

    def __str__(self) -> str:
        listed = "\n".join(map(str, self.problems))
        return f"{listed}\n({self.unlisted} more)" if self.unlisted else listed


@dataclass(frozen=True, slots=True)
class Text:
    """A scalar; `value` is None where the file says null or nothing at all."""

    mark: Mark
    value: str | None


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list of nodes."""

    mark: Mark
    items: list[Node] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Mapping:
    """Nodes by key; `keys` holds the place of each key."""

    mark: Mark
    entries: dict[str, Node] = field(default_factory=dict)
    keys: dict[str, Mark] = field(default_factory=dict)

    def text(self, key: str) -> str | None:
        """The text under a key, or None where there is none."""
        node = self.entries.get(key)
        return node.value if isinstance(node, Text) else None

    def items(self, key: str) -> list[Node]:
        """The list under a key, or an empty one."""
        node = self.entries.get(key)
        return node.items if isinstance(node, Sequence) else []


Node = Text | Sequence | Mapping


def quote(text: str) -> str:
    """A text as an error message may show it: short, and with nothing hidden."""
    short = text if len(text) <= 60 else text[:57] + "..."
    return "'" + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in short) + "'"


def data(node: Node) -> object:
    """The tree as plain lists, dicts, strings and None."""
    match node:
        case Text():
            return node.value
        case Sequence():
            return [data(item) for item in node.items]
        case Mapping():
            return {key: data(value) for key, value in node.entries.items()}


def locate(root: Mapping, loc: tuple[int | str, ...]) -> tuple[Node, Mark]:
    """The deepest node on the way to a pydantic error, and the place of the key that led to it."""
    node: Node = root
    mark = root.mark
    for step in loc:
        match node:
            case Mapping(entries=entries, keys=keys) if step in entries:
                node, mark = entries[str(step)], keys[str(step)]
            case Sequence(items=items) if isinstance(step, int) and step < len(items):
                node = items[step]
                mark = node.mark
            case _:  # the kind of a union, or what is missing
                pass
    return node, mark


def is_afterthought(kind: str, loc: tuple[int | str, ...], root: Mapping) -> bool:
    """Whether pydantic calls a list too short because all that is in it is wrong."""
    node, _ = locate(root, loc)
    return kind == "too_short" and isinstance(node, Sequence) and bool(node.items)


def nearest(word: str, known: Collection[str]) -> str | None:
    """The known word that is most like this one, if any is."""
    return next(iter(difflib.get_close_matches(word[:64].lower(), sorted(known), n=1)), None)


def did_you_mean(word: str, known: Collection[str]) -> str:
    """The question that names the nearest known word, or nothing."""
    near = nearest(word, known)
    return f"did you mean `{near}`?" if near else ""


def line_of(mark: Mark) -> str | None:
    """The line that a mark points into, or None if the file has no such line to show."""
    try:
        with Path(mark.path).open("rb") as file:
            lines = file.read(MAX_BYTES).decode(errors="replace").split("\n")
    except OSError:
        return None
    return lines[mark.line - 1] if mark.line <= len(lines) and any(lines) else None


def read(path: Path, problems: list[Problem]) -> Mapping | None:
    """Read a file into a tree, adding what is wrong with it to `problems`.

    None means that there is nothing to go on with; `problems` then says why.
    """
    text = _decoded(path, problems)
    return None if text is None else parse(text, path, problems)


def parse(text: str, path: Path | str, problems: list[Problem]) -> Mapping | None:
    """As `read`, for text that is already at hand; `path` is used in messages only."""
    root = parse_value(text, path, problems)
    if root is None or isinstance(root, Mapping):
        return root
    what, remedy = "the file is not `key: value` lines", "write `key: value` lines"
    problems.append(Problem(root.mark, what, remedy))
    return None


def parse_value(text: str, path: Path | str, problems: list[Problem]) -> Node | None:
    """As `parse`, for a list or a text as well as for `key: value` lines."""
    hidden = _hidden_characters(text, path)
    problems += hidden
    if hidden:
        return None
    reader = _Reader(text, path, problems)
    try:
        return reader.document()
    except _TooMuch:
        return None
    except yaml.YAMLError as error:
        problems.append(_syntax_problem(error, path))
        return None


class _TooMuch(Exception):
    """Deeper or larger than any constitution; the problem is already noted."""


class _Reader:
    """Builds the tree from parser events, one document only."""

    def __init__(self, text: str, path: Path | str, problems: list[Problem]) -> None:
        self.path, self.problems = path, problems
        self.events: Iterator[yaml.Event] = yaml.parse(text, Loader=_Loader)
        self.nodes = 0

    def document(self) -> Node | None:
        root: Node | None = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    self.note(event, "a second YAML document starts here", "keep one per file")
                    return None
                root = self.node(next(self.events), depth=0)
        if root is None:
            start, remedy = Mark(self.path, 1, 1), "write `key: value` lines"
            self.problems.append(Problem(start, "the file is empty", remedy))
        return root

    def node(self, event: yaml.Event, depth: int) -> Node:
        self.nodes += 1
        if depth > MAX_DEPTH or self.nodes > MAX_NODES:
            limit = f"{MAX_DEPTH} levels deep" if depth > MAX_DEPTH else f"{MAX_NODES:,} values"
            self.note(
                event, f"the file has more than {limit}", "look for a stray bracket; split it"
            )
            raise _TooMuch
        self.refuse_cleverness(event)
        match event:
            case yaml.SequenceStartEvent():
                return self.sequence(event, depth)
            case yaml.MappingStartEvent():
                return self.mapping(event, depth)
            case yaml.ScalarEvent():
                return self.scalar(event)
            case _:  # an alias, noted above
                return Text(self.mark(event), None)

    def scalar(self, event: yaml.ScalarEvent) -> Text:
        if found := _HIDDEN.search(event.value):
            self.note(event, f"the text holds {_named(found[0])}, seen by nobody", "remove it")
        null = not event.style and event.value in NULLS
        return Text(self.mark(event), None if null else event.value)

    def sequence(self, event: yaml.Event, depth: int) -> Sequence:
        node = Sequence(self.mark(event))
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            node.items.append(self.node(event, depth + 1))
        return node

    def mapping(self, event: yaml.Event, depth: int) -> Mapping:
        node = Mapping(self.mark(event))
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            mark, key = self.mark(event), self.node(event, depth + 1)
            value = self.node(next(self.events), depth + 1)
            if not isinstance(key, Text) or key.value is None:
                self.note(event, "this key is not a word", "write `key: value`")
            elif key.value in node.entries:
                first = node.keys[key.value].line
                what = f"the key {quote(key.value)} is here twice; it is first on line {first}"
                self.note(event, what, "remove one of the two, or rename it")
            else:
                node.entries[key.value], node.keys[key.value] = value, mark
        return node

    def refuse_cleverness(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.AliasEvent):
            self.note(
                event,
                f"an alias ({quote('*' + event.anchor)}) is not allowed",
                "write the text out",
            )
        elif anchor := getattr(event, "anchor", None):
            self.note(event, f"an anchor ({quote('&' + anchor)}) is not allowed", "remove it")
        if tag := getattr(event, "tag", None):
            self.note(event, f"a YAML tag ({quote(tag)}) is not allowed", "remove it")

    def mark(self, event: yaml.Event) -> Mark:
        return Mark(self.path, event.start_mark.line + 1, event.start_mark.column + 1)

    def note(self, event: yaml.Event, what: str, remedy: str) -> None:
        self.problems.append(Problem(self.mark(event), what, remedy))


def _decoded(path: Path, problems: list[Problem]) -> str | None:
    """The text of a file that is small enough and in UTF-8."""
    start = Mark(path, 1, 1)
    try:
        if not path.is_file():
            what = "this is not a file" if path.exists() else "there is no such file"
            problems.append(Problem(start, what, "check the path"))
            return None
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        what = f"the file cannot be read: {error}"
        problems.append(Problem(start, what, "check the path and your rights"))
        return None
    if len(raw) > MAX_BYTES:
        problems.append(Problem(start, "the file is larger than 1 MiB", "split it with `extends`"))
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode()
        what = f"byte 0x{raw[error.start]:02x} is not UTF-8"
        problems.append(Problem(_place(path, before, len(before)), what, "save the file as UTF-8"))
        return None


def _hidden_characters(text: str, path: Path | str) -> list[Problem]:
    """A problem for each character that a reviewer would not see."""
    found = []
    for match in _HIDDEN.finditer(text):
        what = f"here is {_named(match[0])}, a character that nobody can see"
        found.append(Problem(_place(path, text, match.start()), what, "remove it"))
        if len(found) > MAX_PROBLEMS:
            break
    return found


def _place(path: Path | str, text: str, index: int) -> Mark:
    line = text.count("\n", 0, index) + 1
    return Mark(path, line, index - (text.rfind("\n", 0, index) + 1) + 1)


def _named(character: str) -> str:
    name = {"\ufeff": "a byte order mark", "\x00": "a NUL"}.get(character, "the code point")
    return f"{name} (U+{ord(character):04X})"


def _syntax_problem(error: yaml.YAMLError, path: Path | str) -> Problem:
    """What the parser could not read, in its words, with a remedy for the usual slips."""
    place = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    mark = Mark(path, place.line + 1, place.column + 1) if place else Mark(path, 1, 1)
    said = str(getattr(error, "problem", None) or error)
    remedy = "check the indentation and the quotes of this line and of the one before"
    if "mapping values are not allowed" in said:
        remedy = "a text with a colon in it wants quotes, or a block that starts with `>-`"
    elif "cannot start any token" in said or "tab character" in said:
        remedy = "indent with spaces, not tabs; quote a text that starts with this character"
    return Problem(mark, f"this is not YAML: {said}", remedy)
