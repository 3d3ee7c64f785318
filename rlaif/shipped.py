"""What comes with the project: prompts, constitutions, and the sandbox's seed model."""

from __future__ import annotations

from pathlib import Path


def folder(name: str) -> Path:
    """`prompts` or `constitution`: a checkout's own at the top, or an installed package's copy."""
    package = Path(__file__).parent
    checkout = package.parent / name
    return checkout if checkout.is_dir() else package / "_shipped" / name


SEED_MODEL = Path(__file__).parent / "sandbox" / "seed"
"""The folder of the embedded model; a config calls it `sandbox`."""


def model_name(model: str) -> str:
    """What a config's `model` is called: `sandbox`, or the last part of its path or hub name."""
    path, end = Path(model), SEED_MODEL.parts[-3:]  # also that of another checkout
    return "sandbox" if path.parts[-3:] == end else path.name
