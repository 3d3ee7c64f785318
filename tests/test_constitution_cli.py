"""`rlaif constitution`, as a person or a script runs it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rlaif.cli.constitution import constitution
from rlaif.constitution import json_schema, load

GENERAL = Path(__file__).parents[1] / "constitution" / "general.yaml"
LAW = """\
id: law
version: 1.0
principles:
  - id: kind
    critique: Where is the response unkind?
    revise: Make the response kind.
    prefer: Which response is kinder?
  - {id: short, critique: Where is it long?, revise: Shorten it., prefer: [], weight: 0}
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(constitution, [str(argument) for argument in arguments])


@pytest.fixture
def law(tmp_path: Path) -> Path:
    path = tmp_path / "law.yaml"
    path.write_text(LAW)
    return path


def test_check_says_ok_with_counts_and_digest(law: Path) -> None:
    found = run("check", law, GENERAL)
    assert found.exit_code == 0
    counts = "2 principles (2 to critique, 2 to revise, 1 to prefer), 1 switched off"
    assert f"law.yaml: ok, {counts}, digest {load(law).digest[:12]}\n" in found.stdout
    assert "general.yaml: ok, 20 principles, 5 examples" in found.stdout


def test_check_shows_every_error_with_a_caret(law: Path) -> None:
    wrong = LAW.replace("critique: Where is the", "critiqe: Where is the").replace("0}", "x}")
    law.write_text(wrong)
    column = wrong.splitlines()[7].index("x}") + 1
    found = run("check", law, GENERAL)
    assert found.exit_code == 1
    assert f"{law}:5:5: the key 'critiqe' is unknown\n" in found.stderr
    assert "  |     critiqe: Where is the response unkind?\n  |     ^\n" in found.stderr
    assert "  remedy: did you mean `critique`?" in found.stderr
    assert f"{law}:8:{column}: `weight` ('x') is not a number\n" in found.stderr
    assert "3 to fix" in found.stderr
    assert "general.yaml: ok" in found.stdout


def test_check_shows_no_hidden_characters(law: Path) -> None:
    law.write_text(LAW.replace("kinder", "\x1b[31m\u202ekinder"))
    found = run("check", law)
    assert found.exit_code == 1
    assert "\x1b" not in found.stderr
    assert "\u202e" not in found.stderr
    assert "Which response is ··" in found.stderr.replace("·[31m·", "··")


def test_check_as_json(law: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(LAW.replace("id: law", "id: &a law"))
    found = run("check", "--json", law, bad)
    assert found.exit_code == 1
    good, wrong = json.loads(found.stdout)
    assert good["ok"]
    assert good["digest"] == load(law).digest
    assert good["wordings"] == {"critique": 2, "revise": 2, "prefer": 1}
    problem = wrong["problems"][0]
    assert (problem["line"], problem["column"]) == (1, 5)
    assert not wrong["ok"]


def test_show_prints_a_table_or_one_principle(law: Path) -> None:
    table = run("show", law).stdout
    assert "kind       100.0%  1/1/1" in table
    assert "short      off     1/1/0" in table
    one = run("show", law, "short").stdout
    assert "Shorten it." in one
    assert "(takes no part)" in one
    assert json.loads(run("show", law, "kind", "--json").stdout)["weight"] == 1
    assert len(json.loads(run("show", law, "--json").stdout)["principles"]) == 2
    unknown = run("show", law, "knd")
    assert unknown.exit_code == 1
    assert "there are kind, short" in unknown.stderr


def test_diff_shows_words(law: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.yaml"
    new.write_text(LAW.replace("kinder", "nicer").replace("weight: 0", "weight: 2") + "# comment\n")
    found = run("diff", law, new).stdout
    assert "reworded  kind\n  prefer: Which response is [-kinder?-] {+nicer?+}\n" in found
    assert "moved     short: weight 0, every prompt -> weight 2, every prompt" in found
    changes = json.loads(run("diff", "--json", law, new).stdout)
    assert changes["reworded"] == ["kind"]
    assert changes["words"]["kind"]["prefer"] == [
        [0, "Which response is"],
        [-1, " kinder?"],
        [1, " nicer?"],
    ]
    new.write_text(LAW.replace("weight: 0", "weight: 0, tags: [brief, b]"))
    found = run("diff", law, new).stdout
    assert found.startswith("retagged  short: none -> brief b (asked as before")
    assert found.endswith("1 unchanged\n")
    new.write_text("# other\n" + LAW)
    assert run("diff", law, new).stdout == "the same in meaning\n"


def test_schema_prints_json_schema() -> None:
    assert json.loads(run("schema").stdout) == json_schema()


@pytest.fixture
def paper(tmp_path: Path) -> list[Path]:
    """Files in the shapes that the paper's have, with words of our own."""
    asks = "\n\nCritiqueRequest: Say what is rude.\n\nCritique:"
    revises = "\n\nRevisionRequest: Make it polite.\n\nRevision:"
    talk = (
        "\n\nHuman: Hello\n\nAssistant: Hi\n\nHuman: Bye\n\nAssistant: Go"
        "\n\nCritiqueRequest: Say what is {}.\n\nCritique: Go is curt."
        "\n\nRevisionRequest: Make it nice.\n\nRevision: Goodbye!\n\nHuman:"
    )
    reasoned = (
        "\n\nHuman: Consider this conversation:\n\nH: Hello\n\nA: Hi\n\nH: Bye\n\n{}\n"
        " (A) [[[Go]]]\n (B) [[[Good\nbye]]]\n\nAssistant: Let's think step by step: B is kind."
        "\n\nHuman:\nSo the answer is: (B)"
    )
    contents = {
        "shots.json": [talk.format("rude"), talk.format("wrong")],
        "compare.json": ["\nWhich is kinder? Options:", "\nWhich is shorter? Options:"],
        "critiques.json": {"Rude_0": {"prompt": [asks], "edit_request": revises}},
        "labels.json": [
            {
                "prompt": "\n\nHuman: Hello\n\nAssistant:",
                "corrects": ["Hi"],
                "incorrects": ["What"],
            }
        ],
        "reasoned.json": [{"prompt": reasoned}],
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(json.dumps(content))
    return [tmp_path / name for name in contents]


def test_import_reads_the_shapes_of_the_paper(paper: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "made.yaml"
    found = run("import", *paper, "--id", "made", "-o", out)
    assert found.exit_code == 0, found.output
    assert "left out: critique dialogue 1: its request is no principle's" in found.stderr
    made = load(out)
    assert [p.id for p in made.principles] == ["compare0", "compare1", "rude-0"]
    assert made["rude-0"].critique == ("Say what is rude.",)
    assert made["rude-0"].revise == ("Make it polite.",)
    assert made["compare1"].prefer == ("Which is shorter?",)
    (worked,) = made.examples.critique
    assert [m.content for m in worked.conversation] == ["Hello", "Hi", "Bye"]
    assert (worked.response, worked.critique, worked.revision) == ("Go", "Go is curt.", "Goodbye!")
    label, reasoned = made.examples.prefer
    assert (label.better, label.worse, label.reasoning) == ("Hi", "What", "")
    assert (reasoned.better, reasoned.worse) == ("Good\nbye", "Go")
    assert reasoned.reasoning == "B is kind."
    assert [m.role for m in reasoned.conversation] == ["user", "assistant", "user"]
    assert "exists" in run("import", *paper, "-o", out).stderr


def test_import_of_two_files_of_comparisons_numbers_them_on(
    paper: list[Path], tmp_path: Path
) -> None:
    shutil.copy(tmp_path / "compare.json", tmp_path / "more.json")
    out = tmp_path / "made.yaml"
    done = run("import", tmp_path / "compare.json", tmp_path / "more.json", "-o", out)
    assert done.exit_code == 0, done.stderr
    assert [p.id for p in load(out).principles] == [f"compare{n}" for n in range(4)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--id", "My Law"), "--id My Law: this is no id\n  remedy: write lower-case"),
        (("-o", "none/x.yaml"), "none/x.yaml cannot be written: No such file"),
    ],
)
def test_what_import_cannot_do_has_a_remedy(
    words: tuple[str, ...], said: str, paper: list[Path]
) -> None:
    done = run("import", paper[1], *words)
    assert done.exit_code == 1
    assert said in done.stderr
    assert "remedy: " in done.stderr


def test_import_of_a_list_for_a_text_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"a": {"prompt": [""], "edit_request": "b"}}')
    done = run("import", path)
    assert "https://" not in done.stderr
    assert "this is not one of the paper's files: String should have" in done.stderr


@pytest.mark.parametrize("content", ["{", "7", "[]", '{"a": {}}', '[{"a": 1}]', '{"!": 0}', "[1]"])
def test_import_of_anything_else_is_one_error(content: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    found = run("import", path)
    assert found.exit_code == 1
    assert found.stderr.startswith("Error: ")
    assert "x.json" in found.stderr


def test_checking_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom rlaif.cli.constitution import constitution\n"
        "assert not {'pydantic', 'yaml'} & set(sys.modules)\n"
        f"constitution(['check', {str(GENERAL)!r}], standalone_mode=False)\n"
        "heavy = {'torch', 'trl', 'vllm', 'prefect', 'jinja2', 'numpy', 'aiohttp'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
