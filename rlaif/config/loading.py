"""From a YAML file to a `RunConfig`: every problem at once, each at its place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from rlaif.config.run import RunConfig
from rlaif.documents import (
    NULLS,
    DocumentError,
    Mapping,
    Mark,
    Node,
    Problem,
    Sequence,
    Text,
    data,
    did_you_mean,
    is_afterthought,
    locate,
    nearest,
    parse_value,
    quote,
    read,
)

_SENTENCES = {
    "tuple_type": ("is not a list", "write [...], or `- ` before each of its values"),
    "model_type": ("is not a section", "write `key: value` lines below it, or leave it out"),
    "dict_type": ("is not a section", "write `key: value` lines below it, or leave it out"),
}


def load(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a run's config; `overrides` are `section.key=value`, as `--set` has them: a text, or
    `[...]` or `{...}` as in the file.

    Raises:
        DocumentError: it cannot be used; a ConfigError that lists every problem with its place.
    """
    path, problems = Path(path), []
    return validated(read(path, problems), path.parent, overrides, problems)


def validated(
    root: Mapping | None, folder: Path, overrides: Iterable[str], problems: list[Problem]
) -> RunConfig:
    """As `load`, for a tree that was read with these problems; paths start from `folder`."""
    config = None
    if root is not None:
        for override in sorted(overrides, key=lambda o: ".kind=" not in o):  # kinds come first
            _set(root, override, problems)
        try:
            config = RunConfig.model_validate(data(root), context={"folder": folder})
        except ValidationError as error:
            problems += [
                _explained(detail, root)
                for detail in error.errors(include_url=False)
                if not is_afterthought(detail["type"], detail["loc"], root)
            ]
    if config is None or problems:
        raise DocumentError(sorted(set(problems), key=lambda p: (p.mark.line, p.mark.column)))
    return config


def _set(root: Mapping, override: str, problems: list[Problem]) -> None:
    """Put one override into the tree, as if the file had said it."""
    mark = Mark(f"--set {override}", 1, 1)
    keys, equals, value = override.partition("=")
    *sections, key = keys.split(".")
    if not equals or not key:
        problems.append(Problem(mark, "this sets nothing", "write --set section.key=value"))
        return
    node = root
    for section in sections:
        inner = node.entries.get(section)
        if isinstance(inner, Sequence):
            whole = keys[: keys.index(f"{section}.") + len(section)]
            what = f"`{whole}` is a list, whose items cannot be set one by one"
            problems.append(Problem(mark, what, f"write the whole list: --set {whole}=[...]"))
            return
        if not isinstance(inner, Mapping):
            inner = node.entries[section] = Mapping(mark)
            node.keys[section] = mark
        node = inner
    if key == "kind":
        _leave_to_other_kinds(node, (*sections, value))
    said: Node | None = Text(mark, None if value and value in NULLS else value)
    if value.startswith(("[", "{")):
        said = parse_value(" " * len(keys + equals) + value, mark.path, problems)
    if said:
        node.entries[key], node.keys[key] = said, mark


def _leave_to_other_kinds(section: Mapping, loc: tuple[str, ...]) -> None:
    """A section that becomes another kind keeps of the file what that kind knows, and mistakes."""
    every, ours = ({f for m in _models_at(at) for f in m.model_fields} for at in (loc[:-1], loc))
    for name in [name for name in section.entries if ours and name in every - ours]:
        del section.entries[name], section.keys[name]


def _explained(detail: ErrorDetails, root: Mapping) -> Problem:
    loc, kind = detail["loc"], detail["type"]
    node, key = locate(root, loc)
    name = ".".join(_names(loc, root)) or "the file"
    if kind == "extra_forbidden":
        known = [field for model in _models_at(loc[:-1]) for field in model.model_fields]
        remedy = did_you_mean(str(loc[-1]), known) or "the keys here are " + ", ".join(known)
        return Problem(key, f"the key {quote(str(loc[-1]))} is unknown", remedy)
    last = loc[-1] if loc else ""
    if kind == "missing" and isinstance(last, str):
        missing = f"{name}.{last}" if len(loc) > 1 else last
        return Problem(node.mark, f"`{missing}` is missing", f"add `{last}: ...`")
    shown = f" ({quote(node.value)})" if isinstance(node, Text) and node.value else ""
    if kind.startswith("union_tag"):
        return _of_no_kind(detail, node, name)
    if kind in _SENTENCES:
        what, remedy = _SENTENCES[kind]
        if kind == "tuple_type" and isinstance(node, Text) and node.value:
            remedy = f"write [{node.value}]"
        return Problem(node.mark, f"`{name}`{shown} {what}", remedy)
    msg = "a value is missing" if kind == "missing" else detail["msg"]
    said = msg.removeprefix("Value error, ").removeprefix("Input ")
    said = said[:1].lower() + said[1:]
    meaning = _meaning(loc)
    return Problem(node.mark, f"`{name}`{shown}: {said}", meaning or "correct the value")


def _of_no_kind(detail: ErrorDetails, node: Node, name: str) -> Problem:
    """What is wrong with a section that does not say, as it has to, of which kind it is."""
    models = _models_at(detail["loc"])
    kinds = [kind for model in models for kind in get_args(model.model_fields["kind"].annotation)]
    said = detail.get("ctx", {}).get("tag") or (node.value if isinstance(node, Text) else None)
    shown = f" ({quote(said)})" if said else ""
    example = (nearest(said, kinds) if said else None) or kinds[0]
    remedy = f"write `{name}: {{kind: {example}}}`; the kinds are {', '.join(kinds)}"
    return Problem(node.mark, f"`{name}`{shown}: this is no section of a known kind", remedy)


def _meaning(loc: tuple[int | str, ...]) -> str:
    """What the config says of the field at `loc`."""
    for n in reversed(range(len(loc))):
        for model in _models_at(loc[:n]):
            if field := model.model_fields.get(str(loc[n])):
                said = " ".join((field.description or "").split())
                return said and f"it means: {said}"
    return ""


def _names(loc: tuple[int | str, ...], root: Mapping) -> Iterator[str]:
    """The keys of the file on the way to `loc`, without the kinds of unions that pydantic adds."""
    node: Node = root
    for step in loc:
        match node:
            case Mapping(entries=entries) if step in entries:
                node = entries[str(step)]
                yield str(step)
            case Sequence(items=items) if isinstance(step, int) and step < len(items):
                node = items[step]
            case _:
                pass


def _models_at(loc: tuple[int | str, ...]) -> list[type[BaseModel]]:
    """The sections that a place in the config can hold."""
    here: list[type[BaseModel]] = [RunConfig]
    for step in loc:
        fields = [m.model_fields[step] for m in here if step in m.model_fields]  # pyright: ignore
        if fields:
            here = [m for field in fields for m in _models((field.annotation, *field.metadata))]
        elif isinstance(step, str):  # which kind of a union
            here = [m for m in here if step in get_args(m.model_fields["kind"].annotation)]
    return here


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in annotation if isinstance(annotation, tuple) else get_args(annotation):
        yield from _models(part)
