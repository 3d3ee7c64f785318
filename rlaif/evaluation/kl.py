"""How far the trained models are from the start model: KL(model || start) on their own answers.

At every token of an answer the divergence of the two next-token distributions is summed over the
whole vocabulary, which has far less variance than the usual difference of the log-probabilities of
the tokens drawn, and the same expectation. Answers drawn at another temperature than 1 are the
trajectories, the distributions stay those of temperature 1. It is measured in a child process:

    launch("rlaif.evaluation.kl:measure", folder)     # folder/job.json, folder/<model>.jsonl
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaif.errors import ConfigError
from rlaif.intervals import Clusters, mean, undefined
from rlaif.jsonl import rows, writing
from rlaif.records import Message, Sampled
from rlaif.templates import Templates

if TYPE_CHECKING:
    import torch


def divergence(
    into: Path,
    models: Iterable[str],
    weights: Mapping[str, str],
    templates: Templates,
    *,
    answers: int,
    revision: str | None = None,
    make_room: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """KL in nats by model: `answer`, the mean over answers, and `token`, the mean over tokens.

    `weights` are folders or names on the hub, `revision` is of the start model there. `make_room`
    is called before two models are loaded. Undefined, with the reason, where weights can't be had.

    Raises:
        TrainingFailed: the child process failed; its folder `into/kl` stays.
    """
    trained = [name for name in models if name != "seed"]
    reasons = {name: _why_not(name, weights, answers) for name in trained}
    possible = [name for name in trained if not reasons[name]]
    measured: dict[str, Any] = {}
    if possible:
        folder = into / "kl"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in possible:
            _write_answers(folder, into / "samples.jsonl", name, answers)
        job = {
            "reference": (weights["seed"], revision),
            "models": {name: weights[name] for name in possible},
            "templates": str(templates.folder.resolve()),
        }
        (folder / "job.json").write_text(json.dumps(job), "utf-8")
        make_room()
        try:
            _launch(folder)
            measured = json.loads((folder / "kl.json").read_text("utf-8"))
        except ConfigError as error:
            reasons |= dict.fromkeys(possible, error.what)
        shutil.rmtree(folder)
    return {
        name: measured.get(name) or dict.fromkeys(("answer", "token"), undefined(why).json())
        for name, why in reasons.items()
    }


def measure(folder: Path) -> None:
    """Write `kl.json`; the entry of the child process."""
    from rlaif.training import models

    job = json.loads((folder / "job.json").read_text("utf-8"))
    start = models.source(*job["reference"])
    trained = {name: models.source(where) for name, where in job["models"].items()}
    reference = Weights(start)
    found = {}
    for name, where in trained.items():
        model = Weights(where, job["templates"])
        by_answer, by_token = Clusters(2), Clusters(2)
        drawn = rows(folder / f"{name}.jsonl", tuple[tuple[Message, ...], str])
        for messages, alike in groupby(drawn, key=itemgetter(0)):  # answers to one prompt
            counted = [c for _, text in alike if (c := kl(model, reference, messages, text))]
            if counted:
                nats, tokens = map(sum, zip(*counted, strict=True))
                by_answer.add(nats, len(counted))
                by_token.add(nats, tokens)
        found[name] = {"answer": mean(by_answer).json(), "token": mean(by_token).json()}
    (folder / "kl.json").write_text(json.dumps(found), "utf-8")


class Weights:
    """A causal language model with its tokenizer: in float32 on a CPU, as saved on a GPU."""

    def __init__(self, folder: Path, templates: str | None = None) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        from rlaif.training.examples import Encoder
        from rlaif.training.models import context_length

        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.float32 if device == "cpu" else "auto"
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        self.model = loaded.to(device).eval()
        self.encode = Encoder(folder, context_length(self.model), templates)

    def log_probs(self, prompt: list[int], answer: list[int]) -> torch.Tensor:
        """(T, V) log-probabilities of the next token at each of the answer's T tokens."""
        import torch

        ids = torch.tensor([prompt + answer], device=self.model.device)
        with torch.inference_mode():
            logits = self.model(ids).logits[0, len(prompt) - 1 : -1]
        return logits.float().log_softmax(-1)


def kl(
    model: Weights, reference: Weights, messages: Sequence[Message], text: str
) -> tuple[float, int] | None:
    """KL(model || reference) summed over an answer's tokens, in nats; and how many tokens.

    The token that ends the turn is one of them. None where the answer doesn't fit the context, or
    the encoder can't read it.
    """
    from rlaif.training.examples import LeftOut

    try:
        prompt, answer = model.encode(messages, text)
    except LeftOut:
        return None
    ours, theirs = model.log_probs(prompt, answer), reference.log_probs(prompt, answer)
    return float((ours.exp() * (ours - theirs)).sum()), len(answer)


def _why_not(name: str, weights: Mapping[str, str], answers: int) -> str:
    if not answers:
        return "switched off (evaluation.kl: 0)"
    for needed in (name, "seed"):
        if needed not in weights:
            return f"it is not known where the weights of {needed} lie"
    return ""


def _write_answers(folder: Path, samples: Path, name: str, n: int) -> None:
    """`<name>.jsonl`: the first `n` answers of a model, each as (prompt's messages, text)."""
    own = (s for s in rows(samples, Sampled) if s.model == name and not s.unanswered)
    with writing(folder / f"{name}.jsonl") as write:
        for sampled in islice(own, n):
            write((sampled.prompt.messages, sampled.text))


def _launch(folder: Path) -> None:
    from rlaif.training import launch

    launch("rlaif.evaluation.kl:measure", folder, saving="set `evaluation.kl: 0`")
