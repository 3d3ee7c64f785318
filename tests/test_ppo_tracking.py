"""Curves in TensorBoard: the same figures as in curves.jsonl, whichever the trainer."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from rlaif.config.policy import PolicyConfig
from rlaif.errors import ConfigError
from rlaif.jsonl import writing
from rlaif.policy import tracking
from rlaif.records import Message, Prompt
from tests import tiny_training as tiny

DRAWN: dict[str, Any] = {"max_tokens": 4, "max_length": 40, "probe_every": 1, "probe_prompts": 2}
KINDS: dict[str, dict[str, Any]] = {
    "dpo": {"batch_size": 6, "max_length": 64},
    "kto": {"batch_size": 12, "max_length": 64},
    "ppo": DRAWN | {"batch_size": 4, "minibatches": 1, "rollouts": "transformers"},
    "grpo": DRAWN | {"batch_size": 4, "samples": 2},
    "rloo": DRAWN | {"batch_size": 4, "samples": 2},
}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What any kind of training asks for."""
    root = tmp_path_factory.mktemp("given")
    model = tiny.model(root / "model", dtype="float32")
    reward_model = str(tiny.reward_model(model, root / "reward"))
    (root / "prompts").mkdir()
    for split, numbers in (("train", range(4)), ("heldout", range(9, 11))):
        with writing(root / "prompts" / f"{split}.jsonl") as write:
            for i in numbers:
                write(Prompt(f"p{i}", (Message("user", f"say {i}"),)))
    return {
        "model": str(model), "pairs": str(tiny.pairs(root / "pairs", 12)),
        "prompts": str(root / "prompts"), "reward_models": {"reward": reward_model},
        "critic": reward_model, "judge": None,
    }  # fmt: skip


def config(kind: str, *trackers: str, **more: Any) -> Any:
    told = {"kind": kind, "report_to": trackers, "learning_rate": 1e-3} | KINDS[kind] | more
    return TypeAdapter[Any](PolicyConfig).validate_python(told)


def trained(kind: str, into: Path, given: dict[str, Any], **more: Any) -> None:
    fit = importlib.import_module(f"rlaif.policy.{kind}").fit
    tiny.fit(fit, into, config(kind, "tensorboard", **more), **given)


def on_disk(into: Path) -> dict[str, list[tuple[int, Any]]]:
    """Figures by name, (step, value) each, of curves.jsonl."""
    found: dict[str, list[tuple[int, Any]]] = {}
    for line in (into / "curves.jsonl").read_text().splitlines():
        row = json.loads(line)
        for name in row.keys() - {"step"}:
            found.setdefault(name, []).append((row["step"], pytest.approx(row[name], rel=1e-6)))
    return found


def on_the_board(into: Path) -> dict[str, list[tuple[int, float]]]:
    """The same as TensorBoard reads it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(into / "tracked"), size_guidance={"scalars": 0}).Reload()
    return {
        name: [(event.step, event.value) for event in board.Scalars(name)]
        for name in board.Tags()["scalars"]
    }


@pytest.mark.parametrize("kind", KINDS)
def test_tensorboard_shows_the_curves(kind: str, given: dict[str, Any], tmp_path: Path) -> None:
    trained(kind, tmp_path / "one", given)
    shown = on_the_board(tmp_path / "one")
    assert shown == on_disk(tmp_path / "one")
    names = {"loss"} if kind in ("dpo", "kto") else {"reward", "kl", "entropy", "probe/reward"}
    assert names <= shown.keys()


@pytest.mark.parametrize("kind", ["ppo", "dpo"])
def test_a_training_that_goes_on_shows_each_step_once(
    kind: str, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those after the last checkpoint, which are made twice."""
    from rlaif.policy.ppo import curves
    from rlaif.training import fitting

    def said(path: Path, value: Any) -> None:
        if value["step"] == 3:
            raise KeyboardInterrupt

    into, more = tmp_path / "one", {"epochs": 4, "save_every": 2}
    with monkeypatch.context() as patched:
        patched.setattr(curves if kind == "ppo" else fitting, "write_whole", said)
        with pytest.raises(KeyboardInterrupt):
            trained(kind, into, given, **more)
    trained(kind, into, given, **more)
    assert len(list((into / "tracked").glob("*.log"))) == 2
    assert on_the_board(into) == on_disk(into)


def test_a_tracker_that_is_not_installed_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nosuchtracker is missing"):
        tracking.Tracked(tmp_path, ("nosuchtracker",), -1)
