"""The seed model that ships, on the real server: its skills, and the commands that use it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from rlaif.cli.sandbox import sandbox
from rlaif.engine import Engine, serving
from rlaif.sandbox.chat import reply
from rlaif.sandbox.seed_model import FOLDER, engine_config

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with serving(engine_config()) as engine:
        yield engine


def test_the_model_folder_is_small_and_safe() -> None:
    files = list(FOLDER.iterdir())
    assert sum(f.stat().st_size for f in files) <= 8e6
    assert {f.suffix for f in files} <= {".json", ".jinja", ".safetensors", ".md"}


def test_the_model_is_no_worse_than_its_card(engine: Engine) -> None:
    """Floors below what `rlaif/sandbox/seed/README.md` reports; the aims stand in the card."""
    url = engine.base_urls[0]
    found = CliRunner().invoke(
        sandbox, ["card", "--base-url", url, "-n", "2", "--drafts", "60", "--json"]
    )
    assert found.exit_code == 0, found.output
    card = json.loads(found.stdout)
    assert 0.4 < card["violations"]["value"] < 0.85
    assert card["well_formed"]["value"] > 0.93
    assert card["helpfulness"]["value"] > 0.83
    assert card["critique"]["verdict"]["value"] > 0.95
    assert card["critique"]["no_fault"]["value"] > 0.95
    assert card["revision"]["fixed"]["value"] > 0.9
    assert card["revision"]["kept"]["value"] > 0.9
    assert card["judge"]["pairwise"]["value"] > 0.95
    assert card["judge"]["pointwise"]["value"] > 0.95
    assert card["unseen"]["judge"]["pairwise"]["value"] > 0.9
    assert card["unanswered"] == 0


def test_the_card_is_the_same_twice(engine: Engine) -> None:
    arguments = ["card", "--base-url", engine.base_urls[0], "-n", "1", "--drafts", "5", "--json"]
    first, second = (CliRunner().invoke(sandbox, arguments).stdout for _ in range(2))
    texts = [json.loads(out) for out in (first, second)]
    assert texts[0]["violations"] == texts[1]["violations"]
    assert texts[0]["critique"] == texts[1]["critique"]


def test_chat_answers_and_the_oracle_comments(engine: Engine) -> None:
    said = reply(engine, "How do I clean the lamp?")
    assert said.startswith("seed: ")
    assert "[oracle: violates" in said
    assert "not a request of the sandbox" in reply(engine, "What is the capital of France?")
