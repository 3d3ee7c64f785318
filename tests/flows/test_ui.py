"""Prefect's pages as people see them, in a real Chromium."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.flows.serving import Box

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1500)]
Page = Any
DEPLOYMENTS = (
    "pipeline", "feedback", "training", "evaluation", "rebuild", "audit-sample", "audit-import",
)  # fmt: skip


@pytest.fixture(scope="module")
def page(chromium: Any) -> Iterator[Page]:
    opened = chromium.new_page(viewport={"width": 1280, "height": 1000})
    opened.set_default_timeout(120_000)
    yield opened
    opened.close()


def seen(page: Page, up: Box, path: str, *texts: str) -> None:
    """Open a page; each text is there, on it."""
    page.goto(f"http://127.0.0.1:{up.port}{path}")
    for text in texts:
        page.get_by_text(text).first.wait_for()
        assert page.get_by_text(text).first.is_visible()
    if shots := os.environ.get("RLAIF_SHOTS"):
        page.screenshot(path=f"{shots}/{path.strip('/').replace('/', '-')}.png", full_page=True)


def test_every_deployment_is_listed(page: Page, up: Box) -> None:
    seen(page, up, "/deployments", *DEPLOYMENTS)


def test_the_form_explains_its_fields(page: Page, up: Box) -> None:
    id = up.deployment("rlaif/pipeline")["id"]
    seen(
        page, up, f"/deployments/deployment/{id}/run",
        "How often each answer is critiqued and revised", "How the policy is trained",
        "Train only on labels that people have audited",
    )  # fmt: skip


def test_a_flow_run_says_what_it_waits_for(page: Page, up: Box, waiting: str) -> None:
    seen(
        page, up, f"/runs/flow-run/{waiting}",
        "small · sandbox@1 · sandbox", "AwaitingAudit", "critique: reused",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("key", "texts"),
    [
        ("plan-small", ("What this run would ask and train", "critique", "to do")),
        ("labels-small", ("How the AI's labels came out", "labelled")),
        ("finetune-curve-small", ("Curves of finetune", "loss")),
        ("review-small", ("reviews of small",)),
    ],
)
@pytest.mark.usefixtures("waiting")
def test_its_artifacts_can_be_read(page: Page, up: Box, key: str, texts: tuple[str, ...]) -> None:
    id = next(a["id"] for a in up.artifacts(key) if a["key"] == key)
    seen(page, up, f"/artifacts/artifact/{id}", *texts)
