"""A model on disk: can it be served, and which model exactly is it?"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from functools import lru_cache
from pathlib import Path

from rlaif.config.engine import EngineConfig
from rlaif.errors import ConfigError

log = logging.getLogger(__name__)

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_NOTES = (".md", ".txt.lock", ".gitattributes", "recipe.json", "trainer_state.json")
_IGNORED = (*_PICKLES, *_NOTES)  # what no answer depends on
_NO_MATTER = {  # of vLLM's arguments: how fast a model answers and where, not what
    "gpu-memory-utilization", "kv-cache-memory-bytes", "swap-space", "cpu-offload-gb", "block-size",
    "tensor-parallel-size", "tp", "pipeline-parallel-size", "pp", "data-parallel-size", "dp",
    "distributed-executor-backend", "max-num-seqs", "max-num-batched-tokens", "max-model-len",
    "enforce-eager", "enable-prefix-caching", "no-enable-prefix-caching",
    "enable-chunked-prefill", "no-enable-chunked-prefill", "async-scheduling",
    "download-dir", "load-format", "disable-log-stats", "enable-log-requests", "uvicorn-log-level",
}  # fmt: skip


def local_folder(model: str) -> Path | None:
    """The folder of a model on this machine; None for a hub name."""
    folder = Path(model).expanduser()
    return folder if folder.is_dir() else None


def check_servable(config: EngineConfig) -> None:
    """Refuse, before anything is started, a model that vLLM could not serve or should not."""
    folder = local_folder(config.model)
    if folder is None:
        _check_hub_name(config.model)
        return
    if not (folder / "config.json").is_file():
        raise ConfigError(
            "the folder has no config.json",
            where=str(folder),
            remedy="name a folder that save_pretrained() wrote",
        )
    if not any(folder.glob("*.safetensors")):
        pickled = any(p.suffix in _PICKLES for p in folder.iterdir())
        raise ConfigError(
            "no *.safetensors weights" + (" (pickled weights are never loaded)" if pickled else ""),
            where=str(folder),
            remedy="save the model with save_pretrained(..., safe_serialization=True)",
        )
    if not _has_chat_template(folder) and not _given_template(config):
        raise ConfigError(
            "the tokenizer has no chat template",
            where=str(folder),
            remedy="put a chat_template.jinja beside it, or pass --chat-template in vllm_args",
        )


def _check_hub_name(model: str) -> None:
    looks_like_path = model.startswith((".", "/", "~")) or model.count("/") > 1
    if looks_like_path:
        remedy = "check `model`, or `feedback.model` if it is the judge's"
        raise ConfigError("no such model folder", where=model, remedy=remedy)


def _given_template(config: EngineConfig) -> bool:
    return any(arg.split("=")[0] == "--chat-template" for arg in config.vllm_args)


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    try:
        tokenizer = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return bool(tokenizer.get("chat_template"))


def identity(config: EngineConfig) -> str:
    """What the completions store knows the model by: its content, or its name and revision; the
    number format; and, of a server of ours, the arguments that can change an answer."""
    folder = local_folder(config.model)
    name = f"sha256:{folder_digest(folder)}" if folder else _hub_identity(config)
    dtype = "" if config.dtype == "auto" else f":{config.dtype}"
    served = "" if config.base_urls else _served(config.vllm_args)
    return f"{name}{dtype}{served}"


def _served(args: tuple[str, ...]) -> str:
    """A digest of the arguments that matter, a file among them by its content; "" without any."""
    told: list[list[str]] = []
    for arg in args:
        option, is_, value = arg.partition("=")
        if arg.startswith("-"):
            told.append([option.lstrip("-").replace("_", "-"), *([value] if is_ else [])])
        elif told:
            told[-1].append(arg)
    counts = [(name, *map(_content, values)) for name, *values in told if name not in _NO_MATTER]
    return f"+{hashlib.sha256(repr(counts).encode()).hexdigest()[:16]}" if counts else ""


def _content(value: str) -> str:
    """The digest of a file, or the value as it is."""
    path = Path(value).expanduser()
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else value


def _hub_identity(config: EngineConfig) -> str:
    return f"{config.model}@{config.revision or 'main'}"


def folder_digest(folder: Path) -> str:
    """SHA-256 over names and contents of weights, configs, tokenizer and chat template."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if _counts(p)):
        stat = path.stat()
        digest = _file_digest(str(path.resolve()), stat.st_size, stat.st_mtime_ns)
        total.update(f"{path.name}\0{digest}\n".encode())
    return total.hexdigest()


def _counts(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and not path.name.endswith(_IGNORED)


@lru_cache(maxsize=4096)
def _file_digest(path: str, size: int, mtime_ns: int) -> str:
    note = _cache_folder() / hashlib.sha256(f"{path}\0{size}\0{mtime_ns}".encode()).hexdigest()
    if note.is_file() and len(known := note.read_text("ascii")) == 64:  # whole
        return known
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if size > 1 << 26:  # small files are quicker to read again than to look up
        try:
            note.parent.mkdir(parents=True, exist_ok=True)
            draft = note.with_suffix(f".{os.getpid()}")
            draft.write_text(digest, "ascii")
            draft.replace(note)
        except OSError as error:
            log.info("%s is read again by the next process: %s", path, error)
    return digest


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "rlaif" / "digests"
