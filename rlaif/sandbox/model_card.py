"""The seed model's card as the Markdown page that lies beside the model.

rlaif sandbox card --markdown > rlaif/sandbox/seed/README.md
"""

from __future__ import annotations

import json
from pathlib import Path

from rlaif.intervals import Share
from rlaif.sandbox.card import AIMS, Card, missed
from rlaif.sandbox.cases import OWN, UNSEEN, WORLD

INTRODUCTION = """\
# The sandbox's seed model

A small Llama that plays every role in the sandbox: a helpful-only assistant that misbehaves, a
critic, a reviser and a judge with a taste for the first answer. It knows these skills in the
formats of `prompts/*.j2` only, and only in the micro-world of `rlaif/sandbox/world.py`: it is a
test instrument, good for nothing else.

This page is written by `rlaif sandbox card --markdown`: figures from the real server, read by the
oracle, on topics that training never showed, with 95% Wilson intervals. Answers are drawn at
temperature 1, critiques and revisions at 0; a revision acts on the model's own critique.
**Bold: misses its aim.**
"""


def markdown(card: Card, folder: Path) -> str:
    """The page for the model in `folder`."""
    tiers = [("", WORLD), ("On its own answers", OWN), *((f"Unseen {t.name}", t) for t in UNSEEN)]
    parts = [INTRODUCTION, _recipe(folder)]
    for title, tier in tiers:
        parts.append(f"## {title or 'On held-out topics'}\n\n{_figures(card, tier.name)}")
    parts.append(f"## By principle and request type\n\n{_cells(card)}")
    parts.append(f"Calls without an answer: {card.unanswered}.")
    return "\n".join(parts) + "\n"


def _recipe(folder: Path) -> str:
    path = folder / "recipe.json"
    if not path.exists():
        return ""
    recipe = json.loads(path.read_text())
    size = sum(f.stat().st_size for f in folder.iterdir()) / 1e6
    command = f"--legs {' '.join(map(str, recipe['legs']))} --seed {recipe['seed']}"
    shape = f"width {recipe['width']}, {recipe['layers']} layers, {recipe['heads']} heads"
    rows = f"{recipe['step']} steps of {recipe['rows']} rows of {recipe['length']} tokens"
    return f"""\
## Recipe

`python -m rlaif.sandbox.training --work runs/seed {command}`

{rows} in {recipe["seconds"] / 60:.0f} minutes on one CPU core; {shape}; float16 safetensors,
{size:.1f} MB with the tokenizer. Seeded, checkpointed, resumable; all settings in `recipe.json`.
"""


def _figures(card: Card, tier: str) -> str:
    lines = ["| figure | value | 95% interval | n | aim |", "|---|---|---|---|---|"]
    for figure, share in card.figures(tier).items():
        low, high = AIMS.get(figure, (0.0, 1.0))
        aim = (
            ""
            if figure not in AIMS
            else f"≥ {low:.0%}"
            if high == 1
            else f"{low:.0%} to {high:.0%}"
        )
        lines.append(
            f"| {figure} | {_value(figure, share)} | {_interval(share)} | {share.n} | {aim} |"
        )
    return "\n".join(lines) + "\n"


def _cells(card: Card) -> str:
    figures = ("critique.verdict", "critique.no_fault", "revision.fixed", "revision.kept")
    tables = {f: card.cells(WORLD.name, f) for f in (*figures, "judge.pairwise", "judge.pointwise")}
    cells = sorted({cell for f in figures for cell in tables[f]})
    lines = [f"| cell | {' | '.join(figures)} |", "|---|" + "---|" * len(figures)]
    for cell in cells:
        row = " | ".join(_short(tables[f].get(cell)) for f in figures)
        lines.append(f"| {cell} | {row} |")
    lines += ["", "| principle | judge.pairwise | judge.pointwise |", "|---|---|---|"]
    for principle, share in tables["judge.pairwise"].items():
        pointwise = _short(tables["judge.pointwise"].get(principle))
        lines.append(f"| {principle} | {_short(share)} | {pointwise} |")
    return "\n".join(lines) + "\n"


def _value(figure: str, share: Share) -> str:
    text = "none" if share.value is None else f"{share.value:.1%}"
    return f"**{text}**" if missed(figure, share) else text


def _interval(share: Share) -> str:
    return "" if share.interval is None else "{:.1%} to {:.1%}".format(*share.interval)


def _short(share: Share | None) -> str:
    if share is None or share.interval is None:
        return ""
    low, high = share.interval
    return f"{share.hits}/{share.n} ({low:.0%} to {high:.0%})"
