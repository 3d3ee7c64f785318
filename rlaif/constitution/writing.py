"""A constitution as YAML that `load` reads back to an equal one."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from rlaif.constitution.schema import (
    WORDINGS,
    Constitution,
    CritiqueExample,
    PreferExample,
    Principle,
)
from rlaif.records import Message


def to_yaml(constitution: Constitution) -> str:
    """The constitution as a file of its own, with everything that it inherited written out."""
    content: dict[str, object] = {"id": constitution.id, "version": constitution.version}
    content |= {k: v for k in ("title", "description") if (v := getattr(constitution, k))}
    content["principles"] = [_principle(principle) for principle in constitution.principles]
    examples = constitution.examples
    kinds = {"critique": examples.critique, "prefer": examples.prefer}
    if shown := {kind: [_example(e) for e in some] for kind, some in kinds.items() if some}:
        content["examples"] = shown
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=96)


def _principle(principle: Principle) -> dict[str, object]:
    written: dict[str, object] = {"id": principle.id}
    written |= {name: _one_or_list(principle.wordings(name)) for name in WORDINGS}
    if principle.weight != 1.0:
        written["weight"] = principle.weight
    written |= {k: list(v) for k in ("tags", "applies_to") if (v := getattr(principle, k))}
    return written


def _example(example: CritiqueExample | PreferExample) -> dict[str, object]:
    written: dict[str, object] = {
        "principle": example.principle,
        "conversation": _conversation(example.conversation),
    }
    rest = example.model_dump(exclude={"principle", "conversation"})
    return written | {name: text for name, text in rest.items() if text}


def _conversation(messages: Sequence[Message]) -> str | list[dict[str, str]]:
    if len(messages) == 1:
        return messages[0].content
    return [{message.role: message.content} for message in messages]


def _one_or_list(texts: tuple[str, ...]) -> str | list[str]:
    return texts[0] if len(texts) == 1 else list(texts)


class _Dumper(yaml.SafeDumper):
    """Block lists are indented, texts of several lines are blocks, and nothing is an alias."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else ">" if len(text) > 80 else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
