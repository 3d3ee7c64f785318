"""What GRPO and RLOO share: prompts in, TRL's trainer on our rewards, figures out.

TRL draws the answers: by `generate` of transformers, or by vLLM with `trl: {use_vllm: true}` where
TRL knows the vLLM that is installed (1.16 knows 0.22 to 0.31, on GPUs; docs/policy.md). An answer
without a reward counts neither in its group's mean nor in its advantages, which TRL sets to 0 for
it: of the loss it has but GRPO's divergence term.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

from rlaif import training
from rlaif.config.policy import GrpoConfig, RlooConfig
from rlaif.errors import ConfigError
from rlaif.policy.examples import questions
from rlaif.policy.rewards import Rewards, opened
from rlaif.policy.tracking import Reporting
from rlaif.policy.watch import Watch
from rlaif.records import Prompt
from rlaif.training import fitting, models
from rlaif.training.examples import Encoder, stored

Score = Callable[..., list[float | None]]


def fit(into: Path, config: GrpoConfig | RlooConfig, trainer: Any, arguments: Any) -> None:
    """Train and save with TRL's `trainer` and its `arguments`; `into/job.json` says what."""
    began, asked = time.monotonic(), training.job(into)
    start, seed = models.source(asked["model"]), asked["seed"]
    encode = Encoder(start, config.max_length, asked.get("templates"))
    prompts, room = Path(asked["prompts"]), config.max_tokens
    dataset, left_out = stored(
        into, "prompts", lambda: questions(prompts, encode, answer=room, limit=config.limit)
    )
    if dataset[0]["prompt"][-1]["role"] == "assistant":
        what, remedy = (
            "TRL begins every answer anew",
            "remove its assistant block, or take kind: ppo",
        )
        raise ConfigError(what, where="draft.j2", remedy=remedy)
    n, folders = len(dataset), {k: Path(folder) for k, folder in asked["reward_models"].items()}
    with opened(config.rewards, reward_models=folders, judge=asked["judge"], seed=seed) as rewards:
        watch = Watch(into, asked, config, encode, rewards)
        steady: Any = type(f"Steady{trainer.__name__}", (_Steady, trainer), {})
        made = steady(
            model=models.load_for_training(start, config),
            reward_funcs=scoring(rewards),
            args=_enough(fitting.arguments(arguments, into, config, seed, **_options(config)), n),
            train_dataset=dataset,
            processing_class=encode.tokenizer,
            peft_config=models.adapters(config.lora),
            callbacks=[watch, Reporting(into, config.report_to)],
        )
        watch.trainer = made
        fitted = fitting.fit(made, into)
        watch.save(into / "model")
        metrics = {"examples": n, "left_out": left_out, "steps": fitted.steps}
        metrics |= _figures(fitted) | watch.metrics() | {"rewards": rewards.metrics()}
    training.finish(into, metrics | {"seconds": round(time.monotonic() - began, 1)})


def _enough(args: Any, prompts: int) -> Any:
    """The arguments, if there are prompts for one step of the optimizer.

    Raises:
        ConfigError: there are fewer; TRL leaves out what fills no batch.
    """
    wanted = args.generation_batch_size // args.num_generations
    if prompts < wanted:
        what, remedy = f"{prompts} prompts, and a batch takes {wanted}", "lower batch_size"
        raise ConfigError(what, where="policy.batch_size", remedy=f"{remedy}, or raise samples")
    return args


def _options(config: GrpoConfig | RlooConfig) -> dict[str, Any]:
    return {
        "beta": config.beta,
        "num_generations": config.samples,
        "max_completion_length": config.max_tokens,
        "temperature": config.temperature,
    }


def scoring(rewards: Rewards) -> Score:
    """The rewards as a reward function of TRL, on rows of `questions`.

    The means before normalisation are logged as `reward/<source>`.
    """
    import msgspec

    decode = msgspec.json.Decoder(Prompt).decode

    def score(
        *, completions: list[Any], completion_ids: list[list[int]], record: list[str],
        prompt_ids: list[list[int]], log_metric: Callable[[str, float], None], **_: Any,
    ) -> list[float | None]:  # fmt: skip
        answers = [turns[0]["content"] for turns in completions]
        ids = [[*p, *c] for p, c in zip(prompt_ids, completion_ids, strict=True)]
        values = rewards.score(
            list(map(decode, record)), answers, ids, list(map(len, completion_ids))
        )
        for name, (total, scored) in rewards.batch.items():
            if scored:
                log_metric(f"reward/{name}", total / scored)
        return [None if math.isnan(value) else value for value in values]

    return score


@contextmanager
def trl_imported(config: GrpoConfig | RlooConfig) -> Iterator[None]:
    """Inside, TRL's trainers are imported without vLLM unless it is to draw the answers: where vLLM
    is installed, TRL imports it at once, which takes up to half a minute."""
    from trl import import_utils

    found = import_utils.is_vllm_available
    if not config.trl.get("use_vllm"):
        import_utils.is_vllm_available = lambda min_version=None: False
    try:
        yield
    finally:
        import_utils.is_vllm_available = found


class _Steady:
    """What TRL's trainers want beside: an order of the prompts that hangs on the epoch alone, so
    that a training can go on in any of them; and a log without times and figures of nothing, with
    PPO's names for what PPO has, too."""

    _metrics: Any
    args: Any
    _drawn: dict[str, float] = {}  # noqa: RUF012 - replaced, never changed

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        sampler: Any = super()._get_train_sampler(dataset)  # pyright: ignore

        def set_epoch(epoch: int) -> None:
            sampler.generator.manual_seed(self.args.seed + epoch)

        sampler.set_epoch = set_epoch
        return sampler

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        seen = self._metrics["train"]
        for name in list(seen):
            if name == "step_time" or all(map(math.isnan, seen[name])):
                del seen[name]
        if "completions/mean_length" in seen:
            self._drawn = _of_answers(seen)
        if "entropy" in seen and self._drawn:
            _rename(seen, self._drawn)
        super().log(logs, start_time)  # pyright: ignore[reportAttributeAccessIssue]


def _of_answers(seen: dict[str, list[float]]) -> dict[str, float]:
    """Figures of the answers that were drawn last; several steps may learn from them."""
    ended = 1 - fmean(seen.pop("completions/clipped_ratio"))
    return {"length": fmean(seen["completions/mean_length"]), "eos_rate": ended}


def _rename(seen: dict[str, list[float]], drawn: dict[str, float]) -> None:
    """PPO's names: `kl` is of a whole answer, in nats (its mean over tokens times their mean
    number); `score` is the reward after normalisation, and `Watch` adds `reward`, before it."""
    seen.update({name: [value] for name, value in drawn.items()})
    if "kl" in seen:
        seen["kl"] = [drawn["length"] * fmean(seen["kl"])]
    if "clip_ratio/region_mean" in seen:
        seen["clip_fraction"] = seen.pop("clip_ratio/region_mean")
    if "reward" in seen:
        seen["score"] = seen.pop("reward")


def _figures(fitted: fitting.Fitted) -> dict[str, Any]:
    """Means over the last tenth of the steps."""
    sources = sorted({name for row in fitted.curve for name in row if name.startswith("reward/")})
    names = ("loss", "reward", "score", *sources, "kl", "entropy", "length", "eos_rate")
    return {name: fitted.last(name) for name in names}
