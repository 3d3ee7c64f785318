"""How the policy is trained: one section, told apart by its `kind`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from rlaif.config.section import File, PassedThrough, Section, TrainerConfig


class LearnerConfig(TrainerConfig):
    """What every training of a policy has."""

    report_to: tuple[str, ...] = ()
    """Where the curves go as they come, beside curves.jsonl: trackers of accelerate, such as
    tensorboard."""


class DpoConfig(LearnerConfig):
    """Direct preference optimisation on the soft labels (Rafailov et al. 2023)."""

    no_dropout = True
    kind: Literal["dpo"] = "dpo"

    beta: float = Field(default=0.1, gt=0)
    """How strongly the policy is held to the reference."""

    labels: Literal["soft", "hard"] = "soft"
    """soft: each pair weighs by its probability. hard: the likelier answer is simply chosen."""

    min_margin: float = Field(default=0.0, ge=0, lt=0.5)
    """Leave out pairs whose label is nearer to 0.5 than this."""

    loss_type: str = "sigmoid"
    """With hard labels: any loss of TRL's DPOTrainer, such as ipo. Soft labels need sigmoid."""

    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """With hard labels: passed to TRL where its loss has it; soft labels: p is drawn to 0.5."""

    anchor: float = Field(default=0.0, ge=0)
    """With soft labels: weight of the mean negative log-probability of a pair's answers, in nats.
    DPO minds their difference alone, and lets both lose to answers that nobody has seen: raise it,
    from 0.001 on, where the curve `kl` climbs or answers lose their form."""


class KtoConfig(LearnerConfig):
    """Kahneman-Tversky optimisation (TRL's KTOTrainer) on the likelier and unlikelier answers."""

    no_dropout = True
    kind: Literal["kto"] = "kto"

    beta: float = Field(default=0.1, gt=0)
    """How strongly the policy is held to the reference."""

    min_margin: float = Field(default=0.0, ge=0, lt=0.5)
    """Leave out pairs whose label is nearer to 0.5 than this."""


class RewardModelConfig(Section):
    """A reward model that is asked, and how much it counts."""

    name: str = "reward"
    """What its figures are called."""

    path: File | None = None
    """Its folder. Unset: the one that this run's reward stage makes."""

    weight: float = 1.0
    """What its reward is multiplied by in the sum; below 0, it is a penalty."""


class JudgeRewardConfig(Section):
    """The feedback model's verdict as a reward, without a reward model (d-RLAIF, Lee et al. 2023):
    it reads each answer alone and says whether it violates a principle."""

    weight: float = 1.0
    """What its reward is multiplied by in the sum."""

    principles: int = Field(default=0, ge=0)
    """How many principles judge each prompt's answers, drawn by hash; 0 is all that apply. Each is
    one call for each answer."""

    scale: Literal["probability", "log_odds"] = "probability"
    """probability: 1 - 2 P(violates), in [-1, 1], as Lee et al. take the expected score. log_odds:
    ln P(No) - ln P(Yes), which has no bounds: one very sure verdict may outweigh all others."""


class RewardsConfig(Section):
    """What an answer is worth in on-policy training: a weighted sum, then a penalty for length."""

    models: tuple[RewardModelConfig, ...] = (RewardModelConfig(),)
    """Reward models, such as one for each principle; `[]` for none."""

    judge: JudgeRewardConfig | None = None
    """Ask the feedback model, too. `judge: {}` and `models: []` train without a reward model."""

    normalise: bool = True
    """Give each source mean 0 and standard deviation 1, as they ran up to then, before it is
    weighted; both figures at the end are in the metrics."""

    length_target: int | None = Field(default=None, gt=0)
    """Tokens of an answer that cost nothing. Unset: no length is penalised."""

    length_penalty: float = Field(default=0.01, ge=0)
    """Taken from the sum for each token above `length_target`."""

    @property
    def own(self) -> str | None:
        """The name of the run's own reward model, if it is one of the sources that count."""
        own = (model.name for model in self.models if model.path is None and model.weight)
        return next(own, None)

    @model_validator(mode="after")
    def _some_source(self) -> RewardsConfig:
        if not self.models and self.judge is None:
            raise ValueError("name a reward model in `models`, or set `judge: {}`")
        names = [model.name for model in self.models] + ["judge"] * bool(self.judge)
        if len(set(names)) < len(names):
            raise ValueError(f"each source needs a name of its own; they are {', '.join(names)}")
        return self


class TripwireConfig(Section):
    """When an on-policy training stops by itself and goes back to its best probe; null switches a
    wire off."""

    kl: float | None = Field(default=30.0, gt=0)
    """The KL budget: mean KL(policy || reference) of an answer, in nats."""

    entropy: float | None = Field(default=0.1, ge=0, lt=1)
    """Collapse: the entropy of a token has fallen to this share of what it was at first."""

    length: float | None = Field(default=2.0, gt=1)
    """Run-away: answers are so many times as long as at first, or as short."""

    divergence: float | None = Field(default=0.15, gt=0)
    """The training reward is higher than at the best probe, the probe's quality lower by this: a
    share of good answers where there is an oracle, else standard deviations of the reward."""

    patience: int = Field(default=3, gt=0)
    """So many batches in a row (probes, for `divergence`) trip a wire; one may be chance."""


class OnPolicyConfig(LearnerConfig):
    """What PPO, GRPO and RLOO share: answers that are drawn, scored and watched."""

    no_dropout = True
    limit: int | None = Field(default=None, gt=0)
    """Use so many training prompts at most."""

    rewards: RewardsConfig = RewardsConfig()
    """What an answer is worth."""

    max_tokens: int = Field(default=256, gt=0)
    """Longest answer, in tokens. A prompt that leaves less room in `max_length` is left out."""

    temperature: float = Field(default=1.0, gt=0)
    """Of the answers; every log-probability is that of the distribution drawn from."""

    probe_every: int = Field(default=10, gt=0)
    """Batches between probes: held-out prompts are answered and scored, always with the same
    seeds."""

    probe_prompts: int = Field(default=64, gt=0)
    """Held-out prompts of a probe, the first ones."""

    oracle: Literal["sandbox"] | None = None
    """Who knows the truth of a probe's answers. It is a curve, a tripwire's measure and chooses the
    checkpoint to return to; no gradient sees it."""

    wires: TripwireConfig = TripwireConfig()
    """When to stop."""

    @model_validator(mode="after")
    def _answers_have_room(self) -> OnPolicyConfig:
        if self.max_tokens >= self.max_length:
            raise ValueError("`max_tokens` leaves a prompt no room in `max_length`")
        return self


class PpoConfig(OnPolicyConfig):
    """Proximal policy optimisation (Schulman et al. 2017; Ziegler et al. 2019; Huang et al. 2024).

    `batch_size` answers make one step of the optimizer; `epochs` are passes over the prompts.
    """

    kind: Literal["ppo"] = "ppo"

    learning_rate: float = Field(default=3e-6, gt=0)
    """Peak learning rate of the policy."""

    critic_learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate of the critic. Unset: the policy's."""

    schedule: Literal["linear", "constant"] = "linear"
    """linear: both rates fall to zero over the training."""

    critic_warmup: int = Field(default=0, ge=0)
    """So many first batches teach the critic alone."""

    batch_size: int = Field(default=64, gt=0)
    """Answers for one step of the optimizer, over all devices."""

    minibatches: int = Field(default=4, gt=0)
    """Steps for one pass over a batch of answers: so many times `batch_size` are drawn at once."""

    ppo_epochs: int = Field(default=4, gt=0)
    """Passes over each batch of answers."""

    samples: int = Field(default=1, gt=0)
    """Answers to each prompt of a batch."""

    rollouts: Literal["auto", "vllm", "transformers"] = "auto"
    """Who draws the answers; auto is vLLM where it is installed, one in each process, else
    transformers."""

    vllm: PassedThrough = Field(default_factory=dict)
    """More options of `vllm.LLM`, passed through as they are."""

    no_eos_penalty: float = Field(default=1.0, ge=0)
    """Taken from the reward of an answer that was cut at `max_tokens`."""

    beta: float = Field(default=0.05, ge=0)
    """Cost of a nat of KL to the reference, at each token."""

    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    """Of that KL (Schulman 2020): ln r, (ln r)^2 / 2, or 1/r - 1 + ln r; r is policy over
    reference."""

    kl_target: float | None = Field(default=None, gt=0)
    """Nats an answer. Set it to adapt beta (Ziegler et al. 2019, section 2.2); unset: fixed."""

    kl_horizon: int = Field(default=10_000, gt=0)
    """Answers over which an adaptive beta follows; larger is slower."""

    gamma: float = Field(default=1.0, gt=0, le=1)
    """Discount of a reward that is one token later."""

    lam: float = Field(default=0.95, ge=0, le=1)
    """The lambda of generalised advantage estimation (Schulman et al. 2016)."""

    clip: float = Field(default=0.2, gt=0)
    """How far the ratio of new to old probability counts, to either side of 1."""

    value_clip: float | None = Field(default=0.2, gt=0)
    """How far a new value may be from the old one in the critic's loss; null: no clipping."""

    whiten_rewards: bool = False
    """Divide the rewards of tokens by their standard deviation over the batch."""

    whiten_advantages: bool = True
    """Give the advantages of a batch mean 0 and standard deviation 1."""

    correction: float | None = Field(default=None, ge=1)
    """Weigh each token's policy loss by min(p / q, this), p the trainer's and q the rollout
    engine's probability (truncated importance sampling). Unset: the mismatch is only reported."""

    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm, policy and critic apart."""

    @model_validator(mode="after")
    def _ppo_adds_up(self) -> PpoConfig:
        if self.trl:
            raise ValueError("PPO is not TRL's: it has no options in `trl`")
        if self.batch_size * self.minibatches % self.samples:
            raise ValueError("`samples` must divide batch_size x minibatches")
        if self.kl_target and not self.beta:
            raise ValueError("`kl_target` adapts beta, which never leaves 0: set `beta` above 0")
        return self


class GroupConfig(OnPolicyConfig):
    """What GRPO and RLOO share: several answers to a prompt, each compared with its fellows.

    `batch_size` answers make one step of the optimizer; `epochs` are passes over the prompts. Those
    that fill no batch at the end of a pass, others each time, are left out of it by TRL.
    """

    learning_rate: float = Field(default=1e-6, gt=0)
    """Peak learning rate."""

    batch_size: int = Field(default=64, gt=0)
    """Answers for one step of the optimizer, over all devices; a multiple of `samples`."""

    samples: int = Field(default=8, ge=2)
    """Answers to each prompt."""

    @model_validator(mode="after")
    def _groups_add_up(self) -> GroupConfig:
        if self.batch_size % self.samples:
            raise ValueError("`samples` must divide `batch_size`")
        return self


class GrpoConfig(GroupConfig):
    """Group relative policy optimisation (Shao et al. 2024; TRL's GRPOTrainer)."""

    kind: Literal["grpo"] = "grpo"

    beta: float = Field(default=0.04, ge=0)
    """Cost of a nat of KL to the reference, at each token of the loss; 0 loads no reference."""


class RlooConfig(GroupConfig):
    """REINFORCE with the mean of the other answers as baseline (Ahmadian et al. 2024; TRL's
    RLOOTrainer)."""

    kind: Literal["rloo"] = "rloo"

    beta: float = Field(default=0.05, ge=0)
    """Cost of a nat of KL to the reference, in the reward of the answer; 0 loads no reference."""


class OnlineConfig(Section):
    """Iterative DPO: label answers of the policy, train, and again with the new policy's (Xu et al.
    2023; Guo et al. 2024 do it batch by batch).

    The first round learns from the pairs of the preferences stage. Each later one is two stages of
    its own, such as preferences-2 and policy-2, made as the `preferences` section and `dpo` say, of
    the same prompts; the last training is the stage policy. The reference of a round is the policy
    that it starts from.
    """

    kind: Literal["online"] = "online"

    rounds: int = Field(default=3, ge=1, le=64)
    """Trainings. More rounds later keep the ones that are done but the last."""

    dpo: DpoConfig = DpoConfig()
    """How each round is trained."""


def _kind(section: Any) -> str | None:
    if isinstance(section, dict):
        return section.get("kind", "dpo")
    return getattr(section, "kind", None)


PolicyConfig = Annotated[
    Annotated[DpoConfig, Tag("dpo")]
    | Annotated[KtoConfig, Tag("kto")]
    | Annotated[PpoConfig, Tag("ppo")]
    | Annotated[GrpoConfig, Tag("grpo")]
    | Annotated[RlooConfig, Tag("rloo")]
    | Annotated[OnlineConfig, Tag("online")],
    Discriminator(_kind),
]
