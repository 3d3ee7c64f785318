"""`rlaif cache`: what it prints, what it deletes only when told to, and what it exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rlaif.cli.cache import cache
from rlaif.completions import Store, default_path, key
from rlaif.records import Answer, Call, Message, Sampling


def call(number: int) -> Call:
    prompt = Message("user", f"How many is {number}? <b>é</b>")
    return Call((prompt,), Sampling(0.5, stop=("\n",)), number, ("A", "B"))


@pytest.fixture
def path(tmp_path: Path) -> str:
    where = tmp_path / "s.sqlite3"
    with Store(where) as store:
        for number in range(30):
            model = "judge@1" if number % 3 else "draft@1"
            answer = Answer(f"{number}\ud800", "stop", 10, 2, (-0.5, -1.0))
            store.put(key(model, call(number)), call(number), answer, model)
    return str(where)


def run(*words: str, answers: str = "", **env: str) -> Result:
    return CliRunner().invoke(cache, words, input=answers, env=env)


def parsed(*words: str) -> Any:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_info(path: str) -> None:
    found = parsed("info", "--store", path)
    assert found["rows"] == 30
    assert found["saved"] == {"calls": 30, "prompt_tokens": 300, "completion_tokens": 60}
    assert [(m["model"], m["rows"]) for m in found["models"]] == [("judge@1", 20), ("draft@1", 10)]
    shown = run("info", RLAIF_STORE=path).stdout
    assert "30 rows" in shown
    assert "judge@1" in shown


def test_prune_asks_first(path: str) -> None:
    words = ("prune", "--store", path, "--model", "judge@1")
    assert parsed(*words, "--dry-run")["rows"] == 20
    assert run(*words, answers="n\n").exit_code == 1
    assert parsed("info", "--store", path)["rows"] == 30
    assert run(*words, answers="y\n").exit_code == 0
    assert parsed("info", "--store", path)["rows"] == 10
    assert parsed("prune", "--store", path, "--older-than", "1h", "--yes")["rows"] == 0
    assert parsed("prune", "--store", path, "--all", "--yes")["rows"] == 10
    assert parsed("info", "--store", path)["oldest"] is None


@pytest.mark.parametrize(
    "words", [(), ("--all", "--model", "m"), ("--older-than", "soon"), ("--all", "--json")]
)
def test_prune_does_not_guess(path: str, words: tuple[str, ...]) -> None:
    assert run("prune", "--store", path, *words).exit_code == 2
    assert parsed("info", "--store", path)["rows"] == 30


def test_export_as_jsonl(path: str, tmp_path: Path) -> None:
    lines = run("export", "--store", path).stdout.splitlines()
    rows = {row["sample"]: row for row in map(json.loads, lines)}
    assert sorted(rows) == list(range(30))
    row = rows[7]
    assert row["key"] == key("judge@1", call(7)).hex()
    assert row["messages"] == [{"role": "user", "content": "How many is 7? <b>é</b>"}]
    assert row["sampling"]["stop"] == ["\n"]
    assert (row["text"], row["logprobs"]) == ("7\ud800", [-0.5, -1.0])
    out = tmp_path / "out.jsonl"
    words = ("export", "--store", path, "--model", "draft@1", "-o", str(out))
    assert parsed(*words) == {"rows": 10, "file": str(out)}
    assert len(out.read_text().splitlines()) == 10


def test_export_as_parquet(path: str, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "out.parquet"
    broken = run("export", "--store", path, "-o", str(out))
    assert broken.exit_code == 1
    assert "export as .jsonl" in broken.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["s.sqlite3"]
    with Store(path) as store:
        store.prune()
        store.put(key("m", call(1)), call(1), Answer("one", "stop", 10, 2, (-0.5,)), "m")
    assert run("export", "--store", path, "-o", str(out)).exit_code == 0
    (row,) = parquet.read_table(out).to_pylist()
    assert (row["text"], row["logprobs"], row["labels"]) == ("one", [-0.5], ["A", "B"])


def test_an_export_says_what_it_can_write(path: str, tmp_path: Path) -> None:
    for name in ("out.csv", "out.jsonl.gz"):
        refused = run("export", "--store", path, "-o", str(tmp_path / name))
        assert refused.exit_code == 2
        assert ".jsonl or .parquet" in refused.stderr
        assert not (tmp_path / name).exists()


def test_a_look_makes_no_store_of_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    result = run("info", "--store", str(tmp_path / "empty"))
    assert "no completions store yet" in result.stderr
    assert not (tmp_path / "empty").read_bytes()


def test_errors_name_the_remedy(tmp_path: Path) -> None:
    for words in (("info",), ("prune", "--all", "--yes"), ("export",)):
        result = run(*words, "--store", str(tmp_path / "none"))
        assert result.exit_code == 1
        assert "no completions store yet" in result.stderr
        assert "remedy" in result.stderr
    assert not (tmp_path / "none").exists()


def test_the_store_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLAIF_STORE", "postgresql://host/name")
    assert default_path() == "postgresql://host/name"
    monkeypatch.delenv("RLAIF_STORE")
    assert default_path() == str(Path.home() / ".cache/rlaif/completions.sqlite3")
