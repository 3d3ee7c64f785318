"""Everything a run can be told, section by section; a section is named as its stage."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rlaif.config.audit import AuditConfig
from rlaif.config.engine import EngineConfig, ServingConfig
from rlaif.config.policy import DpoConfig, PolicyConfig
from rlaif.config.section import (
    File,
    Law,
    ModelName,
    SamplingConfig,
    Section,
    TrainerConfig,
)

GREEDY = SamplingConfig(temperature=0.0)
SEEDS = 2**31  # every random generator of the trainers takes these


class SourceConfig(Section):
    """Where prompts come from: one of `path` and `hub`."""

    path: File | None = None
    """A JSONL or Parquet file (.gz too). Rows: `prompt`, a text or a list of messages; if wanted
    `id`, `tags` and `split` (train or heldout; test and validation are held out too)."""

    hub: str | None = Field(default=None, min_length=1)
    """A dataset on the Hugging Face hub, in the same form; `name@revision` pins it."""

    hub_split: str = "train"
    """Which split of the hub's dataset."""

    format: Literal["prompt", "transcript"] = "prompt"
    """transcript: HH-RLHF dialogues ("Human: … Assistant: …") or lists of messages, whose answer at
    the end is dropped (UltraChat's `messages`, any `chosen`)."""

    column: str = "prompt"
    """The column that holds the prompt or the transcript (HH-RLHF calls it `chosen`)."""

    id_column: str | None = "id"
    """The column with ids. null: a prompt's id is the hash of its messages."""

    tags_column: str | None = "tags"
    """The column with tags. null: none."""

    split_column: str | None = "split"
    """The column that says which rows are held out. null: `heldout` decides."""

    tags: tuple[str, ...] = ()
    """Given to each of its prompts, beside their own."""

    limit: int | None = Field(default=None, gt=0)
    """Take so many prompts at most, the first ones."""

    @model_validator(mode="after")
    def _one_place(self) -> SourceConfig:
        if (self.path is None) == (self.hub is None):
            raise ValueError("name either `path` or `hub`")
        return self


class PromptsConfig(Section):
    """What the model is asked, and which of it is kept for evaluation."""

    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    """Files and datasets, read in this order."""

    heldout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the prompts kept for evaluation, chosen by hash; a row's own `split` comes first."""

    max_chars: int = Field(default=20_000, gt=0)
    """A longer prompt is left out, and reported."""


class CritiqueConfig(Section):
    """Drafts, then rounds of critique and revision (Bai et al. 2022, section 3.1)."""

    rounds: int = Field(default=4, ge=0, le=64)
    """How often each answer is critiqued and revised."""

    direct: bool = False
    """Revise without a critique (their section 3.5: worse with small models, a tie with large)."""

    no_fault: str | None = "no fault found"
    """A critique that says this skips the round's revision. null revises always."""

    examples: int = Field(default=0, ge=0)
    """How many of the constitution's worked critiques are shown before each question."""

    draft: SamplingConfig = SamplingConfig()
    """How the first answers are drawn."""

    critique: SamplingConfig = SamplingConfig()
    """How critiques are drawn."""

    revise: SamplingConfig = SamplingConfig()
    """How revisions are drawn."""

    limit: int | None = Field(default=None, gt=0)
    """Use so many training prompts at most."""


class HelpfulConfig(Section):
    """Helpful answers mixed into the finetuning, so that harmlessness does not cost help."""

    share: float = Field(default=0.25, ge=0, lt=1)
    """Share of the finetuning examples."""

    path: File | None = None
    """JSONL rows of `prompt` and `response`. Unset: drafts in which no critique found a fault."""


class FinetuneConfig(TrainerConfig):
    """Supervised finetuning on revisions (TRL's SFTTrainer)."""

    rounds: Literal["last", "all"] | tuple[int, ...] = "last"
    """Which revisions: the last one of each prompt, all (as Bai et al. do), or chosen rounds."""

    helpful: HelpfulConfig | None = None
    """Mix in helpful answers."""


class PreferencesConfig(Section):
    """Answers of the finetuned model, and the judge's soft labels for pairs of them."""

    candidates: int = Field(default=2, ge=2, le=64)
    """Answers drawn for each prompt; every two different ones make a pair."""

    max_pairs: int | None = Field(default=None, gt=0)
    """Pairs of one prompt at most, chosen by hash. Unset: all."""

    sampling: SamplingConfig = SamplingConfig()
    """How the answers are drawn."""

    method: Literal["pairwise", "pointwise"] = "pairwise"
    """pairwise: the judge sees both, in both orders (Bai et al.; Lee et al. 2023). pointwise: it
    judges each alone; the label is sigmoid((logit p_B - logit p_A) / scale)."""

    scale: float = Field(default=1.0, gt=0)
    """Of pointwise labels: larger is softer."""

    floor: float = Field(default=0.01, ge=0, lt=0.5)
    """Pointwise: a probability nearer to 0 or 1 than this counts as this. What a judge says beyond
    it is noise, and without a floor two innocent answers would get a sure label from it."""

    weigh_critique: bool = False
    """Pointwise: let the judge write a critique first and weigh it; one more call a response."""

    principles: int = Field(default=1, ge=0)
    """How many principles each pair meets; 0 is all of them."""

    reasoning: bool = False
    """Pairwise: let the judge reason before it answers (chain of thought)."""

    reason: SamplingConfig = SamplingConfig(temperature=0.0)
    """How reasonings and critiques are drawn."""

    clamp: tuple[float, float] | None = None
    """Clamp probabilities after reasoning, which saturates them; Bai et al. use [0.4, 0.6]."""

    examples: int = Field(default=0, ge=0)
    """How many of the constitution's worked preferences are shown before each question."""

    limit: int | None = Field(default=None, gt=0)
    """Use so many training prompts at most."""

    overlay: File | None = None
    """What people said of an earlier run's labels (`rlaif audit export RUN --form overlay`).
    Training uses it in the place of the judge's labels; the labels themselves stay."""

    @model_validator(mode="after")
    def _fits_the_method(self) -> PreferencesConfig:
        if self.reasoning and self.method == "pointwise":
            raise ValueError("`reasoning` is for pairwise labels; pointwise has `weigh_critique`")
        if self.weigh_critique and self.method == "pairwise":
            raise ValueError("`weigh_critique` is for pointwise labels; pairwise has `reasoning`")
        if self.clamp and not (0 <= self.clamp[0] < 0.5 and abs(sum(self.clamp) - 1) < 1e-9):
            raise ValueError("`clamp` is two bounds around 0.5 that add up to 1, as [0.4, 0.6]")
        return self


class RewardConfig(TrainerConfig):
    """A reward model from soft labels: -p log s(d) - (1 - p) log s(-d), d the difference."""

    no_dropout = True

    heldout: float = Field(default=0.15, gt=0, lt=1)
    """Share of the prompts whose pairs measure and calibrate it."""

    enabled: bool = True
    """Off saves its time where nothing uses it: DPO does not."""


class EvaluationConfig(Section):
    """The models compared on held-out prompts."""

    limit: int | None = Field(default=None, gt=0)
    """Use so many held-out prompts at most."""

    samples: int = Field(default=1, gt=0)
    """Answers drawn from each model for each prompt."""

    sampling: SamplingConfig = SamplingConfig()
    """How the answers are drawn."""

    principles: int = Field(default=0, ge=0)
    """How many principles judge each answer; 0 is all of them."""

    kl: int = Field(default=256, ge=0)
    """So many answers of each trained model measure its divergence from the start model, which
    loads both in a child process; 0 leaves it out."""

    oracle: Literal["sandbox"] | None = None
    """Who knows the truth, where anybody does: the sandbox's oracle reads the sandbox's answers."""


class RunConfig(Section):
    """A whole run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """The run's folder under `runs`."""

    seed: int = Field(default=0, ge=0, lt=SEEDS)
    """Every draw of the run comes from it."""

    constitution: Law
    """The law: a YAML file, or the name of one that is shipped, such as general."""

    templates: File | None = None
    """The folder of the .j2 files. Unset: the project's own prompts/."""

    model: ModelName
    """What is trained: a folder with safetensors weights and a chat template, or a hub name;
    `sandbox` is the embedded model."""

    revision: str | None = None
    """The hub revision of `model`."""

    engine: ServingConfig = ServingConfig()
    """How models are served."""

    feedback: EngineConfig | None = None
    """Who critiques, revises and judges. Unset: `model` itself."""

    prompts: PromptsConfig
    critique: CritiqueConfig = CritiqueConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    preferences: PreferencesConfig = PreferencesConfig()
    audit: AuditConfig = AuditConfig()
    reward: RewardConfig = RewardConfig()
    policy: PolicyConfig = DpoConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def served(self, model: str, revision: str | None = None) -> EngineConfig:
        """How a model is served in this run."""
        return EngineConfig(**self.engine.model_dump(), model=model, revision=revision)

    def gated(self) -> RunConfig:
        """The same run, but that training waits for an audit of the labels."""
        return self.model_copy(update={"audit": self.audit.model_copy(update={"gate": True})})

    def resolved(self) -> dict[str, Any]:
        """The whole config as plain JSON values, defaults written out."""
        return self.model_dump(mode="json")
