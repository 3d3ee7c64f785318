"""`rlaif constitution`: check, show and compare constitutions, and bring others in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlaif.cli.tables import table

if TYPE_CHECKING:
    from rlaif.constitution import Constitution, Principle
    from rlaif.constitution.comparing import Span
    from rlaif.documents import Problem
    from rlaif.touched import Touched

FILE = click.Path(path_type=Path)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def constitution() -> None:
    """Check, show and compare constitutions."""


@constitution.command()
@click.argument("files", nargs=-1, required=True, type=FILE)
@as_json
def check(files: tuple[Path, ...], as_json: bool) -> None:
    """Say what is wrong with each FILE, all at once, or that nothing is.

    Exits with 1 if a file cannot be used.
    """
    from rlaif.constitution import load
    from rlaif.documents import DocumentError

    results = []
    for file in files:
        try:
            found = load(file)
        except DocumentError as error:
            results.append({"file": str(file), "ok": False, "problems": _problems(error.problems)})
            if not as_json:
                _print_problems(error)
        else:
            results.append({"file": str(file), "ok": True, **_summary(found)})
            if not as_json:
                click.echo(f"{file}: ok, {_counts(found)}, digest {found.digest[:12]}")
    if as_json:
        click.echo(json.dumps(results, indent=2))
    if not all(result["ok"] for result in results):
        raise SystemExit(1)


@constitution.command()
@click.argument("file", type=FILE)
@click.argument("principle", required=False)
@as_json
def show(file: Path, principle: str | None, as_json: bool) -> None:
    """Print the principles of FILE as a table, or all that PRINCIPLE says."""
    found = _loaded(file)
    if principle is not None:
        chosen = _principle(found, principle)
        click.echo(_json(chosen) if as_json else _wordings(chosen))
    elif as_json:
        rows = [{**p.model_dump(mode="json"), "digest": p.digest} for p in found.principles]
        click.echo(json.dumps({**_summary(found), "principles": rows}, indent=2))
    else:
        click.echo(f"{found.title or found.id} {found.version} ({found.digest[:12]})")
        if found.description:
            click.echo(click.wrap_text(found.description, 96))
        click.echo(f"\n{_table(found)}\n\n{_counts(found)}")


@constitution.command()
@click.argument("old", type=FILE)
@click.argument("new", type=FILE)
@click.option("--run", type=click.Path(path_type=Path), help="Count what that touches in a run.")
@as_json
def diff(old: Path, new: Path, run: Path | None, as_json: bool) -> None:
    """Say which principles changed in meaning from OLD to NEW, word by word."""
    from dataclasses import asdict

    from rlaif.constitution.comparing import compare, rewordings

    before, after = _loaded(old), _loaded(new)
    changes = compare(before, after)
    count = _touched(run, before, after) if run else None
    spans = {id: rewordings(before[id], after[id]) for id in changes.reworded}
    if as_json:
        words = {
            id: {name: [[span.sign, span.text] for span in some] for name, some in each.items()}
            for id, each in spans.items()
        }
        told = {**asdict(changes), "words": words} | ({"touched": count.json()} if count else {})
        click.echo(json.dumps(told, indent=2))
        return
    for kind, ids in (("added", changes.added), ("removed", changes.removed)):
        for id in ids:
            click.echo(f"{kind:9} {id}")
    for was, now in changes.renamed.items():
        click.echo(f"renamed   {was} -> {now} (same wordings, but it meets other items)")
    for id in changes.moved:
        click.echo(f"moved     {id}: {_chance(before[id])} -> {_chance(after[id])}")
    for id in changes.retagged:
        was, now = (" ".join(law[id].tags) or "none" for law in (before, after))
        click.echo(f"retagged  {id}: {was} -> {now} (asked as before, counted elsewhere)")
    for id, each in spans.items():
        click.echo(f"reworded  {id}")
        for name, some in each.items():
            click.echo(f"  {name}: {''.join(map(_marked, some))}")
    if changes.examples:
        click.echo("examples  differ: every prompt that shows them changes")
    click.echo(f"{len(changes.unchanged)} unchanged" if changes else "the same in meaning")
    if count:
        click.echo(
            f"in {run}: at least {count.calls} of {count.of_calls} critique and revision calls "
            f"and {count.labels} of {count.of_labels} labels"
        )


@constitution.command()
def schema() -> None:
    """Print the JSON Schema of a constitution, for editors."""
    from rlaif.constitution import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


@constitution.command("import")
@click.argument("files", nargs=-1, required=True, type=FILE)
@click.option("--id", default="imported", show_default=True, help="The constitution's id.")
@click.option("--output", "-o", type=FILE, help="Write here instead of to the terminal.")
def import_(files: tuple[Path, ...], id: str, output: Path | None) -> None:
    """Write a constitution from the JSON FILES that Bai et al. released.

    Takes their instructions (*Instructions.json) and few-shot dialogues (*FewShotPrompts.json).
    """
    from pydantic import ValidationError

    from rlaif.constitution import loads, to_yaml
    from rlaif.constitution.paper import import_files
    from rlaif.errors import RlaifError

    try:
        found = import_files(files)
        text = to_yaml(found.constitution(id))
        made = loads(text, output or "<imported>")
    except ValidationError as error:
        wrong = error.errors()[0]
        what, remedy = wrong["msg"], wrong.get("ctx", {}).get("remedy")
        if not remedy:
            what = f"--id {id}: this is no id"
            remedy = "write lower-case letters, digits and single hyphens, such as my-law"
        raise click.ClickException(f"{what}\n  remedy: {remedy}") from None
    except RlaifError as error:
        raise click.ClickException(str(error)) from None
    if output is None:
        click.echo(text, nl=False)
    elif output.exists():
        raise click.ClickException(f"{output} exists\n  remedy: name another file, or remove it")
    else:
        try:
            output.write_text(text, "utf-8")
        except OSError as error:
            what = f"{output} cannot be written: {error.strerror}"
            raise click.ClickException(f"{what}\n  remedy: name a file elsewhere") from None
    for reason in found.left_out:
        click.echo(f"left out: {reason}", err=True)
    click.echo(f"imported {_counts(made)}", err=True)


def _touched(run: Path, before: Constitution, after: Constitution) -> Touched:
    from rlaif.touched import touched

    return touched(run, before, after)


def _loaded(file: Path) -> Constitution:
    """The constitution, or its problems on the terminal and the end."""
    from rlaif.constitution import load
    from rlaif.documents import DocumentError

    try:
        return load(file)
    except DocumentError as error:
        _print_problems(error)
        raise SystemExit(1) from None


def _principle(found: Constitution, id: str) -> Principle:
    try:
        return found[id]
    except KeyError:
        have = ", ".join(principle.id for principle in found.principles)
        message = f"no principle is called {id!r}\n  remedy: there are {have}"
        raise click.ClickException(message) from None


def _print_problems(error: Any) -> None:
    for problem in error.problems:
        click.echo(f"{problem.mark}: {problem.what}", err=True)
        click.echo(_excerpt(problem), err=True, nl=False)
        click.echo(f"  remedy: {problem.remedy}", err=True)
    more = f" and {error.unlisted} more" if error.unlisted else ""
    click.echo(f"{len(error.problems)}{more} to fix", err=True)


def _excerpt(problem: Problem) -> str:
    """The line of a problem with a caret under its place; what cannot be shown is a dot."""
    from rlaif.documents import line_of

    line = line_of(problem.mark)
    if line is None:
        return ""
    start = max(0, problem.mark.column - 60)
    shown = "".join(c if c.isprintable() else "·" for c in line[start : start + 90])
    return f"  | {shown}\n  | {' ' * (problem.mark.column - 1 - start)}^\n"


def _problems(problems: tuple[Problem, ...]) -> list[dict[str, object]]:
    return [
        {
            "file": str(problem.mark.path),
            "line": problem.mark.line,
            "column": problem.mark.column,
            "what": problem.what,
            "remedy": problem.remedy,
        }
        for problem in problems
    ]


def _summary(found: Constitution) -> dict[str, object]:
    return {
        "id": found.id,
        "version": found.version,
        "title": found.title,
        "digest": found.digest,
        "principles": len(found.principles),
        "switched_off": sum(not p.weight for p in found.principles),
        "wordings": {name: _askers(found, name) for name in ("critique", "revise", "prefer")},
        "examples": {
            "critique": len(found.examples.critique),
            "prefer": len(found.examples.prefer),
        },
    }


def _askers(found: Constitution, name: Any) -> int:
    return sum(bool(p.wordings(name)) for p in found.principles)


def _counts(found: Constitution) -> str:
    """`16 principles (15 to critique, 16 to prefer), 1 switched off, 4 examples`."""
    number = len(found.principles)
    parts = [f"{number} principle{'s' * (number != 1)}"]
    partial = {name: _askers(found, name) for name in ("critique", "revise", "prefer")}
    if set(partial.values()) != {number}:
        parts[0] += f" ({', '.join(f'{count} to {name}' for name, count in partial.items())})"
    if off := sum(not p.weight for p in found.principles):
        parts.append(f"{off} switched off")
    if examples := len(found.examples.all):
        parts.append(f"{examples} example{'s' * (examples != 1)}")
    return ", ".join(parts)


def _table(found: Constitution) -> str:
    """One line per principle: share of the draws, number of paraphrases, tags, digest."""
    total = sum(p.weight for p in found.principles)
    rows = [("principle", "share", "c/r/p", "tags", "applies to", "digest")]
    rows += [
        (
            p.id,
            f"{p.weight / total:.1%}" if p.weight else "off",
            f"{len(p.critique)}/{len(p.revise)}/{len(p.prefer)}",
            " ".join(p.tags),
            " ".join(p.applies_to) or "all",
            p.digest[:8],
        )
        for p in found.principles
    ]
    return table(rows)


def _wordings(principle: Principle) -> str:
    lines = [f"{principle.id} (weight {principle.weight:g}, {principle.digest[:12]})"]
    for name in ("critique", "revise", "prefer"):
        lines += [f"\n{name}:"]
        lines += [
            click.wrap_text(text, 96, "  - ", "    ") for text in principle.wordings(name)
        ] or ["  (takes no part)"]
    return "\n".join(lines)


def _json(principle: Principle) -> str:
    return json.dumps({**principle.model_dump(mode="json"), "digest": principle.digest}, indent=2)


def _chance(principle: Principle) -> str:
    where = ", ".join(principle.applies_to) or "every prompt"
    return f"weight {principle.weight:g}, {where}"


def _marked(span: Span) -> str:
    """Words as wdiff marks them: [-gone-] and {+new+}, in colour on a terminal."""
    lead = span.text[: len(span.text) - len(span.text.lstrip())]
    words = span.text.lstrip()
    if span.sign < 0:
        return lead + click.style(f"[-{words}-]", fg="red")
    return lead + click.style(f"{{+{words}+}}", fg="green") if span.sign else span.text
