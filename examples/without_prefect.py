"""The whole pipeline as plain function calls: no server, no flow, the same run folder.

python examples/without_prefect.py CONFIG
"""

import sys

from rlaif.checking import check
from rlaif.config import load
from rlaif.pipeline import Pipeline

config = load(sys.argv[1])
check(config)  # before anything is spent
with Pipeline.open(config) as run:
    prompts = run.prompts()
    critiqued = run.critique(prompts)
    finetuned = run.finetune(critiqued)
    preferred = run.preferences(prompts, finetuned)
    labels = run.audit(preferred)
    rewarded = run.reward(labels, finetuned) if run.config.reward.enabled else None
    policy = run.policy(labels, finetuned, prompts, rewarded)
    run.evaluation(prompts, critiqued, finetuned, preferred, policy)
    print(run.report())
