"""The completions store in Postgres, against a server started here (needs initdb and psycopg)."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rlaif.completions import Store, key
from rlaif.errors import StoreError
from rlaif.records import Answer, Call, Message, Sampling

pytest.importorskip("psycopg", reason="psycopg is not installed")
FOUND = shutil.which("initdb") or next(
    (str(p) for p in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None
)
pytestmark = [
    pytest.mark.postgres,
    pytest.mark.skipif(not FOUND, reason="no Postgres server here (initdb not found)"),
]

SAID = Answer("é\0\ud800", "length", 12, 3, (-0.5, float("-inf")))


def ask(number: int) -> Call:
    prompt = Message("user", f"Is {number} \0 prime?\ud800")
    return Call((prompt,), Sampling(seed=2**70), number, ("A", "B"))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server of our own on a loopback port; the URL of its first database."""
    assert FOUND
    programs = Path(FOUND).resolve().parent
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tempfile.mkdtemp(dir="/tmp")
    become = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if become:
        shutil.chown(folder, "postgres")

    def control(*words: str) -> None:
        subprocess.run([*become, *words], cwd="/", check=True, stdout=subprocess.DEVNULL)

    data, log = f"{folder}/data", f"{folder}/log"
    control(str(programs / "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8")
    settings = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
    control(str(programs / "pg_ctl"), "-D", data, "-l", log, "-w", "-o", settings, "start")
    yield f"postgresql://postgres:secret@127.0.0.1:{port}/postgres"
    control(str(programs / "pg_ctl"), "-D", data, "-m", "immediate", "stop")
    shutil.rmtree(folder)


@pytest.fixture
def url(server: str) -> str:
    """An empty store."""
    with Store(server) as store:
        store.prune()
    return server


def test_what_was_put_comes_back_and_the_first_stays(url: str) -> None:
    with Store(url) as store:
        for number in range(600):
            store.put(key("m", ask(number)), ask(number), SAID, "m" if number % 3 else "other")
        store.flush()
        store.put(key("m", ask(0)), ask(0), replace(SAID, text="late"), "m")
    with Store(url) as store:
        keys = [key("m", ask(number)) for number in range(600)]
        assert store.get_many([*keys, bytes(32)]) == dict.fromkeys(keys, SAID)
        record = store.lookup(keys[7])
        assert record is not None
        assert (record.model, record.call, record.answer) == ("m", ask(7), SAID)
        assert [r.key for r in store.find(keys[7].hex()[:20])] == [keys[7]]
        assert [(s.model, s.rows) for s in store.summaries()] == [("m", 400), ("other", 200)]
        assert len({r.key for r in store.records()}) == 600
        assert len(list(store.records("other"))) == 200
        assert store.size() > 0


def test_prune(url: str) -> None:
    with Store(url) as store:
        for number in range(6):
            store.put(key("m", ask(number)), ask(number), SAID, "m" if number % 3 else "other")
        assert store.prune(model="m", dry_run=True) == 4
        assert store.prune(model="m", before=1.0) == 0
        assert store.prune(model="m") == 4
        assert {record.model for record in store.records()} == {"other"}
        assert store.prune() == 2


def test_pruning_leaves_what_is_written_meanwhile(url: str) -> None:
    import psycopg

    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with Store(url) as store, psycopg.connect(url) as other:
        store.put(key("m", ask(0)), ask(0), SAID, "m")
        store.flush()
        other.execute("SELECT * FROM rlaif_answers FOR UPDATE")
        pruning = threading.Thread(target=store.prune, kwargs={"model": "m"})
        pruning.start()
        while other.execute(waits).fetchone() == (0,):
            assert pruning.is_alive()
        store.put(key("m", ask(1)), ask(1), SAID, "m")
        store.flush()
        other.rollback()
        pruning.join()
        assert [record.call for record in store.records()] == [ask(1)]


def test_a_store_opens_while_another_is_read(url: str) -> None:
    import psycopg

    with psycopg.connect(url) as other:
        other.execute("SELECT count(*) FROM rlaif_blocks")  # an export, say
        opening = threading.Thread(target=lambda: Store(url).close())
        opening.start()
        opening.join(20)
        assert not opening.is_alive()


def test_many_write_the_same_keys_in_any_order(url: str) -> None:
    def work(step: int) -> None:
        try:
            with Store(url, linger=0.001) as store:
                for number in range(0, 500 * step, step):
                    store.put(key("m", ask(number % 500)), ask(number % 500), SAID, "m")
        except StoreError as error:
            failed.append(error)

    failed: list[StoreError] = []
    threads = [threading.Thread(target=work, args=(step,)) for step in (1, 3, 499, 497, 7, 11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    with Store(url) as store:
        assert store.summaries()[0].rows == 500


def test_many_open_a_new_store_at_once(url: str) -> None:
    import psycopg

    with psycopg.connect(url) as connection:
        connection.execute("DROP TABLE rlaif_schema, rlaif_blocks, rlaif_answers")
    opened: list[int] = []

    def work() -> None:
        with Store(url) as store:
            opened.append(store.size())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 8


def test_a_newer_store_and_a_dead_server_are_told(url: str) -> None:
    import psycopg

    with psycopg.connect(url) as connection:
        connection.execute("UPDATE rlaif_schema SET version = 99")
    with pytest.raises(StoreError, match="newer rlaif") as caught:
        Store(url)
    assert "secret" not in str(caught.value)
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE rlaif_schema SET version = 1")
    with pytest.raises(StoreError, match="remedy: see that the server is up") as caught:
        Store("postgresql://someone:secret@127.0.0.1:1/none")
    assert "secret" not in str(caught.value)


def cut(url: str) -> None:
    """End every connection to the server."""
    import psycopg

    others = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IS NOT NULL"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"SELECT pg_terminate_backend(pid) {others}")


def test_a_connection_that_breaks_while_it_idles_is_made_anew(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(url) as store:
        cut(url)
        monkeypatch.setattr("rlaif.completions.postgres.IDLE", 0.0)
        assert store.get_many([key("m", ask(0))]) == {}


def test_a_connection_that_breaks_loses_nothing(url: str) -> None:
    with Store(url) as store:
        cut(url)
        store.put(key("m", ask(0)), ask(0), SAID, "m")
        with pytest.raises(StoreError, match="1 answers are waiting"):
            store.flush()
        store.flush()
        assert store.lookup(key("m", ask(0)))
