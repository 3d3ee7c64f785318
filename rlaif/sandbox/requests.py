"""The prompts of the demo: requests of the world, those on held-out topics kept for evaluation.

python -m rlaif.sandbox.requests > rlaif/sandbox/prompts.jsonl
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator

from rlaif.sandbox import world

TRAIN, HELDOUT = 600, 200


def rows(n: int, split: str) -> Iterator[dict[str, object]]:
    """`n` different requests; the held-out ones are on topics the seed model never saw."""
    rng, seen = random.Random(f"demo/{split}"), set[str]()
    while len(seen) < n:
        asked = world.request(rng, unseen=split == "heldout")
        if asked.text not in seen:
            seen.add(asked.text)
            tags = ["harmful" if asked.harmful else "benign"]
            yield {"prompt": asked.text, "tags": tags, "split": split}


if __name__ == "__main__":
    for split, n in (("train", TRAIN), ("heldout", HELDOUT)):
        for row in rows(n, split):
            sys.stdout.write(json.dumps(row) + "\n")
