"""What can be known of a config before anything is spent.

    check(config)           # a ConfigError says what is wrong, where and what to do

What is missed at its stage is missed after hours of paid calls; here it costs nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path

from rlaif.config import RunConfig
from rlaif.config.policy import DpoConfig, KtoConfig, OnlineConfig, PpoConfig
from rlaif.config.section import TrainerConfig
from rlaif.constitution import load
from rlaif.documents import did_you_mean
from rlaif.engine import Models
from rlaif.errors import ConfigError
from rlaif.finetune import helpful_rows
from rlaif.policy.options import check_dpo, check_kto
from rlaif.preferences import method_of
from rlaif.shipped import folder
from rlaif.stages import STAGES, check_name
from rlaif.templates import Templates
from rlaif.training.options import check_options, known, split

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
_ASKED_ABOUT = {"request", "response", "response_a", "response_b", "principle"}

_TRL = {
    "FinetuneConfig": "SFTConfig",
    "RewardConfig": "RewardConfig",
    "DpoConfig": "DPOConfig",
    "KtoConfig": "KTOConfig",
    "GrpoConfig": "GRPOConfig",
    "RlooConfig": "RLOOConfig",
}
"""Whose options the `trl` of a section are."""

_FILES = (  # key, the stage after which it is no longer read, what such a file is
    ("finetune.helpful.path", "finetune", "name a JSONL file with rows of `prompt` and `response`"),
    ("audit.guideline", "preferences", "name a text file; unset, a short one that is shipped"),
    ("preferences.overlay", "audit", "`rlaif audit export RUN --form overlay` writes one"),
)


def check(config: RunConfig, *, until: str = "report", standing: Path | None = None) -> None:
    """Read the law and the templates and look at options, files and models, before anything is
    spent.

    `standing`: the folder of a run that goes on as it stood; what its finished stages have read may
    be gone.

    Raises:
        ConfigError: one of them cannot be used, or a run with this config never makes `until`.
        DataError: a row of `finetune.helpful.path` cannot be used.
    """
    _check_reached(config, until)
    law, templates = load(config.constitution), Templates(config.templates or folder("prompts"))
    _check_templates(templates)
    if until not in STAGES[: STAGES.index("preferences")]:
        method_of(config.preferences, law, templates, config.seed)
    _check_rounds(config)
    for at, section in _trainings(config):
        _check_training(at, section)
    _check_files(config, standing)
    if rewards := getattr(config.policy, "rewards", None):
        from rlaif.policy.rewards import model_folders

        model_folders(rewards, Path() if config.reward.enabled else None)
    with Models(None) as models:
        models.model(config.served(config.model, config.revision))
        if config.feedback:
            models.model(config.feedback)


def _check_reached(config: RunConfig, until: str) -> None:
    check_name(until, where="until")
    if until == "reward" and not config.reward.enabled:
        remedy = "set reward.enabled: true, or stop at another stage"
        raise ConfigError("the reward stage is switched off", where="until", remedy=remedy)
    if until == "audit" and config.preferences.overlay is None:
        remedy = "stop at preferences, or name a file of verdicts in preferences.overlay"
        raise ConfigError("there is no overlay to put on the labels", where="until", remedy=remedy)


def _check_templates(templates: Templates) -> None:
    for name, given in VARIABLES.items():
        where, used = str(templates.folder / f"{name}.j2"), templates.variables(name)
        for unknown in used - given:
            remedy = did_you_mean(unknown, given) or "it is given " + ", ".join(sorted(given))
            what = f"nothing called {unknown!r} is given to it"
            raise ConfigError(what, where=where, remedy=remedy)
        for unseen in sorted(given & _ASKED_ABOUT - used):
            what = f"it shows no {unseen!r}, so that all questions are one"
            raise ConfigError(what, where=where, remedy=f"write {{{{ {unseen} }}}} into it")


def _check_files(config: RunConfig, standing: Path | None) -> None:
    for key, stage, remedy in _FILES:
        section, _, name = key.rpartition(".")
        path = getattr(attrgetter(section)(config), name, None)  # `helpful` may be None
        read = standing and (standing / stage / "stage.json").is_file()
        if not path or read:
            continue
        if not path.is_file():
            raise ConfigError(f"there is no file {path}", where=key, remedy=remedy)
        if stage == "finetune":
            deque(helpful_rows(path), maxlen=0)


def _check_rounds(config: RunConfig) -> None:
    rounds, last = config.finetune.rounds, config.critique.rounds
    if isinstance(rounds, tuple) and not (rounds and set(rounds) <= set(range(1, last + 1))):
        what = f"these are no rounds of the critique: {list(rounds)}"
        remedy = f"choose some of 1 to {last} (critique.rounds), or write last or all"
        raise ConfigError(what, where="finetune.rounds", remedy=remedy)


def _trainings(config: RunConfig) -> Iterator[tuple[str, TrainerConfig]]:
    """Every training of the run, by its place in the config."""
    yield "finetune", config.finetune
    if config.reward.enabled:
        yield "reward", config.reward
    if isinstance(config.policy, OnlineConfig):
        yield "policy.dpo", config.policy.dpo
    else:
        yield "policy", config.policy


def _check_training(at: str, section: TrainerConfig) -> None:
    if isinstance(section, DpoConfig):
        check_dpo(section)
    elif isinstance(section, KtoConfig):
        check_kto(section)
    if isinstance(section, PpoConfig):
        return  # it splits a batch in any way, and is not TRL's
    if not section.launch:  # with it, the devices are not known
        split(section, 1, where=f"{at}.micro_batch")
    if section.trl and find_spec("trl"):
        kind = _TRL[type(section).__name__]
        check_options(section, known(kind), kind, where=f"{at}.trl")
