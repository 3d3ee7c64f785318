"""From prompts to pairs: the answers that are drawn, and every two different ones of a prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from heapq import nsmallest
from itertools import combinations, islice
from pathlib import Path

from rlaif.completions import key
from rlaif.config.run import PreferencesConfig
from rlaif.engine import Model
from rlaif.jsonl import rows
from rlaif.records import Call, Outcome, Pair, Prompt, read
from rlaif.templates import Templates


@dataclass(frozen=True, slots=True)
class Drawn:
    """One answer; one that makes no pair says in `unanswered` why.

    That is a `Reason`, or "length" (cut at max_tokens) or "empty".
    """

    text: str = ""
    unanswered: str = ""
    call: str = ""


@dataclass(frozen=True, slots=True)
class Candidates:
    """A prompt and the answers drawn for it, by sample (preferences/answers.jsonl)."""

    prompt: Prompt
    answers: tuple[Drawn, ...]

    @property
    def texts(self) -> dict[str, str]:
        """Each different answer, with the key of the first call that gave it."""
        found: dict[str, str] = {}
        for drawn in self.answers:
            if not drawn.unanswered:
                found.setdefault(drawn.text, drawn.call)
        return found


def sample(
    prompts: Path, policy: Model, config: PreferencesConfig, templates: Templates, seed: int
) -> Iterator[Candidates]:
    """Draw `config.candidates` answers to each training prompt; memory stays flat."""
    sampling = config.sampling.sampling(seed=seed)

    def asked(prompt: Prompt) -> tuple[tuple[Prompt, list[Call]], list[Call]]:
        messages = templates.asked(prompt.messages)
        calls = [Call(messages, sampling, sample=n) for n in range(config.candidates)]
        return (prompt, calls), calls

    units = map(asked, islice(rows(prompts / "train.jsonl", Prompt), config.limit))
    for (prompt, calls), outcomes in policy.each(units, "answers"):
        answers = zip(calls, outcomes, strict=True)
        yield Candidates(prompt, tuple(_drawn(policy.identity, c, o) for c, o in answers))


def pairs(candidates: Candidates, *, seed: int, most: int | None = None) -> list[Pair]:
    """Every two different answers to a prompt, at most `most`, chosen by hash; still unlabelled.

    Answers of equal text count once. Which of two is `a` depends on (seed, pair id) alone, so that
    the side says nothing about the answer; an id depends on the prompt's id and the two texts.
    """
    texts = candidates.texts
    made = [_pair(candidates.prompt, x, y, texts, seed) for x, y in combinations(sorted(texts), 2)]
    if most is None or len(made) <= most:
        return made
    kept = {
        pair.id for pair in nsmallest(most, made, key=lambda pair: _hash(seed, "keep", pair.id))
    }
    return [pair for pair in made if pair.id in kept]


def _pair(prompt: Prompt, x: str, y: str, calls: dict[str, str], seed: int) -> Pair:
    id = _hash(prompt.id, x, y).hex()
    a, b = (y, x) if _hash(seed, "side", id)[0] & 1 else (x, y)
    return Pair(id, prompt, a, b, None, calls=(calls[a], calls[b]))


def _hash(*parts: str | int) -> bytes:
    told = "".join([f"{len(str(part))}:{part}" for part in parts])
    return blake2b(told.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _drawn(identity: str, call: Call, outcome: Outcome) -> Drawn:
    return Drawn(*read(outcome), call=key(identity, call).hex())
