"""The process of Prefect's server: uvicorn with Prefect's application, and one bug of 3.7.7 mended.

On SQLite the commit that changes an automation waits, on the thread of the server's event loop,
for a coroutine that needs a lock of that very loop. Whenever the loop's reconciliation of
automations holds the lock, the server hangs for ever (PrefectHQ/prefect#23055). Here the coroutine
is left to the loop. Can go with a Prefect that has it mended.

    python -m flows.prefect_server --factory prefect.server.api.server:create_app
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any

_running: set[asyncio.Task[Any]] = set()


def mend() -> None:
    """Let what follows the commit of an automation run on the event loop, if there is one."""
    from prefect.server.events.models import automations

    blocking = automations.run_coro_as_sync

    def scheduled(coroutine: Coroutine[Any, Any, Any]) -> Any:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return blocking(coroutine)
        task = loop.create_task(coroutine)
        _running.add(task)  # the loop itself keeps a task by a weak reference only
        task.add_done_callback(_running.discard)
        return None

    automations.run_coro_as_sync = scheduled


if __name__ == "__main__":
    sys.modules["pandas"] = None  # pyright: ignore[reportArgumentType] - it takes a second, unused
    mend()
    from uvicorn import main

    main()
