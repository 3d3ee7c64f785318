"""The completions store: keys, reading one's writes, failures that speak up, many threads."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlaif.completions import Store, key
from rlaif.completions import sqlite as sqlite_table
from rlaif.completions.calls import decode, encode, pack, unpack
from rlaif.errors import StoreError
from rlaif.records import Answer, Call, Message, Sampling

ANY_TEXT = st.text(
    st.characters(exclude_categories=()), max_size=8
)  # NUL and lone surrogates included
SOME_TEXTS = st.lists(ANY_TEXT, max_size=3).map(tuple)
WHOLE = st.integers(-(2**70), 2**70)
FLOAT = st.floats(allow_nan=False)
MESSAGE = st.builds(Message, st.sampled_from(["system", "user", "assistant"]), ANY_TEXT)
SAMPLING = st.builds(Sampling, FLOAT, FLOAT, WHOLE, SOME_TEXTS, WHOLE)
CALL = st.builds(Call, st.lists(MESSAGE, max_size=3).map(tuple), SAMPLING, WHOLE, SOME_TEXTS)
ANSWER = st.builds(
    Answer,
    ANY_TEXT,
    st.sampled_from(["stop", "length"]),
    st.integers(0, 2**40),
    st.integers(0, 2**40),
    st.lists(FLOAT, max_size=3).map(tuple),
)

CALL_1 = Call((Message("system", "Be brief."), Message("user", "Why is the sky blue?")))
SAID = Answer("Rayleigh.", "stop", 12, 3)


def ask(number: int) -> Call:
    """One of many different calls."""
    return replace(CALL_1, sample=number)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "completions.sqlite3") as store:
        yield store


# Keys


@settings(deadline=None)
@given(ANY_TEXT, CALL)
def test_an_encoding_can_be_decoded_so_no_two_calls_share_a_key(model: str, call: Call) -> None:
    assert decode(encode(model, call)) == (model, call)


@settings(deadline=None)
@given(st.tuples(ANY_TEXT, CALL), st.tuples(ANY_TEXT, CALL))
def test_keys_are_equal_exactly_when_calls_are(a: tuple[str, Call], b: tuple[str, Call]) -> None:
    assert (key(*a) == key(*b)) == (a == b)
    assert len(key(*a)) == 32


@pytest.mark.parametrize("field", [f.name for f in fields(Sampling)])
def test_every_sampling_field_changes_the_key(field: str) -> None:
    other: dict[str, object] = {
        "temperature": 0.5, "top_p": 0.5, "max_tokens": 1, "stop": ("x",), "seed": 1,
    }  # fmt: skip
    changed = replace(CALL_1, sampling=replace(CALL_1.sampling, **{field: other[field]}))  # type: ignore[arg-type]
    assert key("m", changed) != key("m", CALL_1)


@pytest.mark.parametrize("field", [f.name for f in fields(Call)])
def test_every_call_field_changes_the_key(field: str) -> None:
    other: dict[str, object] = {
        "messages": CALL_1.messages[1:],
        "sampling": Sampling(0.0),
        "sample": 1,
        "labels": ("A", "B"),
    }
    assert key("m", replace(CALL_1, **{field: other[field]})) != key("m", CALL_1)  # type: ignore[arg-type]


def test_where_a_string_ends_and_what_it_is_changes_the_key() -> None:
    def messages(*turns: tuple[str, str]) -> Call:
        return Call(tuple(Message(role, content) for role, content in turns))  # type: ignore[arg-type]

    different = [
        CALL_1,
        messages(("user", "ab"), ("user", "c")),
        messages(("user", "a"), ("user", "bc")),
        messages(("user", "a4:user2:bc")),
        messages(("user", "abc")),
        messages(("assistant", "abc")),
        replace(messages(("user", "abc")), labels=("a", "b")),
        replace(messages(("user", "abc")), labels=("ab",)),
        replace(messages(("user", "abc")), sampling=Sampling(stop=("a", "b"))),
        replace(messages(("user", "abc")), sampling=Sampling(stop=("ab",))),
    ]
    keys = {key(model, call) for model in ("m", "m@1", "") for call in different}
    assert len(keys) == 3 * len(different)


def test_equal_calls_have_equal_keys_whatever_their_types() -> None:
    whole = replace(CALL_1, sampling=Sampling(temperature=1, top_p=1, seed=False))
    assert whole == CALL_1
    assert key("m", whole) == key("m", CALL_1)
    assert key("m", replace(CALL_1, sampling=Sampling(-0.0))) == key(
        "m", replace(CALL_1, sampling=Sampling(0.0))
    )


def test_a_key_never_changes_between_releases() -> None:
    assert encode("m", CALL_1) == (
        b"1 1.0 1.0 256 0 0 0 0 1:m6:system9:Be brief.4:user20:Why is the sky blue?"
    )
    assert key("m", CALL_1).hex() == PINNED


PINNED = "5605674c85efcf635a9a801de05ddbfd393bf72b87a225b2fed5665b8dd957f8"


@settings(deadline=None)
@given(st.lists(st.binary(), max_size=5))
def test_a_block_returns_what_was_packed(encoded: list[bytes]) -> None:
    assert unpack(pack(encoded)) == encoded


# Reading and writing


@settings(deadline=None, max_examples=20)
@given(st.dictionaries(st.tuples(st.sampled_from(["", "m", "é@1"]), CALL), ANSWER, max_size=4))
def test_what_was_put_comes_back_exactly(answers: dict[tuple[str, Call], Answer]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with Store(Path(folder) / "s") as store:
            for (model, call), answer in answers.items():
                store.put(key(model, call), call, answer, model)
        with Store(Path(folder) / "s") as store:
            keys = {asked: key(*asked) for asked in answers}
            found = store.get_many(keys.values())
            assert found == {keys[asked]: answer for asked, answer in answers.items()}
            for (model, call), answer in answers.items():
                record = store.lookup(key(model, call))
                assert record is not None
                assert (record.model, record.call, record.answer) == (model, call, answer)


def test_a_put_can_be_read_at_once_and_the_first_one_stays(store: Store) -> None:
    late = replace(SAID, text="late")
    for moment in range(3):  # queued, then committed
        store.put(key("m", CALL_1), CALL_1, late if moment else SAID, "m")
        assert store.get_many([key("m", CALL_1)]) == {key("m", CALL_1): SAID}
        store.flush()
    assert store.get_many([key("m", CALL_1)]) == {key("m", CALL_1): SAID}
    assert [summary.rows for summary in store.summaries()] == [1]


def test_the_row_in_the_file_wins_over_a_later_one_in_the_queue(tmp_path: Path) -> None:
    with Store(tmp_path / "s") as one, Store(tmp_path / "s", linger=60) as two:
        one.put(key("m", CALL_1), CALL_1, SAID, "m")
        one.flush()
        two.put(key("m", CALL_1), CALL_1, replace(SAID, text="late"), "m")
        assert two.get_many([key("m", CALL_1)]) == {key("m", CALL_1): SAID}


def test_rows_are_committed_soon_even_without_flush(tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store, Store(tmp_path / "s") as other:
        store.put(key("m", CALL_1), CALL_1, SAID, "m")
        deadline = time.monotonic() + 20
        while not other.get_many([key("m", CALL_1)]):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_find_takes_any_prefix_of_the_hex_key(store: Store) -> None:
    keys = sorted(key("m", ask(n)) for n in range(300))
    for number in range(300):
        store.put(key("m", ask(number)), ask(number), SAID, "m")
    for size in (0, 1, 2, 3, 64):
        prefix = keys[7].hex()[:size]
        expected = [k for k in keys if k.hex().startswith(prefix)]
        assert [record.key for record in store.find(prefix, limit=300)] == expected
    assert len(store.find("", limit=5)) == 5
    assert store.lookup(bytes(32)) is None
    for nonsense in ("xyz", "0" * 65):
        with pytest.raises(StoreError, match="not the start of a key"):
            store.find(nonsense)


def test_many_keys_at_once(store: Store) -> None:
    calls = [ask(number) for number in range(2000)]
    for number, call in enumerate(calls):
        store.put(key("m", call), call, replace(SAID, prompt_tokens=number), "m")
    store.flush()
    found = store.get_many([key("m", call) for call in calls] + [bytes(32)])
    assert [found[key("m", call)].prompt_tokens for call in calls] == list(range(2000))
    assert len(found) == 2000


def test_pruning_removes_answers_with_their_prompts(store: Store) -> None:
    for number in range(600):
        model = "old" if number % 3 else "new"
        store.put(key(model, ask(number)), ask(number), SAID, model)
    assert store.prune(model="old", dry_run=True) == 400
    assert store.prune(model="old", before=1.0) == 0
    assert store.prune(model="old") == 400
    assert [(s.model, s.rows) for s in store.summaries()] == [("new", 200)]
    assert {record.model for record in store.records()} == {"new"}
    assert store.prune(before=time.time() + 60) == 200
    tables = sqlite3.connect(store.where)
    assert tables.execute("SELECT count(*) FROM blocks").fetchone() == (0,)
    tables.close()


def test_threads_share_a_store(store: Store) -> None:
    def work(first: int) -> None:
        for number in range(first, first + 400):
            store.put(key("m", ask(number)), ask(number), SAID, "m")
            assert store.get_many([key("m", ask(number))])
        store.flush()

    threads = [threading.Thread(target=work, args=(n * 200,)) for n in range(8)]
    failed: list[object] = []
    hook, threading.excepthook = threading.excepthook, failed.append
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        threading.excepthook = hook
    assert not failed
    assert store.summaries()[0].rows == 1800


# Failures


def test_a_failed_write_is_told_and_its_rows_are_kept(tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store:
        store.put(key("m", ask(0)), ask(0), SAID, "m")
        store.flush()
        connection = store._table._idle[0]  # type: ignore[attr-defined]
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")  # a full disk
        long = Call((Message("user", os.urandom(50_000).hex()),))
        store.put(key("m", long), long, SAID, "m")
        with pytest.raises(StoreError, match=r"disk is full[^\n]* 1 answers are waiting") as caught:
            store.flush()
        assert "remedy: free some space" in str(caught.value)
        with pytest.raises(StoreError, match="disk is full"):
            store.put(key("m", ask(1)), ask(1), SAID, "m")
        assert store.get_many([key("m", long)]) == {key("m", long): SAID}
        connection.execute("PRAGMA max_page_count = 1000000")
        store.flush()
        assert store.lookup(key("m", long))
        assert not store.get_many([key("m", ask(1))])


def test_close_tells_what_could_not_be_written(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    store._table.insert = broken  # type: ignore[method-assign]
    store.put(key("m", CALL_1), CALL_1, SAID, "m")
    with pytest.raises(StoreError, match="1 answers are waiting"):
        store.close()
    store.close()
    for use in (store.flush, lambda: store.put(key("m", CALL_1), CALL_1, SAID, "m")):
        with pytest.raises(StoreError, match="closed"):
            use()


def broken(puts: object) -> None:
    raise ZeroDivisionError("a bug")


def test_a_lock_held_too_long_is_told_and_then_overcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_table, "BUSY", 0.05)
    with Store(tmp_path / "s") as store:
        other = sqlite3.connect(tmp_path / "s", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        store.put(key("m", CALL_1), CALL_1, SAID, "m")
        with pytest.raises(StoreError, match="locked"):
            store.flush()
        other.close()
        store.flush()
        assert store.lookup(key("m", CALL_1))


def test_an_answer_that_does_not_fit_the_table_is_not_skipped_in_silence(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    odd = replace(SAID, prompt_tokens=None)  # type: ignore[arg-type]
    store.put(key("m", CALL_1), CALL_1, odd, "m")
    with pytest.raises(StoreError, match="NOT NULL"):
        store.close()


def test_put_waits_for_a_slow_disk(tmp_path: Path) -> None:
    with Store(tmp_path / "s", limit=100_000) as store:
        insert, most = store._table.insert, 0

        def slowly(puts: dict) -> None:
            nonlocal most
            most = max(most, len(puts))
            time.sleep(0.02)
            insert(puts)

        store._table.insert = slowly  # type: ignore[method-assign]
        for number in range(1000):
            store.put(key("m", ask(number)), ask(number), SAID, "m")
        store.flush()
        assert most <= 100
        assert store.summaries()[0].rows == 1000


def test_a_file_that_is_no_store_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, but long enough to look at " * 50)
    foreign = sqlite3.connect(tmp_path / "foreign")
    foreign.execute("CREATE TABLE theirs (x)")
    foreign.close()
    for name in ("text", "foreign"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(StoreError, match=r"not a completions store.*\n.*remedy: move it away"):
            Store(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize("scheme", ["postgresql+asyncpg", "Postgresql", "mysql", "sqlite"])
def test_a_url_of_another_kind_is_no_file(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match="begins with postgresql://") as caught:
        Store(f"{scheme}://me:secret@host/name")
    assert caught.value.where == f"{scheme}://me:***@host/name"
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_says_so(tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store:
        for number in range(2000):
            store.put(key("m", ask(number)), ask(number), SAID, "m")
    data = bytearray((tmp_path / "s").read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    (tmp_path / "s").write_bytes(data)
    with pytest.raises(StoreError, match="damaged"), Store(tmp_path / "s") as store:
        store.get_many([key("m", ask(number)) for number in range(2000)])


def test_a_newer_store_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "s").close()
    newer = sqlite3.connect(tmp_path / "s")
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(StoreError, match=r"newer rlaif .schema 99.*\n.*remedy: upgrade"):
        Store(tmp_path / "s")


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "s", Path("/proc/rlaif/s"), tmp_path):
        with pytest.raises(StoreError, match="remedy"):
            Store(path)


def test_a_read_only_folder_is_told() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # root may write anywhere
        try:
            with pytest.raises(StoreError, match=r"cannot be opened.*\n.*remedy"):
                Store(Path(folder) / "s")
        finally:
            os.seteuid(user)
            os.chmod(folder, 0o755)
