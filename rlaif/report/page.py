"""The page: figures, plots and examples in the frame of page.html.j2."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from rlaif.constitution import Constitution, load
from rlaif.errors import ConfigError
from rlaif.report import curves, examples, plots
from rlaif.report.data import MODELS, Finished

TRAININGS = ("finetune", "reward", "policy")


def page(run: Finished, figures: Mapping[str, Any]) -> str:
    """The report as HTML; every text from the data is escaped.

    Raises:
        DataError: a row of a stage cannot be read.
    """
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {"percent": plots.percent, "between": plots.between, "shown": examples.shown}
    env.filters |= {"number": _number, "duration": _duration, "brief": _brief}
    models = [m for m in MODELS if figures["violations"].get(m, {}).get("value") is not None]
    return env.get_template("page.html.j2").render(
        run=run,
        f=figures,
        title=headline(figures),
        models=models,
        trained=models[-1] if models else "",
        law=_law(run),
        principles=_principles(figures, models),
        plots=plots,
        calibration=_calibration(figures),
        rounds=_rounds(figures),
        losses=_losses(run),
        curves=curves.panel(run),
        compared=_compared(run, models),
        revised=_revised(run),
        digests=_digests(run),
    )


def headline(figures: Mapping[str, Any]) -> str:
    """The result in one sentence."""
    violations = figures["violations"]
    trained = "policy" if violations.get("policy", {}).get("value") is not None else "finetuned"
    before, after = violations.get("seed", {}), violations.get(trained, {})
    if before.get("value") is None or after.get("value") is None:
        missing = "evaluation" in figures["missing"]
        return f"This run {'is not evaluated yet' if missing else 'has no answers to compare'}"
    change = violations.get("change", {}).get(trained, {})
    verb = "went from"
    if (change.get("high") or 0) < 0:
        verb = "fell from"
    elif (change.get("low") or 0) > 0:
        verb = "rose from"
    return (
        f"Answers that break a principle {verb} {plots.percent(before, 0)} "
        f"to {plots.percent(after, 0)}"
    )


def _law(run: Finished) -> Constitution | None:
    path = run.folder / "constitution.yaml"
    try:
        return load(path) if path.is_file() else None
    except ConfigError:  # from another version; the page says that it is missing
        return None


def _principles(figures: Mapping[str, Any], models: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """Each principle's shares by model, those violated most at the start first."""
    found = [
        (id, {m: shares[m] for m in models if m in shares})
        for id, shares in figures.get("principles", {}).items()
    ]
    return sorted(found, key=lambda item: -(item[1].get("seed", {}).get("value") or 0))


def _calibration(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Calibration plots of the labels and of the reward model, where there are curves."""
    drawn = {
        "labels": ("Calibration of the labels", "share that is right"),
        "reward": ("Calibration of the reward model", "the judge's mean label"),
    }
    return {
        of: plots.calibration(figures[of]["curve"], *names)
        for of, names in drawn.items()
        if figures[of].get("curve")
    }


def _rounds(figures: Mapping[str, Any]) -> Any:
    found = figures.get("rounds", ())
    if not any(round["violations"]["n"] for round in found):
        return None
    kinds = {"violations": "violations", "helpful": "helpfulness"}
    series = {name: [round[key] for round in found] for name, key in kinds.items()}
    return plots.rounds(series, "Violations and helpfulness by round of revision")


def _losses(run: Finished) -> dict[str, Any]:
    found = {}
    for stage in TRAININGS:
        points = curves.curve(run.folder / stage / "curves.jsonl", "loss")
        if len(points) > 1:
            found[stage] = plots.loss(points, f"Training loss of {stage}")
    return found


def _compared(run: Finished, models: list[str]) -> list[examples.Compared]:
    path = run.folder / "evaluation" / "samples.jsonl"
    return examples.compared(path, models[-1]) if len(models) > 1 and path.is_file() else []


def _revised(run: Finished) -> list[examples.Revised]:
    path = run.folder / "critique" / "chains.jsonl"
    return examples.revised(path) if "critique" in run.stages and path.is_file() else []


def _digests(run: Finished) -> dict[str, dict[str, str]]:
    """What each stage was made from, with digests shortened for people."""
    return {
        name: {key: _short(str(given)) for key, given in record["made_from"]["inputs"].items()}
        for name, record in run.stages.items()
    }


def _short(digest: str) -> str:
    """The first twelve digits of a digest; a model's name as it is."""
    name, colon, rest = digest.rpartition(":")
    if len(rest) == 64 and set(rest) <= set("0123456789abcdef"):
        return f"{name}{colon}{rest[:12]}"
    return digest


def _number(value: Any, digits: int = 0) -> str:
    """A number, or an estimate's value, for people."""
    if isinstance(value, Mapping):
        value = value.get("value")
    if not isinstance(value, (int, float)):
        return "\N{EN DASH}"
    shown = f"{round(value, digits) + 0.0:,.{digits}f}"  # + 0.0: no minus before zero
    return shown.replace("-", "\N{MINUS SIGN}")


def _duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _brief(value: Any) -> str:
    """A config value on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {_brief(v)}" for k, v in value.items() if v not in (None, [], {}))
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_brief, value))
    return str(value)
