"""Critique: answers, each critiqued and revised under principles, round after round (SL-CAI).

The supervised stage of Constitutional AI (Bai et al. 2022, section 3.1). Writes `chains.jsonl`,
rows of `records.Chain` with every step. Departs from the paper: a critique that finds no fault
leaves the answer as it is; which principle meets an answer is a keyed hash; and where a call has no
answer, or one that was cut at its limit, the text stays as it was and the reason is recorded.

    rlaif run CONFIG

Equal questions are one call: in a later round, the same answer under the same principle gets the
same critique. Editing a principle costs its share of each round's calls, and the later rounds of
the answers that it changes. With 16 principles and 4 rounds that is 1/16 of the calls where no text
changes, 1.4/16 where every fourth critique finds a fault, and 2.4/16 where each does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rlaif.completions import key
from rlaif.config.run import CritiqueConfig
from rlaif.constitution import Constitution
from rlaif.critique.rounds import Rounds
from rlaif.critique.tally import Tally
from rlaif.engine.counts import Counts
from rlaif.engine.models import Model
from rlaif.jsonl import rows, writing
from rlaif.records import Call, Chain, Prompt, Reason, read
from rlaif.templates import Templates

__all__ = ["SHARD", "critique"]

log = logging.getLogger(__name__)

SHARD = 2048
"""Chains that go through the rounds together; no more than these are in memory."""


def critique(
    into: Path,
    config: CritiqueConfig,
    *,
    prompts: Path,
    drafter: Model,
    critic: Model,
    constitution: Constitution,
    templates: Templates,
    seed: int,
) -> dict[str, Any]:
    """Draft an answer to each training prompt in the folder `prompts`, then critique and revise it.

    All drafts come before the first critique, so that two models need never be served at once.

    Raises:
        ConfigError: a template wants a variable that it is not given, or the constitution has no
            wording, or no worked critique, where the config asks for it.
    """
    rounds = Rounds(config, critic, constitution, templates, seed)
    tally, drafts = Tally(config.rounds), into / "drafts.jsonl"
    with writing(drafts) as write:
        for chain in _drafted(prompts / "train.jsonl", config, drafter, templates, seed):
            write(chain)
            tally.begin(chain)
    log.info("%d of %d drafts", tally.drafted, tally.prompts)
    with writing(into / "chains.jsonl") as write:
        for shard in _shards(rows(drafts, Chain)):
            for n in range(1, config.rounds + 1):
                shard = rounds.after(n, shard)
            for chain in shard:
                write(chain)
                tally.end(chain)
            log.info("%d of %d chains", tally.chains, tally.prompts)
    drafts.unlink()
    if lost := {why: n for why, n in sorted(tally.unanswered.items()) if Reason.PLANNED not in why}:
        log.warning("calls without a usable answer: %s", lost)
    calls = Counts()
    for counts in [drafter.counts] if critic is drafter else [drafter.counts, critic.counts]:
        calls.merge(counts)
    return tally.json() | {"calls": calls.as_dict()}


def _drafted(
    path: Path, config: CritiqueConfig, model: Model, templates: Templates, seed: int
) -> Iterator[Chain]:
    sampling = config.draft.sampling(seed=seed)
    with path.open("rb") as file:
        total = sum(1 for _ in islice(file, config.limit))

    def units() -> Iterator[tuple[tuple[Prompt, str], list[Call]]]:
        for prompt in islice(rows(path, Prompt), config.limit):
            messages = templates.asked(prompt.messages)
            call = Call(messages, sampling)
            yield (prompt, key(model.identity, call).hex()), [call]

    for (prompt, call), (outcome,) in model.each(units(), "drafts", total):
        text, unanswered = read(outcome)
        yield Chain(prompt, "" if unanswered else text, unanswered=unanswered, call=call)


def _shards(chains: Iterator[Chain]) -> Iterator[list[Chain]]:
    while shard := list(islice(chains, SHARD)):
        yield shard
