"""Prefect's server does not hang where an automation changes while automations are reconciled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CHANGED_WHILE_LOCKED = """
import asyncio
from flows.prefect_server import mend
from prefect.server.database import provide_database_interface
from prefect.server.events import triggers
from prefect.server.events.models.automations import create_automation
from prefect.server.events.schemas.automations import Automation

TOLD = {
    "name": "one",
    "trigger": {"type": "event", "posture": "Reactive", "expect": ["x"], "threshold": 1},
    "actions": [{"type": "do-nothing"}],
}

async def main():
    db = provide_database_interface()
    await db.create_db()
    async with triggers._automations_lock():
        async with db.session_context(begin_transaction=True) as session:
            made = await create_automation(session, Automation.model_validate(TOLD))
    for _ in range(100):
        if made.id in triggers.automations_by_id:
            return print("loaded")
        await asyncio.sleep(0.1)

mend()  # without it, this never ends
asyncio.run(main())
"""


def test_an_automation_that_changes_under_the_lock_is_loaded_after_it(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-c", CHANGED_WHILE_LOCKED],
        env=os.environ | {"PREFECT_HOME": str(tmp_path), "PREFECT_API_URL": ""},
        timeout=120, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert said.strip() == "loaded"
