"""A finished run on the sandbox with scripted models: every role plays as the oracle knows it, with
faults, noise and a position bias. The inference stages are the real ones; trainings are pretended.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlaif.completions import Store
from rlaif.config import RunConfig
from rlaif.constitution import Constitution, load, to_yaml
from rlaif.engine import Model
from rlaif.engine.scripted import Reply, ScriptedEngine
from rlaif.intervals import Share
from rlaif.jsonl import writing
from rlaif.records import Call
from rlaif.runs import Run
from rlaif.sandbox import oracle, world
from rlaif.sandbox.skills import NO_FAULT, critique
from rlaif.shipped import folder
from rlaif.templates import Templates

CARED = "You are valid and valued and cared for in all that you do."


def law() -> Constitution:
    return load(folder("constitution") / "sandbox.yaml")


def config(name: str = "run", *, prompts: Path, **sections: Any) -> RunConfig:
    """A small run on a file of prompts."""
    plain: dict[str, Any] = {
        "name": name,
        "constitution": str(folder("constitution") / "sandbox.yaml"),
        "model": "sandbox",
        "prompts": {"sources": [{"path": str(prompts)}]},
        "critique": {"rounds": 3},
        "preferences": {"principles": 3},
        "evaluation": {"oracle": "sandbox", "kl": 0},
    }
    return RunConfig.model_validate(plain | sections)


def record(**given: Any) -> dict[str, Any]:
    """What a stage.json holds, of a stage that made nothing."""
    empty: dict[str, Any] = {"made_from": {}, "outputs": {}, "metrics": {}}
    return empty | {"stage": "", "digest": "", "seconds": 0.0, "finished": ""} | given


def requests(path: Path, *, train: int, heldout: int) -> Path:
    """A file of different requests."""
    rng, seen = random.Random(7), dict[str, str]()
    while len(seen) < train + heldout:
        seen.setdefault(world.request(rng).text, "train" if len(seen) < train else "heldout")
    rows = [{"prompt": text, "split": split} for text, split in seen.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def player(name: str, rate: float = 1.0, *, bias: float = 0.8, preaches: float = 0.0) -> Model:
    """A scripted model; `rate` scales its faults, `bias` (in logits) its liking for A,
    `preaches` is how often it adds a catchphrase."""
    return Model.of(engine(name, rate, bias, preaches))


def engine(name: str, rate: float, bias: float = 0.8, preaches: float = 0.0) -> ScriptedEngine:
    """What such a model says."""
    meant = {
        text: p.id for p in law().principles for w in (p.critique, p.revise, p.prefer) for text in w
    }

    def reply(call: Call) -> Reply:
        asked = next(m.content for m in reversed(call.messages) if m.role == "user")
        rng = random.Random(f"{name}/{asked}/{call.sample}")
        if "<conversation>" not in asked:
            return _draft(rng, asked, rate, preaches)
        return _about(rng, call, asked, meant, bias)

    return ScriptedEngine(reply, identity=name)


def _draft(rng: random.Random, asked: str, rate: float, preaches: float) -> str:
    request = oracle.parse_request(asked)
    faults = frozenset(f for f in world.base_faults(rng, request) if rng.random() < rate)
    text = world.said(world.response(rng, request, faults))
    return f"{text} {CARED}" if rng.random() < preaches else text


def _about(rng: random.Random, call: Call, asked: str, meant: dict[str, str], bias: float) -> Reply:
    request = oracle.parse_request(_between(asked, "conversation").removeprefix("User: "))
    principle = meant[re.findall(r"^(?:\w+ request|Question): (.*)$", asked, re.M)[-1]]
    if call.labels == ("A", "B"):
        better = _guilt(request, asked, "response_b", principle) - _guilt(
            request, asked, "response_a", principle
        )
        return _two(2.5 * better + bias + rng.gauss(0, 2.0))
    if call.labels:
        return _two(4 * _guilt(request, asked, "response", principle) - 2 + rng.gauss(0, 0.8))
    given = oracle.parse(_between(asked, "response"))
    if "Revision request:" in asked:
        return world.said(world.revised(rng, request, given, principle))
    return critique(request, given, principle) if rng.random() < 0.9 else NO_FAULT


def _guilt(request: world.Request, asked: str, tag: str, principle: str) -> int:
    return principle in oracle.read(request, _between(asked, tag)).violations


def _two(logit: float) -> tuple[float, float]:
    from rlaif.calibration import sigmoid

    return sigmoid(logit), sigmoid(-logit)


def _between(text: str, tag: str) -> str:
    return text.split(f"<{tag}>\n", 1)[1].split(f"\n</{tag}>", 1)[0]


def made(root: Path, *, train: int = 24, heldout: int = 30, **sections: Any) -> Path:
    """The folder of a finished run; its completions are in `root/store.sqlite3`."""
    root.mkdir(parents=True, exist_ok=True)
    told = config(prompts=requests(root / "p.jsonl", train=train, heldout=heldout), **sections)
    with Store(root / "store.sqlite3") as store, Run.open(told, root=root) as run:
        _stages(run, told, store)
        return run.folder


def _stages(run: Run, told: RunConfig, store: Store) -> None:
    from rlaif.critique import critique as revise
    from rlaif.evaluation import evaluation
    from rlaif.preferences import preferences
    from rlaif.prompts import prompts

    def model(name: str, rate: float = 1.0, **how: Any) -> Model:
        return Model.of(engine(name, rate, **how), store)

    def stage(name: str, section: Any, work: Callable[[Path], Any], **inputs: Any) -> Path:
        return run.stage(name, section, work, **inputs)

    shown: dict[str, Any] = {
        "constitution": law(), "templates": Templates(folder("prompts")), "seed": told.seed
    }  # fmt: skip
    (run.folder / "constitution.yaml").write_text(to_yaml(law()), "utf-8")
    asked = stage("prompts", told.prompts, lambda into: prompts(into, told.prompts, seed=told.seed))
    chains = stage(
        "critique",
        told.critique,
        lambda into: revise(
            into,
            told.critique,
            prompts=asked,
            drafter=model("sha256:start"),
            critic=model("sha256:start"),
            **shown,
        ),
        prompts=asked,
        drafter="sha256:start",
        critic="sha256:start",
        constitution=law().digest,
    )
    tuned = stage("finetune", told.finetune, lambda into: _trained(into, 0.9), chains=chains)
    pairs = stage(
        "preferences",
        told.preferences,
        lambda into: preferences(
            into,
            told.preferences,
            prompts=asked,
            policy=model("sha256:tuned", 0.5),
            judge=model("sha256:start"),
            **shown,
        ),
        prompts=asked,
        policy=tuned,
        judge="sha256:start",
    )
    stage("reward", told.reward, _rewarded, pairs=pairs, model=tuned)
    policy = stage("policy", told.policy, lambda into: _trained(into, 0.5), pairs=pairs)
    stage(
        "evaluation",
        told.evaluation,
        lambda into: evaluation(
            into,
            told.evaluation,
            prompts=asked,
            models={
                "seed": model("sha256:start"),
                "finetuned": model("sha256:tuned", 0.5),
                "policy": model("sha256:policy", 0.12, preaches=0.15),
            },
            judge=model("sha256:start"),
            chains=chains,
            pairs=pairs,
            **shown,
        ),
        prompts=asked,
        seed="sha256:start",
        finetuned=tuned,
        policy=policy,
        judge="sha256:start",
    )


def _trained(into: Path, loss: float) -> dict[str, Any]:
    (into / "model").mkdir()
    (into / "model" / "config.json").write_text("{}", "utf-8")
    rng = random.Random(loss)
    with writing(into / "curves.jsonl") as write:
        for n in range(1, 40):
            write({"step": n, "loss": loss / (1 + n / 12) + rng.gauss(0, 0.02)})
    return {"examples": 24, "steps": 39, "left_out": {"too_long": 1}}


def _rewarded(into: Path) -> dict[str, Any]:
    cells = ((0.53, 0.51, 16), (0.66, 0.72, 15), (0.81, 0.84, 15))
    reliability = [{"predicted": p, "target": t, "n": n} for p, t, n in cells]
    figures = {
        "heldout": 46,
        "accuracy": Share(33, 46).json(),
        "ece": 0.06,
        "reliability": reliability,
    }
    return _trained(into, 0.7) | figures
