"""Rollouts by vLLM in the training's own process, its weights replaced in memory.

Of several processes, each has an engine of its own, on its own GPU, and draws its share; to vLLM
they are ranks of one launcher without anything to say to each other.

On a CPU and with tied embeddings vLLM 0.32 multiplies the head by a packed copy, which a reload of
weights may leave as it was; it is packed anew after each.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import torch

from rlaif.config.policy import PpoConfig
from rlaif.engine.launch import on_gpu
from rlaif.errors import ConfigError, TrainingFailed
from rlaif.policy.ppo.policy import Policy
from rlaif.policy.ppo.rollouts import Drawn, Request
from rlaif.training.models import on_gpu_with_bf16

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # weights are handed over in memory
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
_ON_CPU = {
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the threads are the trainer's, too
}


class Served:
    """Answers by `vllm.LLM`."""

    def __init__(self, policy: Policy, config: PpoConfig, ends: frozenset[int]) -> None:
        for name, value in (_ENVIRONMENT | ({} if on_gpu() else _ON_CPU)).items():
            os.environ.setdefault(name, value)
        self._policy, self._ends, self._config = policy, ends, config
        self._asleep: set[str] = set()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._llm = self._started()
        policy.learner.accelerator.wait_for_everyone()
        self.update()

    def _started(self) -> Any:
        from vllm import LLM

        config = self._config
        options: dict[str, Any] = {
            "model": str(self._policy.start),
            "dtype": "bfloat16" if on_gpu_with_bf16() else "float32",
            "max_model_len": config.max_length,
            "load_format": "safetensors",
            "logprobs_mode": "processed_logprobs",  # after the temperature
            "enable_prefix_caching": True,
            "seed": 0,
        }
        if self._policy.learner.accelerator.num_processes > 1:
            options["distributed_executor_backend"] = "external_launcher"
        if on_gpu():
            options["gpu_memory_utilization"] = 0.3  # the training needs the rest
        else:
            options |= {"enforce_eager": True, "enable_chunked_prefill": False, "max_num_seqs": 128}
        try:
            return LLM(**(options | config.vllm))
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"vLLM does not start: {str(error).splitlines()[0]}",
                where="policy.vllm",
                remedy="correct these options, or set rollouts: transformers",
            ) from error

    def update(self) -> None:
        """Hand over the policy's weights, and forget what was cached of the old ones."""
        weights = self._policy.weights()
        self._wake("weights")
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        if not on_gpu():
            self._llm.apply_model(_pack_head)
        if not self._llm.reset_prefix_cache():
            what = "vLLM kept what it had cached of the weights before"
            raise TrainingFailed(what, where="policy.rollouts", remedy="start it again")

    def draw(self, requests: Sequence[Request]) -> list[Drawn]:
        """An answer to each request."""
        from vllm import SamplingParams, TokensPrompt

        sampling = [
            SamplingParams(
                temperature=self._config.temperature,
                max_tokens=self._config.max_tokens,
                stop_token_ids=sorted(self._ends),
                seed=request.seed,
                logprobs=0,
                detokenize=False,
            )
            for request in requests
        ]
        prompts = [TokensPrompt(prompt_token_ids=request.asked) for request in requests]
        self._wake("weights", "kv_cache")
        outputs = self._llm.generate(prompts, sampling, use_tqdm=False)
        self._sleep()
        return [_drawn(output.outputs[0]) for output in outputs]

    def _sleep(self) -> None:
        """With `enable_sleep_mode` the training has the engine's memory while nothing is drawn."""
        if self._config.vllm.get("enable_sleep_mode"):
            self._llm.sleep(level=1)
            self._asleep = {"weights", "kv_cache"}

    def _wake(self, *parts: str) -> None:
        if wanted := self._asleep.intersection(parts):
            torch.cuda.empty_cache()
            self._llm.wake_up(tags=sorted(wanted))
            self._asleep -= wanted


def _drawn(output: Any) -> Drawn:
    tokens = list(output.token_ids)
    found = zip(output.logprobs, tokens, strict=True)
    return Drawn(tokens, [known[token].logprob for known, token in found])


def _pack_head(model: Any) -> None:
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    head: Any = getattr(model, "lm_head", None)
    if getattr(head, "weight", None) is not None:
        dispatch_cpu_unquantized_gemm(head, remove_weight=False)
