"""`rlaif run` killed twenty times with SIGKILL: the data end as if nothing had happened.

make test ARGS="--slow -k run_killed"
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from rlaif.shipped import SEED_MODEL
from rlaif.stages import STAGES, stage_record

KILLS = 20
STAGES_WITH_DATA = set(STAGES) - {"report"}
SMALL = f"""
name: small
constitution: sandbox
model: sandbox
engine: {{dtype: float32, max_model_len: 2048, at_once: 2}}
prompts: {{sources: [{{path: {SEED_MODEL.with_name("prompts.jsonl")}}}]}}
critique: {{rounds: 2, limit: 64, critique: {{max_tokens: 64}}, revise: {{max_tokens: 128}}}}
finetune: {{learning_rate: 1e-4, max_length: 512, save_every: 2}}
preferences: {{limit: 64, principles: 2, sampling: {{max_tokens: 128}}}}
reward: {{learning_rate: 1e-4, max_length: 512, heldout: 0.3, save_every: 2}}
policy: {{learning_rate: 1e-4, max_length: 512, save_every: 2}}
evaluation: {{limit: 32, oracle: sandbox, sampling: {{max_tokens: 128}}}}
"""


class Started:
    """`rlaif run small.yaml --json` in a folder, with its own store and its own Prefect."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        own = {
            "RLAIF_STORE": str(folder / "store.sqlite3"),
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_LOCAL_STORAGE_PATH": str(folder / "prefect" / "storage"),
        }
        command = [sys.executable, "-m", "rlaif", "run", "small.yaml", "--json"]
        with (folder / "stderr.log").open("a") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env=os.environ | own, text=True,
                stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip

    def killed_after(self, seconds: float) -> bool:
        """Kill it and it alone; False if it had ended before."""
        try:
            self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            family = psutil.Process(self.process.pid).children(recursive=True)
            self.process.send_signal(signal.SIGKILL)
            self.process.communicate()
            _, alive = psutil.wait_procs(family, timeout=60)
            assert not alive, [p.cmdline() for p in alive]
            return True
        return False

    def figures(self) -> dict[str, dict[str, int]]:
        said, _ = self.process.communicate()
        assert self.process.returncode == 0, (self.folder / "stderr.log").read_text()[-3000:]
        return json.loads(said)


def paid(folder: Path) -> int:
    """Calls whose answers are in the store."""
    if not (folder / "store.sqlite3").exists():
        return 0
    database = sqlite3.connect(folder / "store.sqlite3", timeout=60)
    try:
        return database.execute("SELECT count(*) FROM answers").fetchone()[0]
    except sqlite3.OperationalError:  # killed before there was a table
        return 0
    finally:
        database.close()


def finished(folder: Path) -> dict[str, int]:
    """Calls answered for the stages that are there; looking up label tokens is none."""
    run = folder / "runs" / "small"
    records = (stage_record(run / n) for n in STAGES_WITH_DATA if (run / n / "stage.json").exists())
    return {r["stage"]: r["metrics"].get("calls", {}).get("answered", 0) for r in records}


def begun(folder: Path) -> Path:
    folder.mkdir()
    (folder / "small.yaml").write_text(SMALL)
    return folder


def torn(folder: Path, moments: Iterator[float]) -> int:
    """Start the run and kill it, again and again, until it ends or no moments are left."""
    kills, before = 0, 0
    for moment in moments:
        if not Started(folder).killed_after(moment):
            break
        kills += 1
        assert paid(folder) >= before  # what was finished once stays finished
        before = paid(folder)
    return kills


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(7200)
def test_killed_twenty_times_the_data_are_the_same(tmp_path: Path) -> None:
    """A run that ends between two kills is compared, and another one is begun."""
    whole = begun(tmp_path / "whole")
    began = time.monotonic()
    undisturbed = Started(whole).figures()
    longest = max(time.monotonic() - began, 60.0) / 2
    rng, kills = random.Random(20), 0
    while kills < KILLS:
        folder = begun(tmp_path / f"torn-{kills}")
        kills += torn(folder, (rng.uniform(1.0, longest) for _ in range(KILLS - kills)))
        as_if_nothing_had_happened(whole, folder, undisturbed)


def as_if_nothing_had_happened(whole: Path, torn: Path, undisturbed: dict[str, Any]) -> None:
    done, before = set(finished(torn)), paid(torn)
    figures = Started(torn).figures()
    assert paid(torn) == paid(whole)
    last = {name: n for name, n in finished(torn).items() if name not in done}
    assert sum(last.values()) == paid(torn) - before  # the last start asked what was left, no more
    for name in STAGES_WITH_DATA:
        digests = [stage_record(at / "runs" / "small" / name)["digest"] for at in (whole, torn)]
        assert digests[0] == digests[1], name
    for name in ("violations", "helpfulness", "labels"):
        assert figures[name] == undisturbed[name]
