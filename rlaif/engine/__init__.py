"""The engine: vLLM behind its OpenAI-compatible API, and a client that never invents an answer.

    with serving(EngineConfig(model="path/to/model")) as engine:
        for outcome in engine.answers(calls, store=store):   # in the order of the calls
            ...

`serving` starts a real vLLM server (or uses the ones in `base_urls`) and yields an `Engine`;
`ScriptedEngine` has the same interface and answers from a function, for tests and examples.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlaif.config.engine import EngineConfig
    from rlaif.engine.client import Engine
    from rlaif.engine.counts import Counts
    from rlaif.engine.models import Model, Models
    from rlaif.engine.scripted import ScriptedEngine
    from rlaif.engine.server import serving

__all__ = ["Counts", "Engine", "EngineConfig", "Model", "Models", "ScriptedEngine", "serving"]

_HOMES = {
    "Counts": "rlaif.engine.counts",
    "Engine": "rlaif.engine.client",
    "EngineConfig": "rlaif.config.engine",
    "Model": "rlaif.engine.models",
    "Models": "rlaif.engine.models",
    "ScriptedEngine": "rlaif.engine.scripted",
    "serving": "rlaif.engine.server",
}


def __getattr__(name: str) -> object:
    """Load a name when it is first asked for: reading a config takes no HTTP client."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
