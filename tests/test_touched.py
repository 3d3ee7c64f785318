"""What an edit of the constitution touches in a run: the items that met it, and no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from rlaif.cli.constitution import constitution
from rlaif.constitution import to_yaml
from rlaif.constitution.schema import Constitution
from rlaif.errors import RunError
from rlaif.jsonl import rows
from rlaif.records import Chain, Pair
from rlaif.touched import touched
from tests.finished_run import law, made


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("runs"), train=40, heldout=4)


def reworded(id: str, *wordings: str) -> Constitution:
    """The law with every paraphrase of one principle's `wordings` changed."""
    found = law()
    edited = found[id].model_copy(
        update={w: tuple(f"{t} Be strict." for t in found[id].wordings(w)) for w in wordings}  # type: ignore[arg-type]
    )
    others = tuple(edited if p.id == id else p for p in found.principles)
    return found.model_copy(update={"principles": others})


def test_the_same_law_touches_nothing(run: Path) -> None:
    found = touched(run, law(), law())
    assert (found.calls, found.labels) == (0, 0)
    assert found.of_calls > 0
    assert found.of_labels > 0


def test_an_edit_touches_the_items_that_met_the_principle(run: Path) -> None:
    found = touched(run, law(), reworded("insult", "critique", "prefer"))
    steps = [s for c in rows(run / "critique" / "chains.jsonl", Chain) for s in c.steps]
    verdicts = [v for p in rows(run / "preferences" / "pairs.jsonl", Pair) for v in p.verdicts]
    assert found.calls == len({c for s in steps if s.principle == "insult" for c in s.calls}) > 0
    assert found.labels == sum(v.principle == "insult" for v in verdicts) > 0
    assert found.of_calls == len({c for s in steps for c in s.calls})
    assert found.of_labels == len(verdicts)


def test_another_revision_wording_touches_no_critique(run: Path) -> None:
    found = touched(run, law(), reworded("insult", "revise"))
    steps = [s for c in rows(run / "critique" / "chains.jsonl", Chain) for s in c.steps]
    revised = {s.calls[1] for s in steps if s.principle == "insult" and len(s.calls) > 1}
    assert any(s.skipped for s in steps if s.principle == "insult")
    assert found.calls == len(revised)


def test_only_what_the_judge_reads_touches_labels(run: Path) -> None:
    assert touched(run, law(), reworded("insult", "critique", "revise")).labels == 0
    assert touched(run, law(), reworded("insult", "prefer")).calls == 0


def test_a_principle_that_goes_moves_its_items_to_others(run: Path) -> None:
    found = touched(run, law(), law().without("insult"))
    verdicts = [v for p in rows(run / "preferences" / "pairs.jsonl", Pair) for v in p.verdicts]
    assert found.labels == sum(v.principle == "insult" for v in verdicts)


def test_diff_tells_it(run: Path, tmp_path: Path) -> None:
    for name, of in (("old", law()), ("new", reworded("insult", "prefer"))):
        (tmp_path / f"{name}.yaml").write_text(to_yaml(of))
    files = [str(tmp_path / "old.yaml"), str(tmp_path / "new.yaml"), "--run", str(run)]
    told = CliRunner().invoke(constitution, ["diff", *files])
    assert "at least 0 of" in told.output
    as_json = json.loads(CliRunner().invoke(constitution, ["diff", *files, "--json"]).output)
    assert as_json["touched"]["labels"] > 0


def test_a_folder_that_is_no_run_has_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run") as caught:
        touched(tmp_path, law(), law())
    assert "rlaif run" in caught.value.remedy
