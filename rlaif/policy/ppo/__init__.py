"""Proximal policy optimisation: answers, their rewards, and a critic that says how good they are.

    policy: {kind: ppo}                                 # in a run's config; docs/ppo.md

The clipped objective of Schulman et al. (2017) as Ziegler et al. (2019) use it for language models,
in the details of Huang et al. (2024, "The N+ implementation details of RLHF with PPO"). The files,
in reading order: `objective` (the mathematics), `batches`, `critic`, `learner`, `policy`,
`rollouts` and `served` (who draws answers), `experience`, `trainer` (the loop), `probe`, `wires`,
`curves`, `checkpoint`, and `running`, which puts them together.
"""

from __future__ import annotations

from pathlib import Path


def fit(into: Path) -> None:
    """Train and save; `into/job.json` says what. The entry of the training process."""
    from rlaif.policy.ppo.running import run

    run(into)
