"""Dialogues as token ids: rendered as they are served, never cut, kept in one Arrow file."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaif.errors import DataError
from rlaif.records import Message
from rlaif.templates import Templates, inert
from rlaif.training.launching import EXAMPLES, write_whole
from rlaif.training.models import load_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

Ids = list[int]
Example = Mapping[str, Any]


class LeftOut(Exception):
    """This example is not used, and why."""


class Encoder:
    """Renders a prompt and an answer with the model's chat template.

    With a folder of `templates` a prompt is what its `draft.j2` makes of it, as wherever answers
    are drawn; without one it is asked as it stands. A last turn of the assistant's is a beginning
    that the answer goes on from. The answer ends with the token that ends a turn, in training and
    in scoring alike (trl#5813): what a template puts after it is left away, and where it puts none
    there, it is added.
    """

    def __init__(self, folder: Path, max_length: int, templates: str | Path | None = None) -> None:
        self.tokenizer: Any = load_tokenizer(folder)
        self._templates = Templates(templates) if templates else None
        added = self.tokenizer.added_tokens_decoder.values()
        controls = [re.escape(token.content) for token in added if token.special]
        self._control = re.compile("|".join(controls) or "(?!)")
        self.max_length = max_length
        self._ends = _ends(folder) | {self.tokenizer.eos_token_id}
        self._warned = False

    @property
    def padding(self) -> int:
        """A token to pad with that ends no answer: a reward is read at the last other token."""
        named = (getattr(self.tokenizer, f"{name}_token_id") for name in ("pad", "unk", "bos"))
        return next(i for i in (*named, *range(8)) if i is not None and i not in self._ends)

    def __call__(self, prompt: Sequence[Message], answer: str) -> tuple[Ids, Ids]:
        """Token ids of the prompt, up to where the model begins to answer, and of the answer.

        Raises:
            LeftOut: both together have more than `max_length` tokens, or as in `asked`.
        """
        turns, asked = self.asked(prompt)
        self._check(answer)
        begun = turns.pop()["content"] if turns[-1]["role"] == "assistant" else ""
        whole = self._render([*turns, {"role": "assistant", "content": begun + answer}])
        start = _common_prefix(asked, whole)
        if start < len(asked):
            self._warn(asked[start:])
        answered = self._ended(whole[start:])
        if start + len(answered) > self.max_length:
            raise LeftOut("too_long")
        return asked[:start], answered

    def asked(self, prompt: Sequence[Message]) -> tuple[list[dict[str, str]], Ids]:
        """The turns of a prompt as the model is asked it; and their token ids, up to where it
        begins to answer.

        Raises:
            LeftOut: the chat template refuses them, or a text has what the tokenizer reads as a
                control token.
        """
        if self._templates and prompt[-1].role == "user":
            self._check(*(inert(m.content) for m in prompt))  # not what the template's author says
            prompt = self._templates.asked(prompt)
        else:
            self._check(*(m.content for m in prompt))
        turns = [{"role": m.role, "content": m.content} for m in prompt]
        begun = turns[-1]["role"] == "assistant"
        ids = self._render(turns, add_generation_prompt=not begun, continue_final_message=begun)
        return turns, ids

    def _check(self, *texts: str) -> None:
        if any(map(self._control.search, texts)):
            raise LeftOut("control_tokens")

    def _render(self, turns: list[dict[str, str]], **options: Any) -> Ids:
        from jinja2 import TemplateError

        try:
            return self.tokenizer.apply_chat_template(turns, return_dict=False, **options)
        except (TemplateError, ValueError) as error:
            raise LeftOut("refused_by_chat_template") from error

    def _ended(self, ids: Ids) -> Ids:
        for end in range(len(ids), 0, -1):
            if ids[end - 1] in self._ends:
                return ids[:end]
        return [*ids, self.tokenizer.eos_token_id]

    def _warn(self, lost: Ids) -> None:
        if not self._warned:
            log.warning(
                "the chat template renders a prompt otherwise once it is answered: %r is not seen "
                "in training",
                self.tokenizer.decode(lost),
            )
        self._warned = True


def stored(
    folder: Path,
    name: str,
    rows: Callable[[], Iterator[Example | LeftOut]],
    *,
    optional: bool = False,
) -> tuple[Dataset, dict[str, int]]:
    """The examples as a dataset on the disk, and how many were left out by reason.

    `rows` is asked once, by one of several processes, and not again when a training goes on.

    Raises:
        DataError: there are no examples, and they are not optional.
    """
    from accelerate import PartialState
    from datasets import Dataset

    table, counts = folder / EXAMPLES / f"{name}.arrow", folder / EXAMPLES / f"{name}.json"
    with PartialState().main_process_first():
        if not counts.is_file():
            _write(table, counts, rows())
    left_out = json.loads(counts.read_text("utf-8"))
    if table.is_file():
        return Dataset.from_file(str(table)), left_out
    if optional:
        return Dataset.from_dict({}), left_out
    raise DataError(
        f"there are no {name.replace('_', ' ')}",
        where=", ".join(f"{n} {reason}" for reason, n in left_out.items()),
        remedy="give the stages before it more prompts, or see why all were left out",
    )


def _write(table: Path, counts: Path, rows: Iterator[Example | LeftOut]) -> None:
    from datasets.arrow_writer import ArrowWriter

    table.parent.mkdir(exist_ok=True)
    table.unlink(missing_ok=True)
    left_out: Counter[str] = Counter()
    writer = None
    for row in rows:
        if isinstance(row, LeftOut):
            left_out[str(row)] += 1
            continue
        writer = writer or ArrowWriter(path=str(table))
        writer.write(dict(row))
    if writer:
        writer.finalize()
        writer.close()
    write_whole(counts, dict(sorted(left_out.items())))


def _common_prefix(a: Ids, b: Ids) -> int:
    if a == b[: len(a)]:
        return len(a)
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(b))


def _ends(folder: Path) -> set[int]:
    """The tokens at which the model's generation stops."""
    try:
        config = json.loads((folder / "generation_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return set()
    ends = config.get("eos_token_id")
    return set(ends if isinstance(ends, list) else [ends]) - {None}
