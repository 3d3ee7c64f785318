"""How a model is served: the `engine` section of a run, and the same with a model's name."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from rlaif.config.section import File, ModelName
from rlaif.errors import ConfigError


def _plain_url(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url!r} is not a URL; write it as http://host:port")
    if "@" in url.split("//", 1)[1].split("/", 1)[0]:
        raise ValueError("a URL must not hold credentials; name a variable in api_key_env instead")
    return url.rstrip("/").removesuffix("/v1")


def _no_remote_code(args: tuple[str, ...]) -> tuple[str, ...]:
    banned = ("--trust-remote-code", "--trust_remote_code", "--api-key", "--host", "--port")
    for arg in args:
        if arg.split("=", 1)[0] in banned:
            raise ValueError(f"{arg.split('=', 1)[0]} is not allowed here: {', '.join(banned)}")
    return args


class ServingConfig(BaseModel):
    """How models are served, and how patient the client is."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    at_once: int = Field(default=1, gt=0)
    """How many servers of ours may be up at once. With 1, a model's server is stopped before the
    next one starts and before anything is trained, so that each has the whole GPU."""

    base_urls: tuple[Annotated[str, AfterValidator(_plain_url)], ...] = ()
    """Servers that someone else runs, all with the same model. Empty: we start vLLM ourselves."""

    served_name: str | None = None
    """The name under which those servers know the model, where it differs from `model`."""

    api_key_env: str | None = None
    """The NAME of the environment variable that holds the API key; never the key itself."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of weights and activations; auto takes the one of the model's config."""

    max_model_len: int | None = Field(default=None, gt=0)
    """Longest prompt plus answer, in tokens. Unset: what the model's config says."""

    max_in_flight: int = Field(default=128, gt=0)
    """How many requests may be open at once, over all servers."""

    timeout_s: float = Field(default=120.0, gt=0)
    """How long one attempt may take before it is given up and tried again."""

    deadline_s: float = Field(default=600.0, gt=0)
    """How long one call may take with all its retries; past it, it is unanswered (cancelled) unless
    a last attempt succeeds."""

    retries: int = Field(default=6, ge=0)
    """How often a call is tried again after 429, 5xx, a reset or a timeout."""

    grace_s: float = Field(default=20.0, ge=0)
    """How long every server may refuse connections, or answer nothing, before the run stops with an
    error."""

    startup_timeout_s: float = Field(default=900.0, gt=0)
    """How long a server that we start may take until it is healthy."""

    vllm_args: Annotated[tuple[str, ...], AfterValidator(_no_remote_code)] = ()
    """More arguments for the vLLM server, passed through as they are."""

    cpu_threads: int | None = Field(default=None, gt=0)
    """Threads of the model on a machine without a GPU. Unset: all cores but one, at least one."""

    logs: File | None = None
    """Where the server's log is kept. Unset: a temporary file, gone when the server stops."""


class EngineConfig(ServingConfig):
    """Which model answers, and how it is served."""

    model: ModelName
    """A folder with safetensors weights, a tokenizer and a chat template; or a name on the hub;
    `sandbox` is the embedded model."""

    revision: str | None = None
    """The hub revision (a commit, best of all). It is part of the model's identity."""

    def api_key(self) -> str | None:
        """The API key from the environment; None where none is configured."""
        if self.api_key_env is None:
            return None
        try:
            return os.environ[self.api_key_env]
        except KeyError:
            raise ConfigError(
                f"the environment variable {self.api_key_env} is not set",
                where="engine.api_key_env",
                remedy=f"export {self.api_key_env}=..., or remove api_key_env",
            ) from None
