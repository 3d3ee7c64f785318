"""What is refused before anything is spent: missing files, and an end that is never reached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlaif.checking import check
from rlaif.config import RunConfig
from rlaif.errors import ConfigError
from rlaif.runs import STAGES
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
    missing.write_text("here it is")
    check(told)
