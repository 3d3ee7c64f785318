"""What can be known of a config before anything is spent.

    check(config)           # a ConfigError says what is wrong, where and what to do

A file that is missed at its stage is missed after hours of paid calls; here it costs nothing.
"""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path

from rlaif.config import RunConfig
from rlaif.constitution import load
from rlaif.documents import did_you_mean
from rlaif.engine import Models
from rlaif.errors import ConfigError
from rlaif.runs import OPTIONAL, STAGES
from rlaif.shipped import folder
from rlaif.templates import Templates

_SHOWN = {"conversation", "principle"}
VARIABLES = {
    "draft": {"request"},
    "critique": _SHOWN | {"response"},
    "revise": _SHOWN | {"response", "critique"},
    "violates": _SHOWN | {"response", "critique"},
    "prefer": _SHOWN | {"response_a", "response_b"},
    "prefer_reasoned": _SHOWN | {"response_a", "response_b", "reasoning"},
}
"""What each template is given."""

_FILES = (  # key, the stage after which it is no longer read, what such a file is
    ("finetune.helpful.path", "finetune", "name a JSONL file with rows of `prompt` and `response`"),
    ("audit.guideline", "preferences", "name a text file; unset, a short one that is shipped"),
    ("preferences.overlay", "audit", "`rlaif audit export RUN --form overlay` writes one"),
)


def check(config: RunConfig, *, until: str = "report", standing: Path | None = None) -> None:
    """Read the law and the templates and look at files and models, before anything is spent.

    `standing`: the folder of a run that goes on as it stood; what its finished stages have read may
    be gone.

    Raises:
        ConfigError: one of them cannot be used, or a run with this config never makes `until`.
    """
    _check_reached(config, until)
    load(config.constitution)
    _check_templates(Templates(config.templates or folder("prompts")))
    _check_files(config, standing)
    if rewards := getattr(config.policy, "rewards", None):
        from rlaif.policy.rewards import model_folders

        model_folders(rewards, Path() if config.reward.enabled else None)
    with Models(None) as models:
        models.model(config.served(config.model, config.revision))
        if config.feedback:
            models.model(config.feedback)


def _check_reached(config: RunConfig, until: str) -> None:
    stages = (*STAGES, *OPTIONAL)
    if until not in stages:
        remedy = did_you_mean(until, stages) or f"one of {', '.join(stages)}"
        raise ConfigError(f"no stage is called {until!r}", where="until", remedy=remedy)
    if until == "reward" and not config.reward.enabled:
        remedy = "set reward.enabled: true, or stop at another stage"
        raise ConfigError("the reward stage is switched off", where="until", remedy=remedy)
    if until == "audit" and config.preferences.overlay is None:
        remedy = "stop at preferences, or name a file of verdicts in preferences.overlay"
        raise ConfigError("there is no overlay to put on the labels", where="until", remedy=remedy)


def _check_templates(templates: Templates) -> None:
    for name, given in VARIABLES.items():
        for unknown in templates.variables(name) - given:
            where = str(templates.folder / f"{name}.j2")
            remedy = did_you_mean(unknown, given) or "it is given " + ", ".join(sorted(given))
            what = f"nothing called {unknown!r} is given to it"
            raise ConfigError(what, where=where, remedy=remedy)


def _check_files(config: RunConfig, standing: Path | None) -> None:
    for key, stage, remedy in _FILES:
        section, _, name = key.rpartition(".")
        path = getattr(attrgetter(section)(config), name, None)  # `helpful` may be None
        read = standing and (standing / stage / "stage.json").is_file()
        if path and not path.is_file() and not read:
            raise ConfigError(f"there is no file {path}", where=key, remedy=remedy)
