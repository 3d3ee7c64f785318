"""Which failures of a stage are tried again, and what the state of a refused run is called."""

from __future__ import annotations

import pytest
from prefect.states import Failed

from flows.steps import _may_pass, _refused
from rlaif.errors import (
    ConfigError,
    DataError,
    EngineError,
    RlaifError,
    RunError,
    StoreError,
    TrainingFailed,
)


@pytest.mark.parametrize("kind", [EngineError, StoreError, TrainingFailed])
def test_what_may_pass_is_tried_again(kind: type[RlaifError]) -> None:
    assert _may_pass(None, None, Failed(data=kind("it died")))


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("a typo"),
        RunError("somebody works there"),
        DataError("torn"),
        ValueError("a bug"),
    ],
)
def test_a_mistake_is_not(error: Exception) -> None:
    assert not _may_pass(None, None, Failed(data=error))


def test_what_is_not_refused_is_named_for_what_to_do() -> None:
    names = [_refused(kind("why")) for kind in (ConfigError, DataError, EngineError, RunError)]
    assert names == ["Refused", "BadData", "EngineFailed", "CannotGoOn"]
