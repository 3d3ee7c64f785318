"""Brings work pool, limits, deployments and automations of the project to a Prefect server.

python -m flows.apply            # to the server that PREFECT_API_URL names; again after an edit
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from flows.api import POOL, TAG, Api, url
from flows.steps import accelerator
from rlaif.errors import ConfigError, RlaifError

AUTOMATIONS = Path(__file__).with_name("automations.yaml")


def main() -> None:
    """Apply all of it; what is there already is brought up to date.

    Raises:
        ConfigError: no server is named, or prefect.yaml cannot be used.
    """
    url()  # with none, Prefect would start a server of its own
    with get_client(sync_client=True) as client:
        _pool(client)
        _limit(client)
        for told in yaml.safe_load(AUTOMATIONS.read_text("utf-8")):
            _automation(client, AutomationCore.model_validate(told))
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    here = os.environ | {"RLAIF_HERE": str(Path.cwd())}
    done = subprocess.run(command, env=here, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"{done.stdout}\n{done.stderr}", where="prefect.yaml", remedy="fix it")
    _finished(Api(str(client.api_url)))


def _pool(client: SyncPrefectClient) -> None:
    try:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    except ObjectAlreadyExists:
        return


def _limit(client: SyncPrefectClient) -> None:
    if not (name := accelerator()):
        return
    try:
        client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))


def _finished(api: Api) -> None:
    """What prefect.yaml cannot say: let no parameter pass that a flow does not have (Prefect's own
    schema is open), and where `make server --runs` has them, the runs."""
    ours = {"deployments": {"tags": {"all_": [TAG]}}}
    for found in api("POST", "/deployments/filter", ours):
        schema: dict[str, Any] = found["parameter_openapi_schema"] | {"additionalProperties": False}
        given = found["parameters"]
        if (runs := os.environ.get("RLAIF_RUNS")) and "runs" in schema["properties"]:
            given = {"runs": runs} | given
        told = {"parameter_openapi_schema": schema, "parameters": given}
        api("PATCH", f"/deployments/{found['id']}", told)


def _automation(client: SyncPrefectClient, wanted: AutomationCore) -> None:
    for there in client.read_automations_by_name(wanted.name):
        client.delete_automation(there.id)
    client.create_automation(wanted)


if __name__ == "__main__":
    try:
        main()
    except RlaifError as error:
        sys.exit(f"error: {error}")
