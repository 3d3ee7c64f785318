"""A rebuild: whose law was edited, what its run is called, what is refused; no Prefect server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows import pipeline as flow
from flows import rebuild
from flows.parameters import Asked
from rlaif.constitution import Constitution, load
from rlaif.errors import RunError
from rlaif.pipeline import Pipeline
from rlaif.planning import Plan, Planned
from rlaif.shipped import SEED_MODEL, folder

DEMO = str(SEED_MODEL.with_name("demo.yaml"))
LAW = folder("constitution") / "sandbox.yaml"


class Rebuilt:
    """A rebuild whose plan is given, and whose run is only noted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, runs: Path) -> None:
        self.runs, self.states = runs, ["done", "to do"]
        self.built: list[tuple[Asked, dict[str, Any]]] = []
        monkeypatch.setattr(rebuild, "plan", self._plan)
        monkeypatch.setattr(rebuild.shown, "plan", lambda *told: None)
        monkeypatch.setattr(rebuild, "carried_out", self._built)

    def __call__(self, within_h: int | None = None, **given: Any) -> Any:
        every = {"config_file": DEMO, "constitution": "", "changes": None, "fresh": None}
        own = {"runs": str(self.runs), "audit_gate": False}
        return rebuild._rebuilt(every | own | given, within_h)

    def _plan(self, *asked: Any, **given: Any) -> Plan:
        return Plan(
            [Planned(s, t) for s, t in zip(("prompts", "critique"), self.states, strict=True)]
        )

    def _built(self, wanted: Asked, given: dict[str, Any], law: Constitution) -> str:
        self.built.append((wanted, given))
        return wanted.config.name


@pytest.fixture
def rebuilt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Rebuilt:
    return Rebuilt(monkeypatch, tmp_path)


@pytest.mark.parametrize("law", ["sandbox", str(LAW), ""])
def test_an_edited_law_is_named_as_the_config_names_it(law: str, rebuilt: Rebuilt) -> None:
    assert rebuilt(constitution=law) == f"demo-{load(LAW).digest[:8]}"


@pytest.mark.parametrize("law", ["general", str(folder("constitution") / "general.yaml")])
def test_a_law_that_the_config_does_not_follow_is_nothing_to_do(law: str, rebuilt: Rebuilt) -> None:
    assert rebuilt(constitution=law).name == "NothingToDo"
    assert not rebuilt.built


def test_other_changes_are_another_run(rebuilt: Rebuilt) -> None:
    names = [rebuilt(changes=changes) for changes in (None, ["seed=1"], ["seed=2"], ["seed=1"])]
    assert len(set(names)) == 3
    assert names[1] == names[3]
    assert names[1].startswith(f"{names[0]}-")
    assert len(rebuilt(changes=[f"name={'x' * 64}"])) == 64


def test_what_the_run_would_refuse_is_refused_before_it_is_approved(rebuilt: Rebuilt) -> None:
    rebuilt.states = ["done", "anew"]
    with pytest.raises(RunError, match="stage critique is there already") as caught:
        rebuilt()
    assert "`fresh: [critique]`" in caught.value.remedy
    assert not rebuilt.built
    rebuilt(fresh=["critique"])
    assert rebuilt.built[-1][1]["fresh"] == ["critique"]


def test_what_is_built_is_built_again_only_if_asked_to(rebuilt: Rebuilt) -> None:
    rebuilt.states = ["done", "done"]
    assert rebuilt().name == "NothingToDo"
    rebuilt(fresh=["policy"])
    assert len(rebuilt.built) == 1


def test_an_approval_holds_for_the_law_and_the_config_that_were_shown(
    rebuilt: Rebuilt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, text, asked = tmp_path / "mine.yaml", Path(DEMO).read_text("utf-8"), []

    def answer(key: str, *told: Any) -> rebuild.Approval:
        asked.append(key)
        return rebuild.Approval(decision="rebuild", by="Ada")

    monkeypatch.setattr(rebuild, "deployed", lambda: True)
    monkeypatch.setattr(rebuild, "_answer", answer)
    for seed in (1, 1, 2):
        config.write_text(text.replace("seed: 0", f"seed: {seed}"), "utf-8")
        rebuilt(within_h=1, config_file=str(config))
    assert asked[0] == asked[1]
    assert asked[1] != asked[2]
    assert len(rebuilt.built) == 3


def test_the_law_that_was_planned_is_built_whatever_its_file_says_by_then(
    rebuilt: Rebuilt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    law, text = tmp_path / "law.yaml", LAW.read_text("utf-8")
    law.write_text(text, "utf-8")
    planned = load(law).digest

    def edit(*told: Any) -> None:
        law.write_text(text.replace("Pick the response", "Choose the response", 1), "utf-8")

    def build(run: Pipeline, *asked: Any, **how: Any) -> tuple[str, str]:
        return run.run.folder.name, run.constitution.digest

    monkeypatch.setenv("RLAIF_STORE", str(tmp_path / "store.sqlite3"))
    monkeypatch.setenv("RLAIF_ACCELERATOR", "")
    monkeypatch.setattr(rebuild.shown, "plan", edit)
    monkeypatch.setattr(rebuild, "carried_out", flow.carried_out)
    monkeypatch.setattr(flow, "build", build)
    name, built = rebuilt(changes=[f"constitution={law}"])
    assert load(law).digest != planned
    assert built == planned
    assert name.startswith(f"demo-{planned[:8]}-")
