"""What is refused before anything is spent, because the config alone tells that it cannot be."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import trl

from rlaif.checking import _TRL, check
from rlaif.config import RunConfig
from rlaif.constitution import to_yaml
from rlaif.errors import ConfigError, DataError
from rlaif.shipped import folder
from rlaif.stages import STAGES
from tests import finished_run


def config(tmp_path: Path, **sections: Any) -> RunConfig:
    return finished_run.config(prompts=tmp_path / "p.jsonl", **sections)


@pytest.mark.parametrize("until", STAGES)
def test_every_stage_may_be_the_last(until: str, tmp_path: Path) -> None:
    check(config(tmp_path), until=until)


@pytest.mark.parametrize(
    ("until", "sections", "what", "remedy"),
    [
        ("reward", {"reward": {"enabled": False}}, "switched off", "reward.enabled: true"),
        ("audit", {}, "no overlay", "preferences.overlay"),
        ("policies", {}, "no stage is called 'policies'", "did you mean `policy`?"),
        ("policy-1", {"policy": {"kind": "online"}}, "no stage is called 'policy-1'", "`policy`"),
    ],
)
def test_an_end_that_is_never_reached_is_refused(
    until: str, sections: dict[str, Any], what: str, remedy: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        check(config(tmp_path, **sections), until=until)
    assert caught.value.where == "until"
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("key", "stage"),
    [
        ("preferences.overlay", "audit"),
        ("audit.guideline", "preferences"),
        ("finetune.helpful.path", "finetune"),
    ],
)
def test_a_missing_file_is_refused_until_its_stage_has_read_it(
    key: str, stage: str, tmp_path: Path
) -> None:
    missing = tmp_path / "missing"
    section: Any = missing
    for name in reversed(key.split(".")):
        section = {name: section}
    told = config(tmp_path, **section)
    with pytest.raises(ConfigError, match="there is no file") as caught:
        check(told)
    assert caught.value.where == key
    assert str(missing) in caught.value.what
    (tmp_path / "run" / stage).mkdir(parents=True)
    with pytest.raises(ConfigError, match="there is no file"):
        check(told, standing=tmp_path / "run")
    (tmp_path / "run" / stage / "stage.json").write_text("{}")
    check(told, standing=tmp_path / "run")
    missing.write_text('{"prompt": "Hello?", "response": "Hello."}\n')
    check(told)


@pytest.mark.parametrize(
    ("name", "text", "unseen"),
    [("draft", "Hello", "request"), ("critique", "{{ principle }}", "response")],
)
def test_a_template_that_does_not_show_what_it_asks_about_is_refused(
    name: str, text: str, unseen: str, tmp_path: Path
) -> None:
    shutil.copytree(folder("prompts"), tmp_path / "prompts")
    edited = tmp_path / "prompts" / f"{name}.j2"
    edited.write_text(f"{{% block user %}}{text}{{% endblock %}}")
    with pytest.raises(ConfigError, match=f"shows no '{unseen}'") as caught:
        check(config(tmp_path, templates=str(tmp_path / "prompts")))
    assert caught.value.where == str(edited)


def test_helpful_answers_are_read_before_anything_is_spent(tmp_path: Path) -> None:
    path = tmp_path / "helpful.jsonl"
    path.write_text('{"prompt": "Hello?", "response": "Hello."}\n{"prompt": "Hello?"}\n')
    told = config(tmp_path, finetune={"helpful": {"path": str(path)}})
    with pytest.raises(DataError, match="missing required field `response`") as caught:
        check(told)
    assert caught.value.where == f"{path}:2"


@pytest.mark.parametrize(
    ("sections", "where", "what"),
    [
        ({"policy": {"loss_type": "ipo"}}, "policy.loss_type", "soft labels have one loss"),
        ({"policy": {"labels": "hard", "loss_type": "ippo"}}, "policy.loss_type", "no loss 'ippo'"),
        ({"policy": {"trl": {"loss_type": "ipo"}}}, "policy.trl.loss_type", "would ignore it"),
        ({"policy": {"kind": "online", "dpo": {"loss_type": "ipo"}}}, "policy.loss_type", "ipo"),
        ({"policy": {"kind": "kto", "micro_batch": 1}}, "policy.micro_batch", "2 or more"),
        ({"finetune": {"micro_batch": 3}}, "finetune.micro_batch", "batch_size 16 is no multiple"),
        ({"reward": {"micro_batch": 3}}, "reward.micro_batch", "no multiple"),
        (
            {"policy": {"kind": "online", "dpo": {"micro_batch": 3}}},
            "policy.dpo.micro_batch",
            "no multiple",
        ),
        ({"finetune": {"trl": {"lerning_rate": 1}}}, "finetune.trl", "has no 'lerning_rate'"),
        (
            {"finetune": {"rounds": (1, 9)}},
            "finetune.rounds",
            r"no rounds of the critique: \[1, 9\]",
        ),
        ({"finetune": {"rounds": (0,)}}, "finetune.rounds", "no rounds"),
        ({"finetune": {"rounds": ()}}, "finetune.rounds", "no rounds"),
    ],
)
def test_options_of_trainings_are_refused_at_once(
    sections: dict[str, Any], where: str, what: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        check(config(tmp_path, **sections))
    assert caught.value.where == where
    assert caught.value.remedy


@pytest.mark.parametrize(
    "sections",
    [
        {"finetune": {"micro_batch": 3, "batch_size": 24, "launch": ["--num_processes=8"]}},
        {"reward": {"enabled": False, "micro_batch": 3}},
        {"policy": {"kind": "ppo", "micro_batch": 3}},
        {"finetune": {"rounds": (1, 3)}},
        {"finetune": {"trl": {"packing": True}}},
    ],
)
def test_options_that_a_training_takes_pass(sections: dict[str, Any], tmp_path: Path) -> None:
    check(config(tmp_path, **sections))


KNOWN = """
import sys
from rlaif.training.options import known
print(*known(sys.argv[1]))
assert not {"trl", "transformers", "torch"} & sys.modules.keys()
"""


@pytest.mark.parametrize("kind", _TRL.values())
def test_the_options_of_trl_are_known_without_importing_it(kind: str) -> None:
    told = subprocess.run(
        [sys.executable, "-c", KNOWN, kind], capture_output=True, text=True, check=True
    )
    assert set(told.stdout.split()) == {f.name for f in fields(getattr(trl, kind)) if f.init}


@pytest.mark.parametrize(
    ("wordings", "section", "what"),
    [
        ({"prefer": ()}, {}, "has a `prefer` wording; pairwise"),
        (
            {"critique": (), "revise": ()},
            {"method": "pointwise"},
            "a `prefer` wording with a `critique` wording; pointwise",
        ),
        ({}, {"examples": 2}, "no worked preference"),
    ],
)
def test_a_law_that_can_give_no_label_is_refused_where_labels_are_to_be_made(
    wordings: dict[str, Any], section: dict[str, Any], what: str, tmp_path: Path
) -> None:
    law, path = finished_run.law(), tmp_path / "law.yaml"
    principles = tuple(p.model_copy(update=wordings) for p in law.principles)
    path.write_text(to_yaml(law.model_copy(update={"principles": principles})), "utf-8")
    told = config(tmp_path, constitution=str(path), preferences=section)
    with pytest.raises(ConfigError, match=what):
        check(told)
    check(told, until="finetune")
