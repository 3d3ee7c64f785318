"""What a training by TRL takes, without importing TRL, which takes many seconds."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from importlib.util import find_spec
from pathlib import Path

from rlaif.config.section import TrainerConfig
from rlaif.documents import did_you_mean
from rlaif.errors import ConfigError

_OURS = {  # not for `trl:`
    "output_dir", "max_length", "max_seq_length", "truncation_mode", "remove_unused_columns"
}  # fmt: skip


def known(kind: str) -> set[str]:
    """The options of a config class of TRL, such as SFTConfig, read from its source."""
    trl = _folder("trl") / "trainer"
    file = trl / f"{kind.removesuffix('Config').lower()}_config.py"
    bases = (trl / "base_config.py", _folder("transformers") / "training_args.py")
    return {name for path in (file, *bases) for name in _fields(path)}


def check_options(
    config: TrainerConfig, known: Collection[str], kind: str, *, where: str = "trl"
) -> None:
    """Look at the names in `config.trl`; `known` are the options of TRL's `kind`.

    Raises:
        ConfigError: TRL has no such option, or it is not for a config to set.
    """
    for name in config.trl:
        if name in _OURS:
            remedy = "remove it; max_length has its own key beside `trl`"
            raise ConfigError(f"{name} cannot be set here", where=where, remedy=remedy)
        if name not in known:
            remedy = did_you_mean(name, sorted(known)) or f"see {kind} of TRL"
            raise ConfigError(f"{kind} has no {name!r}", where=where, remedy=remedy)


def split(config: TrainerConfig, devices: int, *, where: str = "micro_batch") -> tuple[int, int]:
    """Examples that a device handles at once, and how often before a step.

    Raises:
        ConfigError: the batch cannot be split so.
    """
    batch, micro = config.batch_size, config.micro_batch or max(config.batch_size // devices, 1)
    if batch % (micro * devices):
        times = f" times {devices} devices" if devices > 1 else ""
        what = f"batch_size {batch} is no multiple of micro_batch {micro}{times}"
        raise ConfigError(what, where=where, remedy="change one of them")
    return micro, batch // (micro * devices)


def _folder(package: str) -> Path:
    spec = find_spec(package)
    assert spec
    assert spec.origin
    return Path(spec.origin).parent


def _fields(path: Path) -> Iterator[str]:
    """The fields of the config class in a file that its callers may give."""
    for made in ast.parse(path.read_text("utf-8")).body:
        if isinstance(made, ast.ClassDef):
            for line in made.body:
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                    yield line.target.id
