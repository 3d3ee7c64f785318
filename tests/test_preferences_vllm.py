"""Labels of the sandbox's seed model, read from the real server."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from rlaif.config.run import PreferencesConfig
from rlaif.constitution import load
from rlaif.engine import Model, ScriptedEngine, serving
from rlaif.jsonl import rows, writing
from rlaif.preferences import preferences
from rlaif.records import Call, Message, Pair, Prompt
from rlaif.sandbox import oracle, world
from rlaif.sandbox.seed_model import engine_config
from rlaif.shipped import folder
from rlaif.templates import Templates

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

WRITTEN = {"temperature": 0.0, "max_tokens": 128}
METHODS: tuple[dict[str, Any], ...] = (
    {"principles": 2, "candidates": 3},
    {"method": "pointwise", "candidates": 3, "principles": 2, "floor": 0.0},
    {"method": "pointwise", "weigh_critique": True, "reason": WRITTEN, "floor": 0.0},
    {"reasoning": True, "clamp": (0.2, 0.8), "reason": WRITTEN},
)


def of_the_world(call: Call) -> str:
    rng = random.Random(f"{call.messages}/{call.sample}")
    asked = oracle.parse_request(call.messages[-1].content)
    return world.said(world.response(rng, asked, world.base_faults(rng, asked)))


def test_every_way_of_labelling_works_on_the_real_server(tmp_path: Path) -> None:
    rng, prompts = random.Random(1), tmp_path / "prompts"
    prompts.mkdir()
    with writing(prompts / "train.jsonl") as write:
        for n in range(6):
            write(Prompt(f"p{n}", (Message("user", world.request(rng).text),)))
    with serving(engine_config()) as engine:
        for n, config in enumerate(METHODS):
            into = tmp_path / f"{n}"
            into.mkdir()
            metrics = preferences(
                into,
                PreferencesConfig(**config),
                prompts=prompts,
                policy=Model.of(ScriptedEngine(of_the_world)),
                judge=Model.of(engine),
                constitution=load(folder("constitution") / "sandbox.yaml"),
                templates=Templates(folder("prompts")),
                seed=0,
            )
            check(list(rows(into / "pairs.jsonl", Pair)), metrics, PreferencesConfig(**config))


def check(pairs: list[Pair], metrics: dict[str, Any], config: PreferencesConfig) -> None:
    """Every pair that could be labelled is, with probabilities; what could not has a reason."""
    assert len(pairs) == metrics["pairs"] > 0
    for pair in pairs:
        assert (pair.target is None) == bool(pair.unlabelled)
        for verdict in pair.verdicts:
            assert len(verdict.orders) == (0 if verdict.target is None else 2)
            assert all(0 < p < 1 for p in verdict.orders)
    targets = [pair.target for pair in pairs if pair.target is not None]
    assert len(targets) == metrics["labelled"] > 0
    assert len(set(targets)) > 1 or config.clamp
    assert 0 < metrics["label_mass"] <= 1 + 1e-6
    if not config.reasoning and not config.weigh_critique:
        assert metrics["labelled"] == metrics["pairs"]
        assert metrics["calls"]["unanswered"] == {}
