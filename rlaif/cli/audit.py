"""`rlaif audit`: people judge a sample of the labels; a gate, figures, and their verdicts back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rlaif.audit.ledger import Ledger
    from rlaif.audit.overview import Overview
    from rlaif.audit.principles import PrincipleRow
    from rlaif.audit.records import Audit, Kind
    from rlaif.intervals import Estimate

RUN = click.Path(path_type=Path)
FORMS = ("csv", "jsonl", "parquet", "argilla", "labelstudio", "trl", "overlay")

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
of_kind = click.option(
    "--kind", type=click.Choice(["preference", "critique"]), default="preference",
    show_default=True, help="Labels of pairs, or rounds of critique and revision.",
)  # fmt: skip
database = click.option(
    "--db", metavar="URL", help="The ledger. [default: $RLAIF_AUDIT, else RUN/audit.db]"
)


@click.group()
def audit() -> None:
    """Let people judge whether the labels can be trusted."""


@audit.command()
@click.argument("run", type=RUN)
@of_kind
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE",
              help="Change the run's audit section, such as reviewers=2. Paths start from where "
              "you are.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Of the draw. [default: the run's]")
@click.option("--again", metavar="NAME",
              help="Audit labels that have an audit once more, in this lead's name.")  # fmt: skip
@click.option("--reason", default="", help="Why, for --again.")
@database
@as_json
def sample(
    run: Path, kind: Kind, changes: tuple[str, ...], seed: int | None, again: str | None,
    reason: str, db: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Draw items of RUN for review, none that an earlier audit has shown.

    What is drawn is frozen: the threshold cannot be changed afterwards, and the same labels get no
    other audit unless a lead asks for it.
    """
    from rlaif.audit import sampling
    from rlaif.audit.ledger import Ledger
    from rlaif.audit.records import Again
    from rlaif.config.naming import record_of

    config = record_of(run)["config"]
    section = _section(config.get("audit", {}), changes)
    with Ledger.open(_where(run, db)) as ledger:
        drawn = int(config["seed"]) if seed is None else seed
        asked = Again(_person(ledger, again), reason) if again else None
        how = {"seed": drawn, "kind": kind, "again": asked}
        before = len(ledger.audits())
        found = ledger.audit(sampling.sample(ledger, run, section, **how))
        new = len(ledger.audits()) > before
    plan = found.plan
    told = {
        "audit": found.id, "new": new, "kind": plan.kind, "frame": plan.frame_size,
        "frame_sha256": plan.frame_sha, "sizes": dict(found.sizes), "threshold": plan.tau,
        "alpha": plan.alpha, "labels": plan.labels,
    }  # fmt: skip
    if as_json:
        click.echo(json.dumps(told, indent=1))
        return
    arms = ", ".join(f"{n} {arm}" for arm, n in found.sizes.items() if n)
    there = "" if new else " (drawn already)"
    click.echo(f"audit {found.id}{there}: {arms}, of {plan.frame_size:,} items")
    click.echo(f"review them: rlaif audit serve {run}")


@audit.command()
@click.argument("run", type=RUN)
@click.option("--host", default="127.0.0.1", help="The address to listen at.", show_default=True)
@click.option("--port", default=0, help="0 takes a free one.", show_default=True)
@click.option("--allow-host", multiple=True, metavar="NAME",
              help="A host that browsers may use; https://NAME behind TLS.")  # fmt: skip
@click.option("--open", "browse", is_flag=True, help="Open the page in a browser.")
@database
def serve(
    run: Path, host: str, port: int, allow_host: tuple[str, ...], browse: bool, db: str | None
) -> None:
    """Serve the review app for RUN, on this machine unless --allow-host says otherwise."""
    from rlaif.audit.app.serving import serve as serving

    serving(run, db=db, host=host, port=port, allow_host=allow_host, browse=browse)


@audit.command()
@click.argument("run", type=RUN)
@of_kind
@click.option("--principles", is_flag=True, help="Show disagreements and drafted edits, too.")
@click.option("--invite", "invited", metavar="NAME", help="A one-time token for a reviewer.")
@click.option("--role", type=click.Choice(["reviewer", "lead", "admin"]),
              help="What NAME is from now on. [default: as before; if new, reviewer]")  # fmt: skip
@click.option("--deactivate", metavar="NAME", help="End somebody's sessions and links.")
@click.option("--override", metavar="NAME", help="Let training begin, in this lead's name.")
@click.option("--reason", default="", help="Why, for --override.")
@click.option("--check", is_flag=True, help="Exit with 1 unless training may begin.")
@database
@as_json
def status(
    run: Path, kind: Kind, principles: bool, invited: str | None, role: Any,
    deactivate: str | None, override: str | None, reason: str, check: bool, db: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Say where the audit of RUN stands."""
    from rlaif.audit.overview import overview

    with _latest(run, kind, db) as (ledger, found):
        if deactivate:
            ledger.deactivate(_person(ledger, deactivate))
            click.echo(f"{deactivate} is let in no more; what they said stays", err=True)
        token = {"invited": invited, "token": ledger.invite(invited, role)} if invited else {}
        if override:
            ledger.override(found.id, _person(ledger, override), reason)
        seen = overview(ledger, found.id)
        head = ledger.verify().head
    if as_json:
        click.echo(json.dumps(token | seen.json() | {"head": head}, indent=1))
    else:
        if token:
            click.echo(f"one-time token for {invited}: {token['token']}")
        for line in _lines(seen, principles):
            click.echo(line)
        click.echo(f"\nhead of the ledger: {head}")
    if check and not seen.gate.passed:
        raise SystemExit(1)


@audit.command()
@click.argument("run", type=RUN)
@of_kind
@click.option("--form", type=click.Choice(FORMS), default="jsonl", show_default=True,
              help="trl: pairs with what people said; overlay: for the next run.")  # fmt: skip
@click.option("--out", type=RUN, required=True, help="A file that is not there yet.")
@click.option("--soften", is_flag=True, help="overlay: soften principles that people contradict.")
@database
@as_json
def export(
    run: Path, kind: Kind, form: str, out: Path, soften: bool, db: str | None, as_json: bool
) -> None:
    """Write the audit of RUN for another tool, or as an overlay for the next run."""
    from rlaif.audit.exporting import export as write

    with _latest(run, kind, db) as (ledger, found):
        rows, sha = write(ledger, found.id, form, out, soften=soften)
    if as_json:
        click.echo(json.dumps({"file": str(out), "rows": rows, "sha256": sha}, indent=1))
    else:
        click.echo(f"{out}: {rows} rows, sha256 {sha}")
        if form == "overlay":
            click.echo(f"use it in the next run: preferences: {{overlay: {out}}}")


@audit.command()
@click.argument("run", type=RUN)
@of_kind
@click.option("--change", type=RUN, metavar="FILE", help="Put this text in its place.")
@click.option("--by", metavar="NAME", help="The lead who does, for --change.")
@database
@as_json
def guideline(
    run: Path, kind: Kind, change: Path | None, by: str | None, db: str | None, as_json: bool
) -> None:
    """Print the guideline of the audit of RUN, or change it before the gate's first verdict."""
    from dataclasses import asdict

    from rlaif.audit import guidelines

    with _latest(run, kind, db) as (ledger, found):
        if change:
            ledger.guideline(found.id, guidelines.read(change), _person(ledger, by or ""))
        versions, frozen = ledger.guidelines(found.id), ledger.frozen(found.id)
    if as_json:
        told = {"frozen": frozen, "versions": [asdict(version) for version in versions]}
        click.echo(json.dumps(told, indent=1))
        return
    now = versions[-1]
    click.echo(f"{now.text.rstrip()}\n")
    state = "it stands" if frozen else "it may change until the gate's first verdict"
    click.echo(f"version {len(versions)}, sha256 {now.sha}; {state}")


@audit.command("import")
@click.argument("run", type=RUN)
@click.argument("file", type=RUN)
@of_kind
@click.option("--form", type=click.Choice(FORMS[:5]), help="[default: by the file's name]")
@click.option("--source", help="Where they were made. [default: the file's name]")
@database
@as_json
def bring(
    run: Path, file: Path, kind: Kind, form: str | None, source: str | None, db: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Add the verdicts in FILE to the audit of RUN; the gate leaves them out."""
    from rlaif.audit.importing import import_file

    with _latest(run, kind, db) as (ledger, found):
        new, there = import_file(ledger, found.id, file, form, source)
    if as_json:
        click.echo(json.dumps({"new": new, "there": there}))
    else:
        click.echo(f"{new} verdicts added, {there} were there already")


@audit.command()
@click.argument("run", type=RUN)
@click.option("--head", help="A hash that the ledger must still hold, such as one written down.")
@database
@as_json
def verify(run: Path, head: str | None, db: str | None, as_json: bool) -> None:
    """Recheck every hash of the ledger of RUN; exits with 1 if anything was changed."""
    from rlaif.audit.ledger import Ledger

    with Ledger.open(_there(run, db)) as ledger:
        found = ledger.verify(head=head)
    if as_json:
        told = {"rows": found.rows, "head": found.head, "problems": list(found.problems)}
        click.echo(json.dumps(told, indent=1))
    else:
        for problem in found.problems:
            click.echo(problem)
        word = "NOT intact" if found.problems else "intact"
        click.echo(f"{found.rows} rows, {word}; head {found.head}")
    if found.problems:
        raise SystemExit(1)


@audit.command()
@click.option("--audits", default=2000, show_default=True, type=click.IntRange(1, 1_000_000),
              help="How many are simulated.")  # fmt: skip
@click.option("--agreement", required=True, type=click.FloatRange(0, 1), help="The truth.")
@click.option("--threshold", default=0.70, show_default=True, help="What the gate asks for.",
              type=click.FloatRange(0, 1, min_open=True, max_open=True))  # fmt: skip
@click.option("--alpha", default=0.05, show_default=True, help="The gate's risk each way.",
              type=click.FloatRange(0, 0.5, min_open=True, max_open=True))  # fmt: skip
@click.option("--cap", default=400, show_default=True, type=click.IntRange(1),
              help="Items that are judged at most.")  # fmt: skip
@click.option("--frame", default=2000, show_default=True, type=click.IntRange(2),
              help="Labels that they are drawn from.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Of the draws.")
@as_json
def simulate(
    audits: int, agreement: float, threshold: float, alpha: float, cap: int, frame: int,
    seed: int, as_json: bool,
) -> None:  # fmt: skip
    """Say how often the gate would pass, and after how many items, if people agreed so often."""
    from dataclasses import asdict

    from rlaif.audit import gate

    found = gate.simulate(
        audits, agreement, threshold, seed=seed, alpha=alpha, cap=cap, population=frame
    )
    if as_json:
        click.echo(json.dumps(asdict(found), indent=1))
        return
    click.echo(f"PASS {found.pass_rate:.1%}, FAIL {found.fail_rate:.1%}, "
               f"inconclusive {found.inconclusive_rate:.1%}")  # fmt: skip
    if found.median_items is not None:
        click.echo(f"median items to PASS: {found.median_items:.0f}")


# --- what they share ------------------------------------------------------------------------------


def _where(run: Path, db: str | None) -> str | Path:
    from rlaif.audit import where

    return db or where(run)


def _there(run: Path, db: str | None) -> str | Path:
    from rlaif.errors import RunError

    place = _where(run, db)
    if isinstance(place, Path) and not place.is_file():
        raise RunError("no audit was drawn", where=str(run), remedy=f"rlaif audit sample {run}")
    return place


@contextmanager
def _latest(run: Path, kind: Kind, db: str | None) -> Iterator[tuple[Ledger, Audit]]:
    from rlaif.audit.current import latest
    from rlaif.audit.ledger import Ledger
    from rlaif.errors import RunError

    with Ledger.open(_there(run, db)) as ledger:
        found = latest(ledger, run, kind)
        if found is None:
            what = f"no audit of these {kind} items was drawn"
            remedy = f"rlaif audit sample {run} --kind {kind}"
            raise RunError(what, where=str(run), remedy=remedy)
        yield ledger, found


def _section(told: dict[str, Any], changes: tuple[str, ...]) -> Any:
    from pydantic import ValidationError

    from rlaif.config.audit import AuditConfig
    from rlaif.errors import ConfigError

    given = dict(told)
    for change in changes:
        key, _, value = change.partition("=")
        given[key.removeprefix("audit.")] = None if value == "null" else value
    try:
        return AuditConfig.model_validate(given, context={"folder": Path.cwd()})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        remedy = "see rlaif/config/audit.py"
        raise ConfigError(first["msg"], where=f"--set {where}", remedy=remedy) from error


def _person(ledger: Ledger, name: str) -> int:
    from rlaif.errors import RunError

    for reviewer in ledger.reviewers():
        if reviewer.name == name:
            return reviewer.id
    remedy = f"rlaif audit status RUN --invite {name} --role lead"
    raise RunError(f"no reviewer is called {name!r}", remedy=remedy)


def _lines(seen: Overview, principles: bool) -> Iterator[str]:
    from rlaif.audit.told import headline, sentence

    gate = seen.gate
    yield f"{headline(gate)}: {sentence(gate)}"
    if gate.state == "open" and gate.why:
        yield f"  {gate.why}"
    yield from (f"  warning: {warning}" for warning in seen.warnings)
    yield ""
    yield from (f"{name.replace('_', ' '):<18}{_figure(f)}" for name, f in seen.agreement.items())
    if seen.alternative.winning is not None:
        yield f"{'stands in for':<18}{seen.alternative.winning:.0%} of the reviewers"
    yield ""
    for row in seen.principles:
        mark = "  NAMED" * row.named + "  quarantined" * row.quarantined
        yield f"{row.principle:<18}{_figure(row.agreement)}{mark}"
        if principles:
            yield from _disagreements(row)
    yield from _people(seen)
    if seen.disputes:
        numbers = ", ".join(str(dispute.number) for dispute in seen.disputes[:10])
        yield f"\n{len(seen.disputes)} items wait for a ruling: {numbers}"
    if seen.marked:
        numbers = ", ".join(str(row.number) for row in seen.marked[:10])
        yield f"\n{len(seen.marked)} items are flagged or have notes: {numbers}"


def _people(seen: Overview) -> Iterator[str]:
    """Each reviewer in a line."""
    if any(row.n for row in seen.reviewers):
        yield ""
    for row in seen.reviewers:
        if row.n:
            seconds = "" if row.seconds is None else f", {row.seconds:.0f} s an item"
            yield f"{row.reviewer.name:<18}{row.n} items{seconds}"
            yield f"{'  agrees with AI':<18}{_figure(row.agreement)}"
            yield f"{'  consistent':<18}{_figure(row.consistent)}"


def _disagreements(row: PrincipleRow) -> Iterator[str]:
    if row.direction:
        yield f"    the judge is {row.direction}; see items {', '.join(map(str, row.exemplars))}"
    yield from (f"    {line}" for line in row.edit.splitlines())


def _figure(found: Estimate) -> str:
    if found.value is None:
        return f"undefined: {found.why}"
    between = "" if found.low is None else f"  [{found.low:.3f}, {found.high:.3f}]"
    return f"{found.value:.3f}{between}  n={found.n}" + (f"  ({found.why})" if found.why else "")
