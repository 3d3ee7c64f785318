"""Worked critiques from the constitution, shown before the real question.

Which ones an item sees is a keyed hash, so that editing one touches only the items that see it. An
item sees the same in every round, in the order of the constitution and each in the same words as
everyone, so that the server's prefix cache holds them.
"""

from __future__ import annotations

from collections.abc import Sequence

from rlaif.config.run import CritiqueConfig
from rlaif.constitution import Constitution, CritiqueExample, Wording, phrase, shown
from rlaif.errors import ConfigError
from rlaif.records import Message
from rlaif.templates import Templates

Dialogue = Sequence[Message]


class Shots:
    """The worked dialogues of a constitution, as the templates put them."""

    def __init__(
        self, constitution: Constitution, templates: Templates, config: CritiqueConfig, seed: int
    ) -> None:
        self._k, self._seed = config.examples, seed
        self._names: list[str] = []
        self._dialogues: dict[str, list[Dialogue]] = {"critique": [], "revise": []}
        for example in constitution.examples.critique if self._k else ():
            name = example.name
            principle = constitution[example.principle]
            wordings: tuple[Wording, ...] = ("revise",) if config.direct else ("critique", "revise")
            if not all(principle.wordings(wording) for wording in wordings):
                continue
            told: dict[Wording, str] = {
                wording: phrase(principle, wording, seed=seed, item=name, round="shot")
                for wording in wordings
            }
            self._names.append(name)
            self._add(templates, example, told)
        if self._k and not self._names:
            remedy = "set critique.examples to 0, or add critiques to the constitution's `examples`"
            raise ConfigError("the constitution has no worked critique to show", remedy=remedy)

    def _add(
        self, templates: Templates, example: CritiqueExample, told: dict[Wording, str]
    ) -> None:
        shared = {"conversation": example.conversation, "response": example.response}
        if "critique" in told:
            question = {**shared, "principle": told["critique"]}
            dialogue = templates.dialogue("critique", answer=example.critique, **question)
            self._dialogues["critique"].append(dialogue)
        question = {**shared, "principle": told["revise"]}
        question["critique"] = example.critique if "critique" in told else ""
        dialogue = templates.dialogue("revise", answer=example.revision, **question)
        self._dialogues["revise"].append(dialogue)

    def of(self, task: str, item: str) -> list[Dialogue]:
        """The dialogues that an item sees before a question of this kind."""
        chosen = shown(self._names, seed=self._seed, item=item, k=self._k)
        return [self._dialogues[task][n] for n in chosen]
