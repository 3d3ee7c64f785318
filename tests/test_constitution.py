"""Loading, inheritance, digests, comparison and writing of constitutions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rlaif.constitution import (
    Constitution,
    Examples,
    PreferExample,
    Principle,
    compare,
    json_schema,
    load,
    loads,
    to_yaml,
)
from rlaif.constitution.comparing import rewordings, words
from rlaif.documents import DocumentError
from rlaif.errors import ConfigError
from rlaif.records import Message

SHIPPED = sorted((Path(__file__).parents[1] / "constitution").glob("*.yaml"))

LAW = """\
id: law
version: 1.0
principles:
  - id: kind
    critique: Where is the response unkind?
    revise: Make the response kind.
    prefer: Which response is kinder?
  - id: short
    critique: Where is the response long?
    revise: [Shorten the response., Cut the response.]
    prefer: Which response is shorter?
    weight: 0.5
    tags: [no, on]
    applies_to: letters
"""


def problems(text: str) -> list[tuple[int, int, str]]:
    with pytest.raises(DocumentError) as caught:
        loads(text, "law.yaml")
    return [(p.mark.line, p.mark.column, p.what) for p in caught.value.problems]


def replaced(old: str, new: str) -> str:
    assert old in LAW
    return LAW.replace(old, new)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_constitution_loads(path: Path) -> None:
    assert load(path).principles


def test_the_general_constitution_guards_against_harm_evasion_and_preaching() -> None:
    general = load(next(path for path in SHIPPED if path.name == "general.yaml"))
    tags = {tag for principle in general.principles for tag in principle.tags}
    assert len(general.principles) >= 16
    assert {"harmless", "helpful", "honest", "not-evasive", "not-preachy"} <= tags
    assert all(p.critique and p.revise and p.prefer for p in general.principles)
    assert general.examples.critique
    assert general.examples.prefer


def test_everything_is_the_text_that_was_typed() -> None:
    law = loads(LAW)
    short = law["short"]
    assert law.version == "1.0"
    assert short.tags == ("no", "on")
    assert short.applies_to == ("letters",)
    assert short.revise == ("Shorten the response.", "Cut the response.")
    assert short.weight == 0.5
    assert law["kind"].critique == ("Where is the response unkind?",)


def test_conversations_are_messages() -> None:
    examples = """
examples:
  prefer:
    - principle: kind
      conversation: [user: Hello, assistant: Hi, user: Bye]
      better: Bye!
      worse: Go.
"""
    example = loads(LAW + examples).examples.prefer[0]
    roles = ("user", "assistant", "user")
    texts = ("Hello", "Hi", "Bye")
    assert example.conversation == tuple(map(Message, roles, texts))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("old", "new", "line", "column", "what"),
    [
        ("weight:", "wieght:", 12, 5, "the key 'wieght' is unknown"),
        ("weight: 0.5", "weight: yes", 12, 13, "`weight` ('yes') is not a number"),
        ("weight: 0.5", "weight: -1", 12, 13, "`weight` ('-1') is below 0"),
        ("weight: 0.5", "weight: .inf", 12, 13, "`weight` ('.inf') is not a number"),
        ("weight: 0.5", "weight: nan", 12, 13, "`weight` ('nan') is not a finite number"),
        ("    revise: Make the response kind.\n", "", 4, 5, "the principle 'kind' has no `revise`"),
        ("revise: Make the response kind.", "revise:", 6, 5, "`revise` has no value"),
        ("revise: Make the response kind.", 'revise: ""', 6, 13, "`revise` is empty"),
        ("revise: Make the response kind.", "revise: {a: b}", 6, 13, "`revise` is not a list"),
        ("revise: Make the response kind.", "revise: []", 4, 5, "`critique` asks, but `revise` is"),
        ("id: short", "id: kind", 8, 9, "the principle 'kind' is here twice; first on line 4"),
        ("id: short", "id: Too Short", 8, 9, "`id` ('Too Short') is not an id"),
        ("id: short", "id: ../x", 8, 9, "`id` ('../x') is not an id"),
        ("id: law", "id: &a law", 1, 5, "an anchor ('&a') is not allowed"),
        ("tags: [no, on]", "tags: *a", 13, 11, "an alias ('*a') is not allowed"),
        ("id: law", "id: !!str law", 1, 5, "a YAML tag ('tag:yaml.org,2002:str') is not"),
        ("id: law", "id: law\nid: law2", 2, 1, "the key 'id' is here twice; it is first on line 1"),
        ("id: law\n", "", 1, 1, "the constitution has no `id`"),
        ("version: 1.0", "version: ~", 2, 1, "`version` has no value"),
        ("kinder?", "kinder: or not?", 7, 37, "this is not YAML: mapping values are not allowed"),
        ("kinder?", "kind\u202eer?", 7, 35, "here is the code point (U+202E)"),
        ("version: 1.0", 'version: "\\0"', 2, 10, "the text holds a NUL (U+0000)"),
        ("[Shorten the response., Cut", "[Cut the response., Cut", 8, 5, "`revise` says the same"),
        ("id: law", "drop: [kind]\nid: law", 1, 1, "`drop` without `extends`"),
        ("id: law", "extends: http://a/b.yaml\nid: law", 1, 10, "`extends` ('http://a/b.yaml') is"),
        ("id: law", "extends: /etc/passwd\nid: law", 1, 10, "`extends` ('/etc/passwd') is not"),
        ("id: law", "extends: gone.yaml\nid: law", 1, 10, "`extends` names 'gone.yaml', and there"),
    ],
)
def test_an_error_says_where_and_what(
    old: str, new: str, line: int, column: int, what: str
) -> None:
    found = problems(replaced(old, new))
    assert any(place == [line, column] and text.startswith(what) for *place, text in found), found


def test_all_errors_come_at_once_in_file_order_with_remedies() -> None:
    text = replaced("weight: 0.5", "wieght: 1\n    weight: -1").replace("kinder?", '""')
    text = text.replace("id: kind", "id: &a kind").replace(
        "    prefer: Which response is s", "    #"
    )
    found = problems(text)
    assert [line for line, *_ in found] == sorted(line for line, *_ in found)
    assert len(found) == 4
    with pytest.raises(ConfigError) as caught:
        loads(text, "law.yaml")
    assert str(caught.value).count("remedy: ") == 4
    assert "did you mean `weight`?" in str(caught.value)
    assert caught.value.where == "law.yaml:4:9"


def test_an_example_must_name_a_principle() -> None:
    examples = "examples:\n  prefer:\n  - {principle: kin, conversation: a, better: b, worse: c}\n"
    assert problems(LAW + examples) == [(17, 17, "no principle is called 'kin'")]


def test_an_example_asks_something() -> None:
    of = "principle: kind, better: b, worse: c"
    examples = f"examples:\n  prefer:\n  - {{{of}, conversation: '  '}}\n"
    assert problems(LAW + examples) == [(17, 58, "the conversation is empty")]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "there is no such file"),
        (b"", "the file is empty"),
        (b"- a\n- b\n", "the file is not `key: value` lines"),
        (b"id: a\n---\nid: b\n", "a second YAML document starts here"),
        (b"id: \xff\n", "byte 0xff is not UTF-8"),
        ("\ufeffid: a\n".encode(), "here is a byte order mark"),
        (b"id: " + b"a" * (1 << 20), "the file is larger than 1 MiB"),
        (b"[" * 40, "the file has more than 16 levels deep"),
        (b"a: [" + b"1," * 30_000 + b"]", "the file has more than 20,000 values"),
    ],
)
def test_files_that_are_no_constitution(tmp_path: Path, content: bytes | None, what: str) -> None:
    path = tmp_path / "law.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DocumentError, match=what.replace("(", r"\(")):
        load(path)


def test_a_folder_or_a_device_is_not_a_constitution(tmp_path: Path) -> None:
    for path in (tmp_path, Path("/dev/zero"), Path("a\0b")):
        with pytest.raises(DocumentError):
            load(path)


# ---- extends ----


def extended(tmp_path: Path, child: str, parent: str = LAW) -> Constitution:
    (tmp_path / "parent.yaml").write_text(parent)
    (tmp_path / "child.yaml").write_text("id: child\nversion: 2\nextends: parent.yaml\n" + child)
    return load(tmp_path / "child.yaml")


def test_a_parent_is_not_blamed_for_a_list_left_empty(tmp_path: Path) -> None:
    examples = "examples:\n  prefer:\n  - {principle: kind, conversation: a, better: b, worse: c}\n"
    with pytest.raises(DocumentError) as caught:
        extended(tmp_path, "principles:\n", LAW + examples)
    (problem,) = caught.value.problems
    assert problem.what == "`principles` has no value"


def test_a_child_overrides_by_key_adds_and_drops(tmp_path: Path) -> None:
    child = extended(
        tmp_path,
        """\
drop: [short]
principles:
  - id: kind
    weight: 3
  - {id: new, critique: [], revise: Improve it., prefer: []}
""",
    )
    assert [p.id for p in child.principles] == ["kind", "new"]
    assert child["kind"].weight == 3
    assert child["kind"].prefer == ("Which response is kinder?",)
    assert (child.id, child.version, child.title) == ("child", "2", "")


def test_a_child_may_only_drop(tmp_path: Path) -> None:
    assert [p.id for p in extended(tmp_path, "drop: [kind]\n").principles] == ["short"]
    assert extended(tmp_path, "").digest == loads(LAW).digest


def test_examples_go_with_a_dropped_principle_and_are_replaced_by_kind(tmp_path: Path) -> None:
    example = "- {principle: %s, conversation: a, better: b, worse: c}"
    parent = f"{LAW}examples:\n  prefer:\n  {example % 'kind'}\n  {example % 'short'}\n"
    child = extended(tmp_path, "drop: [kind]\n", parent)
    assert [e.principle for e in child.examples.prefer] == ["short"]
    own = f"examples:\n  prefer:\n  {example % 'kind'}\n"
    assert [e.principle for e in extended(tmp_path, own, parent).examples.prefer] == ["kind"]


@pytest.mark.parametrize(
    ("child", "what"),
    [
        ("drop: [shor]\n", r"child.yaml:4:8: `drop` names 'shor'(.|\n)*did you mean `short`"),
        ("principles: [{id: kin}]\n", r"child.yaml:4:14: the principle 'kin'(.|\n)*mean `kind`"),
        ("principles: [{id: kind, weight: x}]\n", r"child.yaml:4:33: `weight` \('x'\) is not"),
    ],
)
def test_errors_in_a_child_point_into_it(tmp_path: Path, child: str, what: str) -> None:
    with pytest.raises(DocumentError, match=what):
        extended(tmp_path, child)


def test_errors_in_a_parent_point_into_it(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"parent.yaml:12:13: `weight`"):
        extended(tmp_path, "", LAW.replace("0.5", "x"))


def test_circles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"parent.yaml:1:10: `extends` goes in a circle"):
        extended(tmp_path, "", "extends: child.yaml\n" + LAW)
    (tmp_path / "self.yaml").write_text("extends: ./self.yaml\n" + LAW)
    with pytest.raises(DocumentError, match=r"circle: self\.yaml -> self\.yaml"):
        load(tmp_path / "self.yaml")


# ---- digests ----


def test_digests_ignore_what_no_model_reads() -> None:
    kind, short = LAW.split("  - id: ")[1:]
    reordered = (
        f"# comment\ntitle: T\nversion: 9\nid: other\nprinciples:\n  - id: {short}  - id: {kind}"
    )
    folded = reordered.replace(
        "Make the response kind.", ">-\n      Make the\n      response kind."
    )
    assert loads(folded).digest == loads(LAW).digest
    assert loads(folded)["kind"].digest == loads(LAW)["kind"].digest


def test_digests_tell_meaning_apart() -> None:
    law = loads(LAW)
    reworded = loads(replaced("kinder", "nicer"))
    assert reworded["kind"].digest != law["kind"].digest
    assert reworded["short"].digest == law["short"].digest
    weighted = loads(replaced("0.5", "0.6"))
    assert weighted["short"].digest == law["short"].digest
    assert len({law.digest, reworded.digest, weighted.digest}) == 3


def test_without_leaves_out_a_principle_and_its_examples() -> None:
    examples = "examples: {prefer: [{principle: kind, conversation: a, better: b, worse: c}]}\n"
    law = loads(LAW + examples)
    assert law.without("kind") == loads(LAW).without("kind")
    with pytest.raises(KeyError):
        law.without("unknown")


def test_constitutions_built_in_code_are_checked_too() -> None:
    kind = loads(LAW)["kind"]
    for principles in [(kind, kind), (), (kind.model_copy(update={"weight": 0.0}),)]:
        with pytest.raises(ValueError, match=r"same id|at least 1|switched off"):
            Constitution(id="a", version="1", principles=principles)


# ---- comparing ----


def test_compare_names_what_became_of_each_principle() -> None:
    old = loads(LAW)
    new = loads(replaced("0.5", "1").replace("kinder", "nicer"))
    changes = compare(old, new)
    assert (changes.reworded, changes.moved, changes.unchanged) == (("kind",), ("short",), ())
    renamed = compare(old, loads(replaced("id: kind", "id: gentle")))
    assert renamed.renamed == {"kind": "gentle"}
    assert (renamed.added, renamed.removed, renamed.unchanged) == ((), (), ("short",))
    assert compare(old, old.without("kind")).removed == ("kind",)
    assert compare(old.without("kind"), old).added == ("kind",)
    assert not compare(old, old)


def test_rewordings_show_words() -> None:
    old, new = loads(LAW)["kind"], loads(replaced("kinder?", "much kinder?"))["kind"]
    spans = rewordings(old, new)["prefer"]
    assert [(s.sign, s.text) for s in spans] == [
        (0, "Which response is"),
        (1, " much"),
        (0, " kinder?"),
    ]


@settings(deadline=None)
@given(st.text("ab \n"), st.text("ab \n"))
def test_word_diffs_lose_nothing(old: str, new: str) -> None:
    spans = words(old, new)
    assert "".join(s.text for s in spans if s.sign <= 0) == old
    assert "".join(s.text for s in spans if s.sign >= 0) == new


# ---- writing ----

unseen = "\u115f\u1160\u3164\uffa0" + "".join(map(chr, range(0xE0100, 0xE01F0)))
seen = st.characters(codec="utf-8", exclude_categories=("C", "Zl", "Zp"), exclude_characters=unseen)
prose = st.text(seen | st.just("\n"))
texts = prose.map(str.strip).filter(bool)
ids = st.from_regex(r"[a-z0-9]{1,4}(-[a-z0-9]{1,4}){0,2}", fullmatch=True)
principles = st.builds(
    Principle,
    id=ids,
    critique=st.just(()),
    revise=st.lists(texts, min_size=1, max_size=3, unique=True).map(tuple),
    prefer=st.lists(texts, max_size=2, unique=True).map(tuple),
    weight=st.floats(1e-9, 1e9),
    tags=st.lists(texts, max_size=2).map(tuple),
    applies_to=st.lists(texts, max_size=2).map(tuple),
)


@settings(deadline=None, max_examples=40)
@given(st.lists(principles, min_size=1, max_size=4, unique_by=lambda p: p.id), texts, texts)
def test_what_is_written_reads_back_equal(found: list[Principle], version: str, said: str) -> None:
    example = PreferExample(
        principle=found[0].id,
        conversation=(Message("user", said), Message("assistant", version), Message("user", said)),
        better=said,
        worse=version,
    )
    law = Constitution(
        id="law",
        version=version,
        description=said,
        principles=tuple(found),
        examples=Examples(prefer=(example,)),
    )
    assert loads(to_yaml(law)) == law


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_constitutions_survive_writing(path: Path) -> None:
    assert loads(to_yaml(load(path))) == load(path)


# ---- JSON Schema ----


def test_every_field_is_described() -> None:
    schema = json_schema()
    for part in [schema, *schema["$defs"].values()]:
        for name, field in part.get("properties", {}).items():
            assert field.get("description"), name


def test_the_schema_accepts_what_ships_and_refuses_typos() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json_schema())
    for path in SHIPPED:
        validator.validate(yaml.safe_load(path.read_text()))
    validator.validate({"id": "a", "version": "1", "extends": "b.yaml", "drop": ["c"]})
    law = yaml.safe_load(LAW.replace("[no, on]", "[a]"))
    assert validator.is_valid(law)
    assert not validator.is_valid({**law, "principals": []})
    assert not validator.is_valid({"id": "a", "version": "1"})


def test_the_shipped_schema_is_current() -> None:
    path = SHIPPED[0].parent / "schema.json"
    assert json.loads(path.read_text()) == json_schema(), "run rlaif constitution schema"
