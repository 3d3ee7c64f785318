"""`rlaif trace`: everything behind one label or revision."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rlaif.records import Chain, Pair, Sampled, Verdict
    from rlaif.trace import Sent, Trace

WIDTH = 96


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("item")
@click.option("--json", "as_json", is_flag=True, help="Print the trace as JSON.")
@click.option("--brief", is_flag=True, help="Leave out the prompts as they were sent.")
@click.option(
    "--store",
    "where",
    metavar="PATH",
    help="The completions store. [default: $RLAIF_STORE, else one in ~/.cache]",
)
def trace(run: Path, item: str, as_json: bool, brief: bool, where: str | None) -> None:
    """Show what is behind ITEM in RUN: a prompt's or a pair's id, or the beginning of one.

    That is the prompt, its draft and each revision with the principle behind it, the labels with
    their probabilities, every prompt exactly as it was sent and to which model, and who used it.
    """
    import json
    from contextlib import ExitStack

    from rlaif.completions import Store, default_path
    from rlaif.trace import trace

    where = where or default_path()
    with ExitStack() as stack:
        there = "://" in where or Path(where).exists()
        store = stack.enter_context(Store(where)) if there else None
        found = trace(run, item, store)
    if as_json:
        click.echo(json.dumps(found.json(), indent=1))
        return
    for line in _shown(found, {} if brief else found.calls):
        click.echo(_plain(line))


def _shown(found: Trace, calls: dict[str, Sent]) -> Iterator[str]:
    yield f"prompt {found.prompt.id} ({found.split})"
    for message in found.prompt.messages:
        yield from _text(f"{message.role}: {message.content}", 1)
    if found.chain:
        yield from _chain(found.chain, calls)
    for stage, pair in zip(found.labelled, found.pairs, strict=True):
        yield from _pair(pair, stage, calls)
    for sampled in found.samples:
        yield from _sample(sampled, calls)
    for win in found.wins:
        won = win.unanswered if win.win is None else f"{win.win:.3f}"
        yield f"\n{win.model} against seed under {win.principle or 'no principle'}: {won}"
        yield from _sent(win.calls, calls)
    yield "\nused by"
    yield from (f"  {who}: {how}" for who, how in found.used.items())
    gone = sum(bool(sent.missing) for sent in found.calls.values())
    if gone:
        why = next(sent.missing for sent in found.calls.values() if sent.missing)
        yield f"\n{gone} of {len(found.calls)} calls cannot be shown: {why}"


def _chain(chain: Chain, calls: dict[str, Sent]) -> Iterator[str]:
    yield f"\ndraft{f': none ({chain.unanswered})' if chain.unanswered else ''}"
    yield from _text(chain.draft, 1)
    yield from _sent((chain.call,), calls)
    before = chain.draft
    for step in chain.steps:
        note = " (no fault found)" if step.skipped else ""
        note = f" (unanswered: {step.unanswered})" if step.unanswered else note
        yield f"\nround {step.round}: {step.principle}{note}"
        if step.critique:
            yield from _text(f"critique: {step.critique}", 1)
        if step.revision != before:
            yield from _text(_diff(before, step.revision), 1)
        yield from _sent(step.calls, calls)
        before = step.revision


def _pair(pair: Pair, stage: str, calls: dict[str, Sent]) -> Iterator[str]:
    label = f"unlabelled ({pair.unlabelled})" if pair.target is None else f"{pair.target:.3f}"
    spread = "" if pair.spread is None else f", spread {pair.spread:.3f}"
    round = "" if stage == "preferences" else f" of {stage}"
    yield f"\npair {pair.id}{round}: P(a is preferred) {label}{spread}"
    yield from _text(f"a: {pair.a}", 1)
    yield from _text(f"b: {pair.b}", 1)
    yield from _sent(pair.calls, calls)
    for verdict in pair.verdicts:
        yield f"  {verdict.principle}: {_verdict(verdict)}"
        yield from _sent(verdict.calls, calls)


def _verdict(verdict: Verdict) -> str:
    if verdict.target is None:
        return f"unlabelled ({verdict.unlabelled})"
    orders = " and ".join(f"{p:.3f}" for p in verdict.orders)
    return f"{verdict.target:.3f}" + (f", from {orders}" if orders else "")


def _sample(sampled: Sampled, calls: dict[str, Sent]) -> Iterator[str]:
    yield f"\nanswer {sampled.sample} of {sampled.model}"
    yield from _text(sampled.text or f"none ({sampled.unanswered})", 1)
    if sampled.violates:
        said = ", ".join(f"{id} {p:.2f}" for id, p in sampled.violates.items())
        yield from _text(f"P(violates): {said}", 1)
    if sampled.truth:
        yield from _text(
            f"truth: {', '.join(sampled.truth.get('violations', ())) or 'no fault'}", 1
        )
    yield from _sent((sampled.call,), calls)


def _sent(keys: Iterable[str], calls: dict[str, Sent]) -> Iterator[str]:
    for key in keys:
        sent = calls.get(key)
        if sent is None or sent.missing:
            continue
        yield f"    call {key[:16]} to {sent.model}"
        for message in sent.messages:
            yield from textwrap.indent(f"{message['role']}: {message['content']}", " " * 6).split(
                "\n"
            )
        labels = ", ".join(f"P({label.strip()}) {p:.4f}" for label, p in sent.labels.items())
        yield from _text(f"→ {labels or sent.answer}", 3)


def _diff(before: str, after: str) -> str:
    """Words that went in [-brackets-], words that came in {+braces+}."""
    from rlaif.report.examples import word_diff

    marks = {"same": "{}", "out": "[-{}-]", "in": "{{+{}+}}"}
    return " ".join(marks[kind].format(text.strip()) for kind, text in word_diff(before, after))


def _text(text: str, depth: int) -> Iterator[str]:
    """A text wrapped and indented."""
    indent = "  " * depth
    for line in text.splitlines() or [""]:
        yield from textwrap.wrap(
            line, WIDTH, initial_indent=indent, subsequent_indent=indent, drop_whitespace=True
        ) or [""]


def _plain(line: str) -> str:
    """A line as a terminal may show it, without control characters."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in line)
