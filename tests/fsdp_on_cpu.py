"""PPO with weights that FSDP 2 shards over processes of a CPU, which accelerate does on GPUs alone.

Named as the entry of a training: `training.train("tests.fsdp_on_cpu:fit", ...)`. What shards,
gathers and saves is torch's and accelerate's own code, over gloo in place of NCCL.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from accelerate import DistributedType, PartialState

_AS_SHIPPED = {  # rlaif/training/accelerate/fsdp.yaml, as `accelerate launch` passes it on
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}


def fit(into: Path) -> None:
    """`rlaif.policy.ppo:fit`, sharded."""
    from rlaif.policy.ppo import fit as ppo

    assert PartialState().num_processes > 1
    os.environ |= _AS_SHIPPED
    shared: dict[str, Any] = PartialState._shared_state
    shared["distributed_type"] = DistributedType.MULTI_GPU
    ppo(into)
