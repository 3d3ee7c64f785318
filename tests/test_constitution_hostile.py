"""Hostile YAML: 300 files, none of which may crash, hang or pass for something else."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlaif.constitution import Constitution, load, loads
from rlaif.documents import DocumentError

LAW = """\
id: law
version: 1.0
principles:
  - id: kind
    critique: Where is the response unkind?
    revise: Make the response kind.
    prefer: Which response is kinder?
    weight: 1.5
    tags: [a, b]
examples:
  prefer:
    - principle: kind
      conversation: [user: Hello]
      better: Hi
      worse: What
"""
LINES = LAW.splitlines(keepends=True)
HIDDEN = "\0\x01\x07\x0b\x0c\x1b\x7f\x80\x85"
HIDDEN += "\xad\u115f\u1160\u3164\uffa0\ufffe\uffff\U000e0100"
HIDDEN += "\u061c\u200b\u200f\u2028\u202a\u202e\u2066\u2069\ufeff\U000e0041"
PLAIN = [
    "no",
    "yes",
    "on",
    "off",
    "~",
    "null",
    "1.0",
    "0x1F",
    "0o17",
    "1_000",
    "12:30:45",
    "2026-01-01",
]
PLAIN += [
    "",
    "-",
    "---",
    "...",
    "<<",
    "=",
    "?",
    "@",
    "`",
    "%",
    "'",
    '"',
    "|",
    ">",
    "{",
    "}",
    "[",
    "]",
]
PLAIN += [
    "&a",
    "*a",
    "!!python/object/apply:os.system [id]",
    "!!binary aGk=",
    "!local x",
    "! x",
    "<<: 1",
]
PLAIN += ["{a: *b}", "[&a [*a]]", '"\\ud800"', '"\\U0010FFFF"', '"\\x00"', '"\\u202e"', "\t", "# x"]
PLAIN += [".nan", "-.inf", "1e400", "9" * 400, "a" * 5000, "{? [a] : b}", "{? {a: b} : c}", "- x"]


def _bomb() -> str:
    rungs = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    return "\n".join(["a0: &a0 [lol]", *rungs])


def _values() -> list[str]:
    """Each value of the law replaced by something odd."""
    return [
        "".join([*LINES[:n], LINES[n].split(":")[0] + ": " + odd + "\n", *LINES[n + 1 :]])
        for n in (0, 1, 5, 7)
        for odd in PLAIN
    ]


def _hidden() -> list[str]:
    half = len(LAW) // 2
    return [text for c in HIDDEN for text in (c + LAW, LAW[:half] + c + LAW[half:], LAW + c)]


@pytest.mark.parametrize("hidden", list(HIDDEN))
def test_what_nobody_sees_is_told_at_its_place(hidden: str) -> None:
    with pytest.raises(DocumentError) as caught:
        loads(LAW.replace("kind", f"ki{hidden}nd", 1))
    (problem,) = caught.value.problems
    assert f"U+{ord(hidden):04X}" in problem.what
    assert problem.mark.line == LAW[: LAW.index("kind")].count("\n") + 1


def test_a_tab_as_indentation_says_so() -> None:
    with pytest.raises(DocumentError) as caught:
        loads("id: a\nprinciples:\n- id: b\n\tcritique: c\n")
    assert "spaces, not tabs" in caught.value.remedy


def _structure() -> list[str]:
    swaps = [
        LAW.replace(*pair)
        for pair in [("  ", "\t"), (":", ""), ("- ", ""), ("\n", "\r"), (" ", "")]
    ]
    twice = ["".join([*LINES[:n], LINES[n], *LINES[n:]]) for n in range(len(LINES))]
    gone = ["".join(LINES[:n] + LINES[n + 1 :]) for n in range(len(LINES))]
    return [*swaps, *twice, *gone, LAW + "---\n" + LAW, LAW + "...\nx", "%YAML 9.9\n---\n" + LAW]


def _large() -> list[str]:
    return [
        _bomb(),
        "[" * 100_000,
        "{" * 100_000,
        "- " * 100_000,
        "? " * 50_000,
        "a: " * 50_000,
        "\n".join(" " * n + "- a:" for n in range(1000)),
        "\n".join(f"k{n}: v" for n in range(100_000)),
        LAW + "\n".join(f"k{n}: v" for n in range(9_000)),
        LAW.replace("tags: [a, b]", "tags: [" + "x," * 400_000 + "]"),
        LAW.replace("tags: [a, b]", "\n    ".join(f"k{n}: v" for n in range(8_000))),
        LAW.replace("Hello", "a" * 1_100_000),
        LAW + "# " + "\u202e" * 200_000,
        '"' + "\\n" * 400_000,
        "|\n" + " a\n" * 200_000,
        "!" * 500_000,
        "&" + "a" * 900_000 + " b",
        "a" * 1_000_000 + ": b",
        "principles: [" + "{id: a}," * 6_000 + "]",
        "extends: " + "../" * 10_000 + "a.yaml",
    ]


def _mutated(count: int) -> list[str]:
    """The law with a few characters moved, doubled, dropped or replaced, from a fixed seed."""
    draw = random.Random(7)
    found = []
    for _ in range(count):
        text = list(LAW)
        for _ in range(draw.randint(1, 6)):
            at = draw.randrange(len(text))
            text[at] = draw.choice(["", text[at] * 2, *"\n :-[]{}\"'&*!|>%@`#,?\t", "\n  ", "é"])
        found.append("".join(text))
    return found


HOSTILE = [*_values(), *_hidden(), *_structure(), *_large()]
HOSTILE += _mutated(max(0, 340 - len(HOSTILE)))


def outcome(path: Path) -> Constitution | DocumentError:
    """The constitution or a well-formed error, within a second."""
    start = time.process_time()
    try:
        found: Constitution | DocumentError = load(path)
    except DocumentError as error:
        found = error
    assert time.process_time() - start < 1
    return found


def test_there_are_300() -> None:
    assert len(set(HOSTILE)) >= 300


@pytest.mark.parametrize("number", range(0, len(HOSTILE), 20))
def test_hostile_files(number: int, tmp_path: Path) -> None:
    path = tmp_path / "law.yaml"
    for text in HOSTILE[number : number + 20]:
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        found = outcome(path)
        if isinstance(found, DocumentError):
            assert 1 <= len(found.problems) <= 50
            assert len(str(found)) < 50_000
            for problem in found.problems:
                assert problem.what
                assert problem.remedy
                assert problem.mark.line >= 1
                assert problem.mark.column >= 1
                assert str(problem.mark) in str(found)
                assert problem.what.isprintable()


@pytest.mark.parametrize("raw", [b"\xff\xfe" + LAW.encode("utf-16-le"), b"\x80abc", b"id: \xc3("])
def test_other_encodings(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "law.yaml"
    path.write_bytes(raw)
    with pytest.raises(DocumentError, match="not UTF-8"):
        load(path)


@pytest.mark.parametrize(
    "odd", ["no", "yes", "off", "1_000", "0x1F", "2026-01-01", "12:30:45", "<<"]
)
def test_plain_words_stay_words(odd: str) -> None:
    assert loads(LAW.replace("version: 1.0", f"version: {odd}")).version == odd


@pytest.mark.parametrize("odd", ["no", "0x1F", "12:30:45", "1e400", ".inf", "nan", "1 2"])
def test_weights_are_plain_finite_numbers(odd: str) -> None:
    with pytest.raises(DocumentError, match=r"law.yaml:8:13: `weight` \("):
        loads(LAW.replace("1.5", odd), "law.yaml")


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8") | st.sampled_from("\n :-[]{}&*!|>'\"#"), max_size=200))
def test_any_text_is_a_constitution_or_an_error_with_a_place(text: str) -> None:
    with pytest.raises(DocumentError) as caught:
        loads(text)
    assert all(problem.mark.line >= 1 for problem in caught.value.problems)
