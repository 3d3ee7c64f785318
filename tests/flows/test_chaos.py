"""Processes killed in the middle: every run ends complete, with the data of an undisturbed one."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from rlaif.completions import Store
from rlaif.engine.wire import chat, derived_seed
from rlaif.records import Call
from rlaif.stages import STAGES, stage_record
from tests.faults.engine.vllm.entrypoints.openai.api_server import fingerprint
from tests.flows.serving import CHANGES, Box

pytestmark = pytest.mark.timeout(4 * 3600)

MARKS = {  # what tells a victim by its command line
    "worker": "worker start",
    "flow": "prefect.engine",
    "engine": "api_server",
    "trainer": "rlaif.training",
    "server": "prefect.server.api.server",
}
MOST = 2  # kills in one run
OFF = {"reward", "report"}  # switched off, or without data of its own


@pytest.mark.slow
@pytest.mark.usefixtures("trained")
def test_a_run_survives_a_kill(up: Box) -> None:
    assert _disturbed(up, 0, kinds=["flow"])


@pytest.mark.slow
@pytest.mark.usefixtures("trained")
def test_twenty_runs_survive_kills_at_random(up: Box) -> None:
    kinds = [*MARKS, "everything"]
    killed = [_disturbed(up, n, kinds=[kinds[n % len(kinds)], *kinds]) for n in range(1, 21)]
    assert all(killed)


def _disturbed(up: Box, n: int, *, kinds: list[str]) -> list[str]:
    """Run the pipeline while its processes are killed; which kinds were."""
    rng, name = random.Random(n), f"chaos-{n}"
    asked, store = up.folder / f"{name}.asked", up.folder / f"{name}.sqlite3"
    id = up.trigger(
        "rlaif/pipeline",
        name=name,
        changes=CHANGES,
        constitution=str(up.runs / "small" / "constitution.yaml"),
        env={"RLAIF_STORE": str(store), "STAND_IN_LOG": str(asked)},
    )
    up.ended(id, "RUNNING")
    killed = _kill_while_it_runs(up, id, rng, kinds)
    ended = up.ended(id)
    assert ended["state_name"] == "Completed", (killed, ended["state"]["message"])
    _same_data(up.runs / "small", up.runs / name)
    _none_paid_twice(asked, store)
    assert not up.strays(), killed
    return killed


def _kill_while_it_runs(up: Box, id: str, rng: random.Random, kinds: list[str]) -> list[str]:
    killed: list[str] = []
    pause = rng.uniform(0, 15)
    while len(killed) < MOST and not _over(up, id):
        time.sleep(pause)
        kind = kinds[0] if not killed else rng.choice(kinds)
        if kind == "everything":
            up.stop(signal.SIGKILL)
            up.start()
        elif victims := _victims(up, MARKS[kind]):
            rng.choice(victims).kill()
        else:
            pause = 0.3  # it is not there yet, or no more
            continue
        killed.append(kind)
        pause = rng.uniform(5, 30)
    return killed


def _over(up: Box, id: str) -> bool:
    try:
        return up.flow_run(id)["state_type"] in ("COMPLETED", "FAILED")
    except OSError:
        return False


def _victims(up: Box, mark: str) -> list[psutil.Process]:
    """The processes of a kind; the keepers around them are what saves the day, and stay."""
    found = []
    for process in up.family():
        try:
            command = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if mark in command and "keeper.py" not in command:
            found.append(process)
    return found


def _same_data(undisturbed: Path, disturbed: Path) -> None:
    for stage in STAGES:
        if stage not in OFF:
            digests = [stage_record(run / stage)["digest"] for run in (undisturbed, disturbed)]
            assert digests[0] == digests[1], stage


def _none_paid_twice(asked: Path, store: Path) -> None:
    """No question came to the engine after its answer was in the store."""
    kept: dict[str, float] = {}
    with Store(str(store)) as completions:
        for record in completions.records():
            kept[_fingerprint(record.call)] = record.created
    lines = [line.split() for line in asked.read_text("utf-8").splitlines()]
    late = [name for at, name in lines if name in kept and float(at) > kept[name] + 0.5]
    assert len(kept) > 50
    assert not late


def _fingerprint(call: Call) -> str:
    import msgspec

    messages: list[Any] = json.loads(msgspec.json.encode(chat(call)["messages"]))
    seed = derived_seed(call) if call.sampling.temperature > 0 and not call.labels else None
    longest = 1 if call.labels else call.sampling.max_tokens
    return fingerprint(messages, longest, seed, bool(call.labels))
