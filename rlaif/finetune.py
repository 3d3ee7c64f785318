"""Supervised finetuning on revisions: SL-CAI (Bai et al. 2022, section 3).

    finetune(into, config, chains=critiqued, model="sandbox", revision=None, seed=0)

The start model learns to answer each prompt as the revision does; prompts carry no loss. Their
model is a pretrained one, trained on the revisions of all rounds and on helpful samples with a
constant learning rate; here it is the start model itself, `rounds` and `helpful` are yours to
choose, and the rate decays. `into` gets `model/`, `curves.jsonl` and `train.log`.
"""

from __future__ import annotations

import hashlib
import heapq
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlaif import training
from rlaif.config.run import FinetuneConfig, HelpfulConfig
from rlaif.errors import DataError
from rlaif.jsonl import numbered, rows
from rlaif.records import Chain, Message, Step
from rlaif.training.examples import Encoder, Example, LeftOut, stored

CHAINS = "chains.jsonl"

Rounds = Literal["last", "all"] | tuple[int, ...]


def finetune(
    into: Path,
    config: FinetuneConfig,
    *,
    chains: Path,
    model: str,
    revision: str | None,
    seed: int,
    templates: Path | None = None,
) -> dict[str, Any]:
    """Finetune `model` on the chains of the critique stage; `into/model` is served as it was.

    Prompts are learned as `draft.j2` of the folder `templates` asks them; without it as they are.

    Metrics: `examples` and their `kinds`; `left_out` by reason; `steps`, `tokens` (of one
    pass); `loss` and `token_accuracy`, means over the last tenth of the steps; `seconds`.

    Raises:
        ConfigError: the model or an option cannot be used.
        DataError: there is nothing to train on.
        TrainingFailed: the training process failed.
    """
    given = {"chains": chains, "model": model, "revision": revision, "templates": templates}
    return training.train("rlaif.finetune:fit", into, config, seed=seed, **given)


def fit(into: Path) -> None:
    """The training itself, in its own process; `into/job.json` says what."""
    from trl import SFTConfig, SFTTrainer

    from rlaif.training import fitting, models

    began, asked = time.monotonic(), training.job(into)
    config = FinetuneConfig.model_validate(asked["config"])
    start = models.source(asked["model"], asked["revision"])
    encode = Encoder(start, config.max_length, asked.get("templates"))
    chains, seed = Path(asked["chains"]) / CHAINS, asked["seed"]
    dataset, left_out = stored(into, "revisions", lambda: _examples(chains, config, encode, seed))
    block = config.max_length if config.trl.get("packing") else None  # nothing is longer
    trainer = SFTTrainer(
        model=models.load_for_training(start, config),
        args=fitting.arguments(SFTConfig, into, config, seed, max_length=block),
        train_dataset=dataset.select_columns(["input_ids", "labels"]),
        processing_class=encode.tokenizer,
        peft_config=models.adapters(config.lora),
    )
    fitted = fitting.fit(trainer, into)
    models.save(trainer, start, into / "model", lora=config.lora)
    metrics = {
        "examples": len(dataset),
        "kinds": dict(sorted(Counter(dataset["kind"]).items())),
        "left_out": left_out,
        "steps": fitted.steps,
        "tokens": sum(map(len, dataset["input_ids"])),
        "loss": fitted.last("loss"),
        "token_accuracy": fitted.last("mean_token_accuracy"),
        "seconds": round(time.monotonic() - began, 1),
    }
    training.finish(into, metrics)


# --- which answers are learned --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lesson:
    """An answer to learn, or none and why."""

    id: str
    prompt: tuple[Message, ...] = ()
    answer: str = ""
    kind: Literal["revision", "faultless", "helpful"] = "revision"
    left_out: str = ""


@dataclass(frozen=True, slots=True)
class HelpfulRow:
    """A row of `helpful.path`."""

    prompt: str | tuple[Message, ...]
    response: str


def lessons(path: Path, config: FinetuneConfig, seed: int) -> Iterator[Lesson]:
    """What is learned from the chains in `path`, and what is left out, with the reason.

    A round without an answer teaches nothing, nor does one whose critique found no fault, unless
    it is the last. A draft in which no critique found a fault is learned as it is. These drafts are
    the helpful mix if it has no file; then so many are left out, chosen by hash, that its share is
    met. A share that cannot be met takes all there is.
    """
    helpful = config.helpful
    taken = _mixed(path, config.rounds, helpful, seed) if helpful else set()
    for lesson in _revisions(path, config.rounds):
        if helpful and not helpful.path and _optional(lesson) and _rank(lesson, seed) not in taken:
            yield Lesson(lesson.id, left_out="over_helpful_share")
        else:
            yield lesson
    for lesson in helpful_rows(helpful.path) if helpful and helpful.path else ():
        if lesson.left_out or _rank(lesson, seed) in taken:
            yield lesson


def _mixed(path: Path, rounds: Rounds, helpful: HelpfulConfig, seed: int) -> set[bytes]:
    """The ranks of the lessons that make the helpful mix."""
    every = (lesson for lesson in _revisions(path, rounds) if not lesson.left_out)
    others = sum(bool(helpful.path) or not _optional(lesson) for lesson in every)
    wanted = round(others * helpful.share / (1 - helpful.share))
    among = (
        helpful_rows(helpful.path) if helpful.path else filter(_optional, _revisions(path, rounds))
    )
    ranks = (_rank(lesson, seed) for lesson in among if not lesson.left_out)
    return set(heapq.nsmallest(wanted, ranks))


def _optional(lesson: Lesson) -> bool:
    return lesson.kind == "faultless" and not lesson.left_out


def _rank(lesson: Lesson, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/helpful/{lesson.id}".encode()).digest()


def helpful_rows(file: Path) -> Iterator[Lesson]:
    """The helpful answers of a file, each by the number of its line.

    Raises:
        DataError: the file cannot be read, or a row is no prompt with a response.
    """
    for number, row in numbered(file, HelpfulRow):
        asked = (Message("user", row.prompt),) if isinstance(row.prompt, str) else row.prompt
        if not asked or asked[-1].role != "user":
            what, remedy = "the prompt does not end with the user's turn", "correct this line"
            raise DataError(what, where=f"{file}:{number}", remedy=remedy)
        empty = "" if row.response.strip() else "empty"
        yield Lesson(f"{number}", asked, row.response, kind="helpful", left_out=empty)


def _revisions(path: Path, rounds: Rounds) -> Iterator[Lesson]:
    for chain in rows(path, Chain):
        yield from _of(chain, rounds)


def _of(chain: Chain, rounds: Rounds) -> Iterator[Lesson]:
    """The lessons of one chain, each answer once."""
    id, asked = chain.prompt.id, chain.prompt.messages
    if chain.unanswered:
        yield Lesson(id, left_out="no_draft")
    elif not chain.steps:
        yield Lesson(id, left_out="no_rounds")
    elif all(step.skipped for step in chain.steps):
        empty = "" if chain.draft.strip() else "empty"
        yield Lesson(id, asked, chain.draft, kind="faultless", left_out=empty)
    else:
        seen: set[str] = set()
        for step in _chosen(chain.steps, rounds):
            reason = _unfit(step, rounds) or ("repeated" if step.revision in seen else "")
            seen.add(step.revision)
            yield Lesson(id, left_out=reason) if reason else Lesson(id, asked, step.revision)


def _chosen(steps: Sequence[Step], rounds: Rounds) -> Sequence[Step]:
    if rounds == "last":
        return steps[-1:]
    return [step for step in steps if rounds == "all" or step.round in rounds]


def _unfit(step: Step, rounds: Rounds) -> str:
    """Why a step teaches nothing; the last answer stands, also where it was not revised again."""
    if step.unanswered:
        return "unanswered"
    if step.skipped and rounds != "last":
        return "no_fault_found"
    return "" if step.revision.strip() else "empty"


def _examples(
    path: Path, config: FinetuneConfig, encode: Encoder, seed: int
) -> Iterator[Example | LeftOut]:
    for lesson in lessons(path, config, seed):
        if lesson.left_out:
            yield LeftOut(lesson.left_out)
            continue
        try:
            prompt, answer = encode(lesson.prompt, lesson.answer)
        except LeftOut as why:
            yield why
            continue
        labels = [-100] * len(prompt) + answer
        yield {"input_ids": prompt + answer, "labels": labels, "kind": lesson.kind}
