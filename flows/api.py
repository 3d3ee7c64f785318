"""The few calls to Prefect's API that flows/watch.py makes, without importing Prefect."""

from __future__ import annotations

import base64
import json
import os
import time
import urllib.request
import uuid
from datetime import UTC, datetime
from typing import Any
from urllib.error import HTTPError

from rlaif.errors import ConfigError

POOL = "rlaif"
"""The work pool of `make server`."""
TAG = "rlaif"
"""Of all deployments in prefect.yaml, whatever their work pools, and so of their flow runs."""
_PAUSES_S = (0.5, 1.0, 2.0, 4.0)


class Api:
    """Prefect's REST API at a URL. Every method raises URLError, ConnectionError or TimeoutError
    where it does not answer, and HTTPError, which is a URLError, where it refuses."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._headers = {"Content-Type": "application/json"} | _authorization()

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        """One request; what came back, as plain values."""
        data = None if body is None else json.dumps(body, default=str).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, self._headers, method=method)
        for pause in (*_PAUSES_S, None):
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    text = answer.read()
                return json.loads(text) if text else None
            except HTTPError as error:  # 503: the database was locked, nothing was done
                if error.code not in (429, 503) or pause is None:
                    raise
                time.sleep(pause)
        raise AssertionError

    def emit(self, event: str, resource: str, **payload: Any) -> None:
        """Tell of an event; when this returns, the server has it."""
        now = datetime.now(UTC).isoformat()
        told = {"id": str(uuid.uuid4()), "occurred": now, "event": event, "related": [],
                "resource": {"prefect.resource.id": resource}, "payload": payload}  # fmt: skip
        self("POST", "/events", [told])

    def runs(self, *states: str) -> list[dict[str, Any]]:
        """The flow runs of our deployments in these states, the newest first."""
        ours = {"tags": {"all_": [TAG]}, "state": {"type": {"any_": list(states)}}}
        asked = {"flow_runs": ours, "sort": "EXPECTED_START_TIME_DESC"}
        return self("POST", "/flow_runs/filter", asked)

    def states(self, flow_run: str) -> list[dict[str, Any]]:
        """Every state that a flow run has been in."""
        return self("GET", f"/flow_run_states/?flow_run_id={flow_run}")

    def set_state(self, flow_run: str, type: str, name: str, message: str, **details: Any) -> None:
        """Put a flow run into a state."""
        state = {"type": type, "name": name, "message": message, "state_details": details}
        body = {"state": state, "force": type != "SCHEDULED"}
        self("POST", f"/flow_runs/{flow_run}/set_state", body)


def url() -> str:
    """The server's, which PREFECT_API_URL names.

    Raises:
        ConfigError: it does not.
    """
    if found := os.environ.get("PREFECT_API_URL"):
        return found
    remedy = "export PREFECT_API_URL=http://SERVER:4200/api"
    raise ConfigError("PREFECT_API_URL is not set", remedy=remedy)


def _authorization() -> dict[str, str]:
    """As Prefect's own client has it: a server's one password, or a key."""
    if told := os.environ.get("PREFECT_API_AUTH_STRING"):
        return {"Authorization": f"Basic {base64.b64encode(told.encode()).decode()}"}
    if key := os.environ.get("PREFECT_API_KEY"):
        return {"Authorization": f"Bearer {key}"}
    return {}
