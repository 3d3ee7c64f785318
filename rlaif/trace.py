"""Everything behind one prompt of a run: drafts, revisions, labels, calls, and who used them.

    rlaif trace runs/demo 31e08d

An item is a prompt's or a pair's id, or the beginning of one. Prompts as sent come from the
completions store, by the keys that the stages kept; where the store has let a call go, that is
said.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rlaif.config import RunConfig
from rlaif.config.naming import config_of
from rlaif.errors import DataError
from rlaif.jsonl import rows
from rlaif.records import Chain, Pair, Prompt, Sampled, Win

if TYPE_CHECKING:
    from rlaif.audit.overlay import Overlaid
    from rlaif.completions import Store

T = TypeVar("T")
PAIRS = "pairs.jsonl"
NEAR = 5  # ids that are offered where none matches


@dataclass(frozen=True, slots=True)
class Sent:
    """A call as it was sent and answered; without a record, `missing` says so."""

    key: str
    model: str = ""
    messages: tuple[dict[str, str], ...] = ()
    answer: str = ""
    labels: dict[str, float] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)
    sample: int = 0
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Trace:
    """All that a run holds of one prompt; of a pair's id, that pair alone.

    `labelled` names the stage that made each pair: preferences, or that of a later round.
    """

    item: str
    prompt: Prompt
    split: str
    chain: Chain | None
    pairs: tuple[Pair, ...]
    labelled: tuple[str, ...]
    samples: tuple[Sampled, ...]
    wins: tuple[Win, ...]
    used: dict[str, str]
    calls: dict[str, Sent]

    def json(self) -> dict[str, Any]:
        """Plain values; `calls` by key."""
        return asdict(self)


def trace(run: Path, item: str, store: Store | None = None) -> Trace:
    """The trace of a prompt or a pair in a run's folder; `store` has the prompts as sent.

    Raises:
        RunError: the folder is no run's.
        DataError: no item or more than one is called so; the nearest ids are named.
    """
    config = config_of(run)
    kind, id = _named(run, item)
    found = [(stage.name, p) for stage in _labels(run) for p in _with(stage / PAIRS, Pair, id)]
    pairs = [(stage, p) for stage, p in found if id == (p.id if kind == "pair" else p.prompt.id)]
    prompt_id = pairs[0][1].prompt.id if kind == "pair" else id
    chains = _with(run / "critique" / "chains.jsonl", Chain, prompt_id)
    chain = next((chain for chain in chains if chain.prompt.id == prompt_id), None)
    samples = _with(run / "evaluation" / "samples.jsonl", Sampled, prompt_id)
    mine = tuple(s for s in samples if s.prompt.id == prompt_id) if kind == "prompt" else ()
    won = _with(run / "evaluation" / "wins.jsonl", Win, prompt_id)
    wins = tuple(w for w in won if w.prompt == prompt_id) if kind == "prompt" else ()
    prompt, split = _prompt(run, prompt_id)
    made = (chain, *(pair for _, pair in pairs), *mine, *wins)
    return Trace(
        item=id,
        prompt=prompt,
        split=split,
        chain=chain,
        pairs=tuple(pair for _, pair in pairs),
        labelled=tuple(stage for stage, _ in pairs),
        samples=mine,
        wins=wins,
        used=_used(run, config, chain, pairs, split),
        calls={key: _sent(key, store) for key in dict.fromkeys(_keys(made)) if key},
    )


# --- finding --------------------------------------------------------------------------------------


def _named(run: Path, item: str) -> tuple[str, str]:
    """What kind of item it is, and its whole id."""
    found: dict[str, str] = {}
    near: list[tuple[int, str]] = []
    for kind, id in _ids(run):
        if id.startswith(item):
            found.setdefault(id, kind)
            if id == item:
                return kind, id
        elif common := _common(id, item):
            near = heapq.nlargest(NEAR, {*near, (common, id)})
    if len(found) == 1 and item:
        ((id, kind),) = found.items()
        return kind, id
    if found:
        several = ", ".join(list(found)[:NEAR]) + (", …" if len(found) > NEAR else "")
        what, remedy = f"{len(found)} items begin with {item!r}", f"say which: {several}"
    else:
        nearest = ", ".join(id for _, id in near)
        what = f"no prompt and no pair is called {item!r}"
        remedy = f"the nearest are {nearest}" if near else "take an id from the report or a .jsonl"
    raise DataError(what, where=str(run), remedy=remedy)


def _common(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


@dataclass(frozen=True, slots=True)
class _Id:
    id: str


def _ids(run: Path) -> Iterator[tuple[str, str]]:
    """Every prompt's and pair's id."""
    for split in ("train", "heldout"):
        if (path := run / "prompts" / f"{split}.jsonl").is_file():
            yield from (("prompt", row.id) for row in rows(path, _Id))
    for stage in _labels(run):
        yield from (("pair", row.id) for row in rows(stage / PAIRS, _Id))


def _labels(run: Path) -> list[Path]:
    """The folders with labels, that of each round in its turn."""
    found = [path.parent for path in run.glob(f"preferences*/{PAIRS}")]
    return sorted(found, key=lambda folder: _round(folder.name))


def _round(stage: str) -> int:
    return int(stage.partition("-")[2] or 1)


def _with(path: Path, type: type[T], id: str) -> Iterator[T]:
    """The rows of a file whose line holds an id; the others are not even decoded."""
    import msgspec

    if path.is_file():
        yield from rows(path, type, holding=msgspec.json.encode(id))


def _prompt(run: Path, id: str) -> tuple[Prompt, str]:
    for split in ("train", "heldout"):
        for prompt in _with(run / "prompts" / f"{split}.jsonl", Prompt, id):
            if prompt.id == id:
                return prompt, split
    remedy = "the run's stages do not belong together: make them anew with --fresh prompts"
    raise DataError(f"the prompt {id!r} is not in prompts/", where=str(run), remedy=remedy)


# --- calls ----------------------------------------------------------------------------------------


def _keys(made: Iterable[Chain | Pair | Sampled | Win | None]) -> Iterator[str]:
    for row in made:
        match row:
            case Chain():
                yield row.call
                yield from (key for step in row.steps for key in step.calls)
            case Pair():
                yield from row.calls
                yield from (key for verdict in row.verdicts for key in verdict.calls)
            case Sampled():
                yield row.call
            case Win():
                yield from row.calls


def _sent(key: str, store: Store | None) -> Sent:
    import math

    record = store.lookup(bytes.fromhex(key)) if store else None
    if record is None:
        why = "the store no longer has it" if store else "there is no completions store"
        return Sent(key, missing=why)
    call, answer = record.call, record.answer
    probabilities = map(math.exp, answer.logprobs)
    return Sent(
        key,
        record.model,
        tuple({"role": m.role, "content": m.content} for m in call.messages),
        answer.text,
        dict(zip(call.labels, probabilities, strict=False)),
        asdict(call.sampling),
        call.sample,
    )


# --- who used it ----------------------------------------------------------------------------------


def _used(
    run: Path, config: RunConfig, chain: Chain | None, pairs: list[tuple[str, Pair]], split: str
) -> dict[str, str]:
    """For each training stage, what it made of the item by the rules of the config."""
    if split == "heldout":
        return {"evaluation": "held out: no training saw it"}
    used = {}
    if chain:
        used["finetune"] = _finetuned(run, config, chain.prompt.id)
    for stage, pair in pairs:
        if stage == "preferences":
            if row := _overridden(run, pair.id):
                used[f"audit {pair.id}"] = _audited(row)
                pair = replace(pair, target=row.target, unlabelled="")
            used[f"reward {pair.id}"] = _rewarded(config, pair)
        used[f"{_trained(config, stage)} {pair.id}"] = _policed(config, pair)
    return used


def _overridden(run: Path, pair: str) -> Overlaid | None:
    """What people said of a pair's label, where training was told."""
    from rlaif.audit.overlay import APPLIED, Overlaid

    rows = _with(run / "audit" / APPLIED, Overlaid, pair)
    return next((row for row in rows if row.pair == pair), None)


def _audited(row: Overlaid) -> str:
    was = "unlabelled" if row.was is None else f"{row.was:.3f}"
    who = {"ruling": "a lead ruled", "agreed": f"{row.people} people agree"}
    return f"overridden: {was} became {row.target:.3f}, for {who.get(row.why, 'a person said so')}"


def _trained(config: RunConfig, labels: str) -> str:
    """The stage that trains the policy on these labels."""
    policy, round = config.policy, _round(labels)
    return f"policy-{round}" if policy.kind == "online" and round < policy.rounds else "policy"


def _finetuned(run: Path, config: RunConfig, id: str) -> str:
    from rlaif.finetune import CHAINS, lessons

    path = run / "critique" / CHAINS
    mine = [
        lesson.left_out or f"{lesson.kind} learned"
        for lesson in lessons(path, config.finetune, config.seed)
        if lesson.id == id and lesson.kind != "helpful"
    ]
    return ", ".join(mine).replace("_", " ") or "not used"


def _rewarded(config: RunConfig, pair: Pair) -> str:
    from rlaif.training.pairs import share

    if not config.reward.enabled:
        return "not used: the reward model is switched off"
    if pair.target is None:
        return f"not used: unlabelled ({pair.unlabelled})"
    held = share(pair.prompt.opening, "heldout", config.seed) < config.reward.heldout
    return "measured with: its prompt is held out" if held else "trained on, unless too long"


def _policed(config: RunConfig, pair: Pair) -> str:
    from rlaif.training.pairs import clear

    policy = config.policy.dpo if config.policy.kind == "online" else config.policy
    if policy.kind != "dpo" and policy.kind != "kto":
        return f"not used: {policy.kind} learns from the rewards of its own answers"
    if pair.target is None:
        return f"not used: unlabelled ({pair.unlabelled})"
    if not clear(pair.target, policy.min_margin):
        return f"not used: the label is nearer to 0.5 than {policy.min_margin}"
    hard = policy.kind == "kto" or policy.labels == "hard"
    if hard and pair.target == 0.5:
        return "not used: a tie has no harder side"
    return "trained on, unless too long"
