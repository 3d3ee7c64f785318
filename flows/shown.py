"""What one sees of a run in Prefect: artifacts of its plan, labels, curves and evaluation, events.

Only figures and names go there, never a text of a model or of a data set.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.events import emit_event

from rlaif.intervals import in_percent
from rlaif.planning import Plan
from rlaif.stages import stage_record

log = logging.getLogger("rlaif.flows")

_LINES, _BYTES = 20, 1 << 15
_SHARES = {
    "violations": "breaks a principle",
    "helpfulness": "helpful",
    "well_formed": "well formed",
}
_MODELS = ("seed", "finetuned", "policy")
_POINTS = 10  # of a curve


def key(kind: str, run: Path) -> str:
    """An artifact's key, which holds its history over all flows of a run."""
    return f"{kind}-{re.sub(r'[^a-z0-9]+', '-', run.name.lower()).strip('-')}"


def plan(made: Plan, run: Path, said: str = "What this run would ask and train.") -> None:
    """The plan as a table."""
    rows = [
        {"stage": s.stage, "state": s.state, "cached": s.cached, "new": s.new, "at most": s.at_most,
         "tokens": s.tokens, "seconds": s.seconds}
        for s in made.stages
    ]  # fmt: skip
    create_table_artifact(rows, key=key("plan", run), description=said)


def stage(name: str, run: Path) -> None:
    """What a finished stage has to show. The stage matters, not the news of it."""
    with _news(name):
        _show(name, run)


@contextmanager
def _news(of: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        log.warning("%s is done, but could not be shown: %s", of, error)


def _show(name: str, run: Path) -> None:
    show = {"preferences": _labels, "evaluation": _evaluation, "report": _report}.get(name)
    if name in ("finetune", "reward", "policy"):
        _curve(name, run)
    elif show:
        show(run)


def _labels(run: Path) -> None:
    made = stage_record(run / "preferences")["metrics"]
    rows = [[k, _short(v)] for k, v in made.items() if not isinstance(v, (dict, list))]
    rows += [[f"unlabelled, {why}", _short(n)] for why, n in made.get("unlabelled", {}).items()]
    described = "How the AI's labels came out; where an oracle is, the evaluation says how right."
    create_markdown_artifact(_table(("labels", ""), rows), key("labels", run), described)


def _curve(name: str, run: Path) -> None:
    path = run / name / "curves.jsonl"
    if not path.is_file():
        return
    points = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    every = max(1, len(points) // _POINTS)
    few = [*points[::every], *(points[-1:] if (len(points) - 1) % every else [])]
    names = [n for n in ("step", "loss", "kl", "reward", "rewards/accuracies", "rewards/margins")
             if any(n in point for point in few)]  # fmt: skip
    rows = [[_short(point.get(n)) for n in names] for point in few]
    create_markdown_artifact(_table(names, rows), key(f"{name}-curve", run), f"Curves of {name}.")


def _evaluation(run: Path) -> None:
    found = stage_record(run / "evaluation")["metrics"]
    rows = [
        [title, *(in_percent(found.get(name, {}).get(model, {})) for model in _MODELS)]
        for name, title in _SHARES.items()
    ]
    described = "Held-out prompts; shares with 95% intervals."
    create_markdown_artifact(
        _table(("", *_MODELS), rows), key=key("evaluation", run), description=described
    )


def _report(run: Path) -> None:
    pages = os.environ.get("RLAIF_PAGES")  # flows/pages.py shows the reports there
    page = (run / "report" / "index.html").resolve()
    link = f"{pages}/{quote(run.name)}/report/index.html" if pages else page.as_uri()
    create_link_artifact(link, f"report of {run.name}", key("report", run), str(page))
    figures = json.loads((run / "report" / "report.json").read_text("utf-8"))
    event("rlaif.run.finished", run, missing=figures["missing"])
    serious = [d["what"] for d in figures.get("distrust", []) if d["serious"]]
    if serious:
        event("rlaif.tripwire", run, doubts=serious)


def review(run: Path, said: str) -> None:
    """The way to a run's reviews; `said` is where its audit stands."""
    pattern = os.environ.get("RLAIF_REVIEW")  # {run} is its name; flows/pages.py leads to the app
    with _news("the audit's sample"):
        if pattern:
            link = pattern.replace("{run}", quote(run.name))
            create_link_artifact(link, f"reviews of {run.name}", key("review", run), said)
        else:
            create_markdown_artifact(f"`rlaif audit serve {run}`", key("review", run), said)


def event(name: str, run: Path, **payload: Any) -> None:
    """Tell Prefect that something happened to a run; automations may react to it."""
    resource = {"prefect.resource.id": f"rlaif.run.{run.name}", "prefect.resource.name": run.name}
    emit_event(name, resource, payload={"run": str(run.absolute()), **payload})


def end_of_log(path: Path, lines: int = _LINES) -> None:
    """The last lines of a log file, in the flow run's log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _BYTES))
            end = file.read().decode("utf-8", "replace").splitlines()[-lines:]
    except OSError:
        return
    log.warning("the end of %s:\n%s", path, "\n".join(end))


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
