"""Prompts: nothing shortened, nothing lost in silence, near copies on one side of the split."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from rlaif.cli.data import data
from rlaif.config import load
from rlaif.config.run import PromptsConfig
from rlaif.errors import ConfigError, DataError
from rlaif.jsonl import rows
from rlaif.prompts import Rejected, prompts
from rlaif.prompts.reading import Unfit, Why, conversation, dialogue
from rlaif.records import Message, Prompt

TURN = {"user": "Human", "assistant": "Assistant"}


def saved(path: Path, *given: Any) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in given]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def config(*sources: Path | dict[str, Any], **options: Any) -> PromptsConfig:
    given = [source if isinstance(source, dict) else {"path": source} for source in sources]
    return PromptsConfig.model_validate({"sources": given, **options})


def read(into: Path, asked: PromptsConfig, seed: int = 0) -> dict[str, Any]:
    into.mkdir(exist_ok=True)
    return prompts(into, asked, seed=seed)


def split(into: Path, name: str) -> list[Prompt]:
    return list(rows(into / f"{name}.jsonl", Prompt))


def rejected(into: Path) -> list[tuple[str, str]]:
    return [(r.where, str(r.reason)) for r in rows(into / "rejected.jsonl", Rejected)]


def transcript(*turns: Message) -> str:
    return "".join(f"\n\n{TURN[turn.role]}: {turn.content}" for turn in turns)


def said(*contents: str) -> tuple[Message, ...]:
    roles = ("user", "assistant")
    return tuple(Message(roles[n % 2], text) for n, text in enumerate(contents))


# --- rows -----------------------------------------------------------------------------------------


def test_texts_and_messages_are_kept_as_they_are(tmp_path: Path) -> None:
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " Note: this: has colons\n\nHuman: and a mark "},
        {"role": "assistant", "content": "Hm."},
        {"role": "user", "content": "Go on."},
    ]
    source = saved(
        tmp_path / "p.jsonl",
        {"prompt": " Q: why?\n", "id": 7, "tags": "own", "split": "train"},
        "",
        {"prompt": talk, "tags": ["a", "given"], "split": "heldout", "else": [1]},
    )
    metrics = read(tmp_path / "out", config({"path": source, "tags": ["given"]}))
    turns = said(*(turn["content"] for turn in talk[1:]))
    messages = (Message("system", "Be brief."), *turns)
    (first,), (second,) = split(tmp_path / "out", "train"), split(tmp_path / "out", "heldout")
    assert first == Prompt("7", (Message("user", " Q: why?\n"),), ("given", "own"))
    assert (second.messages, second.tags) == (messages, ("given", "a"))
    assert len(second.id) == 16
    assert set(second.id) <= set("0123456789abcdef")
    assert metrics["turns"] == {"1": 1, "2": 1}
    assert metrics["tags"] == {"a": 1, "given": 2, "own": 1}
    assert metrics["chars"]["min"] == len(" Q: why?\n")
    assert rejected(tmp_path / "out") == []


def test_every_unusable_row_is_named_with_its_reason(tmp_path: Path) -> None:
    user, assistant = {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}
    bad = [
        ("no_column", {"text": "hello"}),
        ("not_text", {"prompt": None}),
        ("not_text", {"prompt": 3}),
        ("not_text", {"prompt": [{"role": "user", "content": [{"type": "text"}]}]}),
        ("empty", {"prompt": " \n"}),
        ("empty", {"prompt": []}),
        ("empty", {"prompt": [user, {"role": "assistant", "content": ""}, user]}),
        ("bad_roles", {"prompt": [user, assistant]}),
        ("bad_roles", {"prompt": [user, user]}),
        ("bad_roles", {"prompt": [assistant, user]}),
        ("bad_roles", {"prompt": [{"role": "system", "content": "s"}]}),
        ("bad_roles", {"prompt": [{"role": "tool", "content": "t"}, user]}),
        ("oversized", {"prompt": "x" * 51}),
        ("bad_id", {"prompt": "i", "id": ["a"]}),
        ("bad_id", {"prompt": "i", "id": ""}),
        ("bad_tags", {"prompt": "t", "tags": {"a": 1}}),
        ("unknown_split", {"prompt": "s", "split": "test_sft"}),
        ("unknown_split", {"prompt": "s", "split": ["train"]}),
        ("duplicate", {"prompt": "good", "id": "other"}),
    ]
    source = saved(tmp_path / "p.jsonl", {"prompt": "good"}, *(row for _, row in bad))
    metrics = read(tmp_path / "out", config(source, max_chars=50, heldout=0))
    wanted = [(f"p.jsonl:{n}", why) for n, (why, _) in enumerate(bad, 2)]
    assert rejected(tmp_path / "out") == wanted
    assert metrics["rejected"] == Counter(why for why, _ in bad)
    assert {why for why, _ in bad} == set(Why) - {Why.NOT_A_TRANSCRIPT}
    assert (metrics["rows"], metrics["prompts"]) == (len(bad) + 1, 1)


def test_a_prompt_at_the_limit_is_whole(tmp_path: Path) -> None:
    source = saved(tmp_path / "p.jsonl", {"prompt": "ä" * 50})
    read(tmp_path / "out", config(source, max_chars=50, heldout=0))
    assert split(tmp_path / "out", "train")[0].messages[0].content == "ä" * 50


@pytest.mark.parametrize(
    "line", ['{"prompt": "cut', '["prompt"]', '{"prompt": "\\ud800"}', '{"prompt": NaN}']
)
def test_a_line_that_is_no_row_is_an_error_at_its_place(tmp_path: Path, line: str) -> None:
    source = saved(tmp_path / "p.jsonl", {"prompt": "fine"}, line)
    with pytest.raises(DataError, match=r"p\.jsonl:2: (.|\n)*remedy: correct or remove this line"):
        read(tmp_path / "out", config(source))


def test_a_file_as_windows_and_pandas_write_it_is_read(tmp_path: Path) -> None:
    source = tmp_path / "p.jsonl"
    source.write_bytes(b"\xef\xbb\xbf" + b'{"prompt": "p"}\r\n')
    assert read(tmp_path / "out", config(source, heldout=0))["prompts"] == 1


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (b'[{"prompt": "p"}]', "jq -c '.[]' FILE"),
        (b'[\n {\n  "prompt": "p"\n }\n]', "jq -c '.[]' FILE"),
        (b'{\n "prompt": "p"\n}', "one JSON object a line"),
        ('{"prompt": "p"}'.encode("utf-16"), "save the file as UTF-8"),
    ],
)
def test_a_file_of_another_form_says_how_to_bring_it_into_this_one(
    content: bytes, remedy: str, tmp_path: Path
) -> None:
    (tmp_path / "p.json").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(tmp_path / "out", config(tmp_path / "p.json"))
    assert remedy in caught.value.remedy


def test_what_is_no_text_and_no_id_is_called_by_its_kind(tmp_path: Path) -> None:
    source = saved(tmp_path / "p.jsonl", {"prompt": "p"}, {"prompt": "q", "id": 1.5})
    read(tmp_path / "out", config(source, heldout=0))
    (row,) = rows(tmp_path / "out" / "rejected.jsonl", Rejected)
    assert row.detail.endswith("this is a number with a fraction; see `id_column`")
    with pytest.raises(Unfit, match="but of type bytes"):
        conversation(b"p")


def test_an_id_for_two_prompts_is_an_error_that_names_both(tmp_path: Path) -> None:
    one = saved(tmp_path / "a.jsonl", {"prompt": "p", "id": "x"}, {"prompt": "p", "id": "x"})
    two = saved(tmp_path / "b.jsonl", *({"prompt": text, "id": "x"} for text in "pqr"))
    with pytest.raises(DataError, match=r"b\.jsonl:3: the id '2:x' .* at b\.jsonl:2") as caught:
        read(tmp_path / "out", config(one, two))
    assert "id_column: null" in caught.value.remedy
    metrics = read(tmp_path / "none", config({"path": two, "id_column": None}, heldout=0))
    assert metrics["prompts"] == 3


def test_sources_that_number_their_prompts_alike_are_told_apart(tmp_path: Path) -> None:
    given = ([{"prompt": f"{name} {n}", "id": n} for n in range(3)] for name in "abc")
    paths = [saved(tmp_path / f"{n}.jsonl", *rows) for n, rows in enumerate(given)]
    more = saved(tmp_path / "more.jsonl", {"prompt": "d", "id": 3}, {"prompt": "e", "id": "2:1"})
    read(tmp_path / "out", config(*paths, more, heldout=0))
    ids = [prompt.id for prompt in split(tmp_path / "out", "train")]
    assert ids == ["0", "1", "2", "2:0", "2:1", "2:2", "3:0", "3:1", "3:2", "3", "4:2:1"]
    read(tmp_path / "one", config(paths[1], heldout=0))
    assert [prompt.id for prompt in split(tmp_path / "one", "train")] == ["0", "1", "2"]


def test_duplicates_name_the_first(tmp_path: Path) -> None:
    one = saved(tmp_path / "a.jsonl", {"prompt": "o"}, {"prompt": "p"})
    two = saved(tmp_path / "b.jsonl", {"prompt": "q"}, {"prompt": "p"}, {"prompt": "q"})
    read(tmp_path / "out", config(one, two, heldout=0))
    found = {r.where: r.detail for r in rows(tmp_path / "out" / "rejected.jsonl", Rejected)}
    assert found == {
        "b.jsonl:2": "the same messages as a.jsonl:2",
        "b.jsonl:3": "the same messages as b.jsonl:1",
    }


# --- transcripts ----------------------------------------------------------------------------------


def test_a_transcript_ends_before_the_answer() -> None:
    turns = said("Hi: there", "Yes.\n\nHe said: no", "Human: Assistant: x\nHuman: y", "dropped")
    assert dialogue(transcript(*turns)) == turns[:-1]
    assert dialogue(transcript(*turns[:-1])) == turns[:-1]
    assert dialogue(transcript(*turns, Message("assistant", "and this"))) == turns[:-1]


LINE = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map(str.strip).filter(bool)


@given(st.lists(LINE.filter(lambda t: "\n\n" not in t), min_size=1, max_size=7))
def test_transcripts_are_read_back_exactly(contents: list[str]) -> None:
    turns = said(*contents)
    assert dialogue(transcript(*turns)) == turns[: len(turns) - (len(turns) % 2 == 0)]


@pytest.mark.parametrize("text", ["Hello", "Note\n\nHuman: hi", ""])
def test_what_is_no_transcript_is_not_read_as_one(text: str) -> None:
    with pytest.raises(Unfit) as caught:
        dialogue(text)
    assert caught.value.why is Why.NOT_A_TRANSCRIPT


def test_transcripts_with_turns_out_of_order_are_rejected(tmp_path: Path) -> None:
    user, assistant = said("u", "a")
    source = saved(
        tmp_path / "hh.jsonl",
        {"chosen": transcript(user, assistant)},
        {"chosen": transcript(user, assistant, assistant, user, assistant)},
        {"chosen": transcript(assistant)},
        {"chosen": transcript(user, Message("assistant", " "), user, assistant)},
    )
    place = {"path": source, "format": "transcript", "column": "chosen"}
    metrics = read(tmp_path / "out", config(place, heldout=0))
    assert [why for _, why in rejected(tmp_path / "out")] == ["bad_roles", "empty", "empty"]
    assert metrics["train"] == 1


def test_chats_give_what_was_asked_before_the_last_answer(tmp_path: Path) -> None:
    talk = said("Hi", "Hello.", "Why?", "Because.")
    turns = [{"role": turn.role, "content": turn.content} for turn in talk]
    source = saved(tmp_path / "chat.jsonl", *({"messages": turns[:n]} for n in (4, 3, 2)))
    asked = {"path": source, "column": "messages"}
    metrics = read(tmp_path / "out", config(asked | {"format": "transcript"}, heldout=0))
    assert [p.messages for p in split(tmp_path / "out", "train")] == [talk[:3], talk[:1]]
    assert metrics["rejected"] == {"duplicate": 1}
    read(tmp_path / "as is", config(asked, heldout=0))
    (first, _) = rows(tmp_path / "as is" / "rejected.jsonl", Rejected)
    assert "`format: transcript` drops the answer" in first.detail


def test_a_prompt_that_looks_like_a_transcript_stays_a_prompt() -> None:
    text = transcript(*said("u", "a"))
    assert conversation(text) == (Message("user", text),)


# --- sources --------------------------------------------------------------------------------------


def test_all_kinds_of_files_give_the_same_prompts(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    talk = [{"role": "user", "content": "c"}]
    given = [
        {"prompt": talk, "id": "x", "tags": ["t"], "split": None, "more": 1.5},
        {"prompt": talk[:0], "id": None, "tags": None, "split": "train", "more": None},
    ]
    plain = saved(tmp_path / "p.jsonl", *given)
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    parquet.write_table(pa.Table.from_pylist(given), tmp_path / "p.parquet")
    hub = tmp_path / "hub"
    hub.mkdir()
    saved(hub / "train.jsonl", *given)
    metrics = []
    for n, place in enumerate(
        [{"path": tmp_path / f"p.{end}"} for end in ("jsonl", "jsonl.gz", "parquet")]
        + [{"hub": str(hub)}]
    ):
        metrics.append(read(tmp_path / f"{n}", config(place, heldout=0)))
        assert split(tmp_path / f"{n}", "train") == [Prompt("x", said("c"), ("t",))]
        assert [where.rpartition(":")[2] for where, _ in rejected(tmp_path / f"{n}")] == ["2"]
    assert len({json.dumps(m["rejected"]) for m in metrics}) == 1


def test_columns_of_other_names_are_used_or_ignored(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    given = [
        {"prompt": f"p{n}", "id": [n], "tags": n, "split": "test_sft", "uid": n, "part": part}
        for n, part in enumerate(["train", "test", "validation"])
    ]
    saved(tmp_path / "p.jsonl", *given)
    parquet.write_table(pa.Table.from_pylist(given), tmp_path / "p.parquet")
    columns = {"id_column": "uid", "tags_column": None, "split_column": "part"}
    for end in ("jsonl", "parquet"):
        read(tmp_path / end, config({"path": tmp_path / f"p.{end}", **columns}))
        assert [p.id for p in split(tmp_path / end, "train")] == ["0"]
        assert [p.id for p in split(tmp_path / end, "heldout")] == ["1", "2"]


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ({"path": "none.jsonl"}, "none.jsonl: .*No such file"),
        ({"path": "p.csv"}, "p.csv: this is no kind of file"),
        ({"path": "empty.jsonl"}, "empty.jsonl: it is empty"),
        ({"path": "broken.parquet"}, "broken.parquet: "),
        ({"path": "cut.jsonl.gz"}, "cut.jsonl.gz: "),
        ({"path": "p.jsonl", "column": "text"}, "no column 'text'; its columns are: prompt"),
        ({"hub": "hub", "hub_split": "nothing"}, "nothing"),
        ({"hub": "absent"}, "absent"),
        ({"hub": "scripted"}, "Dataset scripts are no longer supported"),
    ],
)
def test_an_unusable_source_is_an_error_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: dict[str, str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "p.jsonl", {"prompt": "p"})
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "p"}\n' * 99)[:-12])
    (tmp_path / "hub").mkdir()
    saved(tmp_path / "hub" / "train.jsonl", {"prompt": "p"})
    (tmp_path / "scripted").mkdir()
    (tmp_path / "scripted" / "scripted.py").touch()
    with pytest.raises(DataError, match=said) as caught:
        read(tmp_path / "out", config(place))
    assert caught.value.remedy


def test_a_limit_counts_prompts_of_its_source(tmp_path: Path) -> None:
    source = saved(tmp_path / "p.jsonl", *({"prompt": text} for text in ["", "a", "a", "b", "c"]))
    other = saved(tmp_path / "q.jsonl", {"prompt": "d"})
    metrics = read(tmp_path / "out", config({"path": source, "limit": 2}, other, heldout=0))
    texts = [prompt.messages[0].content for prompt in split(tmp_path / "out", "train")]
    assert texts == ["a", "b", "d"]
    assert [source["prompts"] for source in metrics["sources"]] == [2, 1]


# --- the split ------------------------------------------------------------------------------------


def test_the_split_is_by_the_first_turn_and_the_seed(tmp_path: Path) -> None:
    given = []
    for n in range(400):
        first = {"role": "user", "content": f"{n} is the question"}
        more = [{"role": "assistant", "content": "."}, {"role": "user", "content": f"more {n}"}]
        given += [{"prompt": [first]}, {"prompt": [first, *more]}]
        given.append({"prompt": f"{n} is  the QUESTION\n"})
    source = saved(tmp_path / "p.jsonl", *given)

    def heldout(into: str, seed: int) -> dict[str, int]:
        read(tmp_path / into, config(source, heldout=0.2), seed=seed)
        firsts = (p.messages[0].content for p in split(tmp_path / into, "heldout"))
        return Counter(text.split()[0] for text in firsts)

    first = heldout("a", 0)
    assert set(first.values()) == {3}, "near copies on both sides"
    assert 50 < len(first) < 110
    assert heldout("b", 0) == first
    assert heldout("c", 1) != first


def test_order_moves_no_prompt_and_writing_is_deterministic(tmp_path: Path) -> None:
    given = [{"prompt": f"question {n}"} for n in range(200)]
    one = saved(tmp_path / "p.jsonl", *given)
    two = saved(tmp_path / "q.jsonl", *reversed(given))
    for into, source in (("a", one), ("b", two), ("c", one)):
        read(tmp_path / into, config(source))
    for name in ("train", "heldout"):
        a, b = (split(tmp_path / into, name) for into in "ab")
        assert a == b[::-1]
        assert (tmp_path / "a" / f"{name}.jsonl").read_bytes() == (
            tmp_path / "c" / f"{name}.jsonl"
        ).read_bytes()


def test_nothing_to_measure_on_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = saved(tmp_path / "p.jsonl", {"prompt": "p"})
    read(tmp_path / "a", config(source, heldout=1e-9))
    assert "no prompt is held out, and so nothing will be measured" in caplog.text
    caplog.clear()
    read(tmp_path / "b", config(source, heldout=0))  # as was asked for
    assert not caplog.text


def test_nothing_to_train_on_is_an_error(tmp_path: Path) -> None:
    source = saved(tmp_path / "p.jsonl", {"prompt": "p", "split": "heldout"})
    with pytest.raises(DataError, match="all prompts are held out"):
        read(tmp_path / "out", config(source))


# --- rlaif data check -----------------------------------------------------------------------------


def check(*arguments: object) -> Result:
    return CliRunner().invoke(data, ["check", *map(str, arguments)])


def test_check_says_what_a_file_gives(tmp_path: Path) -> None:
    source = saved(
        tmp_path / "hh.jsonl",
        {"chosen": transcript(*said("u", "a")), "tags": "red"},
        *({"chosen": " "} for _ in range(7)),
    )
    asked = (source, "--column", "chosen", "--format", "transcript")
    shown = check(*asked)
    assert shown.exit_code == 0
    assert "7 rejected: not_a_transcript\n  hh.jsonl:2: it does not begin with" in shown.output
    assert "hh.jsonl:6" in shown.output
    assert "hh.jsonl:7" not in shown.output
    found = json.loads(check(*asked, "--json").output)
    assert found["ok"] is True
    assert (found["rows"], found["train"], found["tags"]) == (8, 1, {"red": 1})
    assert found["rejected"] == {"not_a_transcript": 7}


def test_check_of_a_config_reads_its_sources(tmp_path: Path) -> None:
    saved(tmp_path / "p.jsonl", *({"prompt": f"{n}"} for n in range(50)))
    run = tmp_path / "run.yaml"
    run.write_text(
        "name: r\nmodel: sandbox\nconstitution: sandbox\nseed: 3\n"
        "prompts:\n  heldout: 0.5\n  sources:\n    - path: p.jsonl\n"
    )
    found = json.loads(check(run, "--json").output)
    into = tmp_path / "out"
    metrics = read(into, config(tmp_path / "p.jsonl", heldout=0.5), seed=3)
    assert {key: found[key] for key in metrics} == metrics
    assert check(run, "--column", "x").exit_code == 2
    began = tmp_path / "runs" / "r"
    began.mkdir(parents=True)
    (began / "run.json").write_text(json.dumps({"config": load(run).resolved()}))
    assert json.loads(check(began, "--json").output) == found
    assert [path.name for path in began.iterdir()] == ["run.json"]  # a look writes nothing


def test_check_of_a_path_that_cannot_be_has_a_remedy() -> None:
    error = check(Path("~nobody-here/p.jsonl")).exception
    assert isinstance(error, ConfigError)
    assert "no user nobody-here" in error.what
    assert error.remedy


def test_check_fails_where_the_run_would(tmp_path: Path) -> None:
    source = saved(tmp_path / "p.jsonl", {"text": "p"})
    failed = check(source, "--json")
    assert failed.exit_code == 1
    found = json.loads(failed.output)
    assert found["ok"] is False
    assert "no column 'prompt'; its columns are: text" in found["problem"]
    failed = check(source)
    assert isinstance(failed.exception, DataError)
    held = saved(tmp_path / "q.jsonl", {"prompt": "p", "split": "heldout"})
    assert json.loads(check(held, "--json").output)["ok"] is False
