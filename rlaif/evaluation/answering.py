"""Every model's answers to the held-out prompts, one model completely before the next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path

from rlaif.completions.calls import key
from rlaif.config.run import EvaluationConfig
from rlaif.engine import Model
from rlaif.intervals import Share
from rlaif.jsonl import rows, writing
from rlaif.records import Answer, Call, Outcome, Prompt, Sampled
from rlaif.templates import Templates


def held_out(prompts: Path, limit: int | None) -> Iterator[Prompt]:
    """The held-out prompts of the prompts stage."""
    return islice(rows(prompts / "heldout.jsonl", Prompt), limit)


def answer(
    into: Path,
    name: str,
    model: Model,
    config: EvaluationConfig,
    *,
    prompts: Path,
    templates: Templates,
    seed: int,
) -> Share:
    """Write one model's answers to `answers-<name>.jsonl`, by prompt, then by sample; how many of
    them were cut at max_tokens."""
    sampling = config.sampling.sampling(seed=seed)
    cut = answered = 0

    def asked(prompt: Prompt) -> tuple[tuple[Prompt, list[Call]], list[Call]]:
        messages = templates.asked(prompt.messages)
        calls = [Call(messages, sampling, sample=n) for n in range(config.samples)]
        return (prompt, calls), calls

    units = map(asked, held_out(prompts, config.limit))
    with writing(into / f"answers-{name}.jsonl") as write:
        for (prompt, calls), outcomes in model.each(units, f"answers of {name}"):
            for call, outcome in zip(calls, outcomes, strict=True):
                sampled = _sampled(name, model, prompt, call, outcome)
                cut, answered = cut + sampled.cut, answered + (not sampled.unanswered)
                write(sampled)
    return Share(cut, answered)


def interleave(into: Path, models: Iterable[str]) -> Iterator[Sampled]:
    """The answers of all models by prompt, then by model, then by sample."""
    by_model = [
        groupby(rows(into / f"answers-{name}.jsonl", Sampled), lambda row: row.prompt.id)
        for name in models
    ]
    for together in zip(*by_model, strict=True):
        for _, answers in together:
            yield from answers


def by_prompt(samples: Path) -> Iterator[dict[str, list[Sampled]]]:
    """The answers to one prompt after the other, by model."""
    for _, answers in groupby(rows(samples, Sampled), lambda row: row.prompt.id):
        found: dict[str, list[Sampled]] = {}
        for sampled in answers:
            found.setdefault(sampled.model, []).append(sampled)
        yield found


def _sampled(name: str, model: Model, prompt: Prompt, call: Call, outcome: Outcome) -> Sampled:
    hex = key(model.identity, call).hex()
    if isinstance(outcome, Answer):
        tokens, cut = outcome.completion_tokens, outcome.finish == "length"
        return Sampled(name, prompt, outcome.text, call.sample, tokens, call=hex, cut=cut)
    return Sampled(name, prompt, "", call.sample, unanswered=outcome.reason.value, call=hex)
