"""Where the seed model lies, and how it is served."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rlaif.shipped import SEED_MODEL as FOLDER

if TYPE_CHECKING:
    from rlaif.engine import EngineConfig


def engine_config(*, model: Path | None = None, base_url: str | None = None) -> EngineConfig:
    """The engine's config for the seed model, or for another model trained from it."""
    from rlaif.engine import EngineConfig

    urls = (base_url,) if base_url else ()
    return EngineConfig(
        model=str(model or FOLDER), base_urls=urls, dtype="float32", max_model_len=2048
    )
