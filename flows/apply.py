"""Brings work pool, limits, deployments and automations of the project to a Prefect server.

python -m flows.apply            # to the server that PREFECT_API_URL names; again after an edit
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from flows.api import Api
from flows.steps import ACCELERATOR
from flows.watch import POOL
from rlaif.errors import ConfigError

AUTOMATIONS = Path(__file__).with_name("automations.yaml")


def main() -> int:
    """Apply all of it; what is there already is brought up to date."""
    with get_client(sync_client=True) as client:
        _pool(client)
        _limit(client)
        for told in yaml.safe_load(AUTOMATIONS.read_text("utf-8")):
            _automation(client, AutomationCore.model_validate(told))
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    here = os.environ | {"RLAIF_HERE": str(Path.cwd())}
    done = subprocess.run(command, env=here, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"{done.stdout}\n{done.stderr}", where="prefect.yaml", remedy="mend it")
    _closed(Api(str(client.api_url)))
    return 0


def _pool(client: SyncPrefectClient) -> None:
    try:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    except ObjectAlreadyExists:
        return


def _limit(client: SyncPrefectClient) -> None:
    try:
        client.read_global_concurrency_limit_by_name(ACCELERATOR)
    except ObjectNotFound:
        client.create_global_concurrency_limit(
            GlobalConcurrencyLimitCreate(name=ACCELERATOR, limit=1)
        )


def _closed(api: Api) -> None:
    """Let no parameter pass that a flow does not have: Prefect's own schema is open."""
    for found in api("POST", "/deployments/filter", {"work_pools": {"name": {"any_": [POOL]}}}):
        schema = found["parameter_openapi_schema"] | {"additionalProperties": False}
        api("PATCH", f"/deployments/{found['id']}", {"parameter_openapi_schema": schema})


def _automation(client: SyncPrefectClient, wanted: AutomationCore) -> None:
    for there in client.read_automations_by_name(wanted.name):
        client.delete_automation(there.id)
    client.create_automation(wanted)


if __name__ == "__main__":
    sys.exit(main())
