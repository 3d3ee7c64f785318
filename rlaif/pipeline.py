"""The stages of one run, each bound to what it is made from.

    with Pipeline.open(config) as run:
        prompts = run.prompts()
        critiqued = run.critique(prompts)
        ...

Every method returns the folder of its finished stage, and does nothing where that is there already.
`flows/pipeline.py` calls them as Prefect tasks, `examples/without_prefect.py` as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rlaif.audit import AWAITING
from rlaif.completions import Store, default_path
from rlaif.config import EngineConfig, RunConfig
from rlaif.constitution import Constitution, load, to_yaml
from rlaif.engine import Model, Models
from rlaif.progress import bar
from rlaif.runs import Run
from rlaif.shipped import folder
from rlaif.templates import Templates


@dataclass(frozen=True)
class Pipeline:
    """An open run with its law, its templates and its models."""

    run: Run
    config: RunConfig
    constitution: Constitution
    templates: Templates
    models: Models
    store: str | None = None

    @classmethod
    @contextmanager
    def open(
        cls,
        config: RunConfig,
        *,
        root: Path = Path("runs"),
        fresh: Iterable[str] = (),
        since: datetime | None = None,
        as_it_stood: bool = False,
        store: str | None = None,
        law: Constitution | None = None,
    ) -> Iterator[Pipeline]:
        """The pipeline of `config`, its run folder locked (`Run.open`), its completions store open;
        with `law`, its constitution as it was read before.

        Raises:
            ConfigError: the constitution, the templates or the model cannot be used.
            RunError: another process works in the run.
        """
        constitution = law or load(config.constitution)
        templates = Templates(config.templates or folder("prompts"))
        logs = (root / config.name / "logs").absolute()
        engine = config.engine.model_copy(update={"logs": config.engine.logs or logs})
        with (
            Run.open(config, root=root, fresh=fresh, since=since, as_it_stood=as_it_stood) as run,
            Store(store or default_path()) as completions,
            Models(completions, at_once=engine.at_once, watch=bar) as models,
        ):
            ours = run.config.model_copy(update={"engine": engine})  # run.json: what was asked
            yield cls(run, ours, constitution, templates, models, store)

    # --- the stages -----------------------------------------------------------------------------

    def prompts(self) -> Path:
        """What the model is asked, split into training and held-out prompts."""
        from rlaif.prompts import prompts

        section, seed = self.config.prompts, self.config.seed
        files = {f"source {n}": s.path or f"{s.hub}" for n, s in enumerate(section.sources)}
        portable = section.model_copy(
            update={"sources": tuple(s.model_copy(update={"path": None}) for s in section.sources)}
        )
        return self.run.stage(
            "prompts", portable, lambda into: prompts(into, section, seed=seed), **files
        )

    def critique(self, prompts: Path) -> Path:
        """Drafts of the start model, then rounds of critique and revision."""
        from rlaif.critique import critique

        drafter, critic, section = self.start, self.feedback, self.config.critique

        def work(into: Path) -> dict[str, Any]:
            law = into.parent / "constitution.yaml"  # as it stood; a plan has a folder of its own
            law.write_text(to_yaml(self.constitution), "utf-8")
            return critique(
                into, section, prompts=prompts, drafter=drafter, critic=critic, **self._law()
            )

        made_from = self._asked("draft", "critique", "revise")
        return self.run.stage(
            "critique",
            section,
            work,
            prompts=prompts,
            drafter=drafter.identity,
            critic=critic.identity,
            **made_from,
        )

    def finetune(self, critiqued: Path) -> Path:
        """The start model, finetuned on the revisions."""
        from rlaif.finetune import finetune

        section, seed = self.config.finetune, self.config.seed
        model, revision = self.config.model, self.config.revision

        def work(into: Path) -> dict[str, Any]:
            self.models.make_room()
            return finetune(
                into,
                section,
                chains=critiqued,
                model=model,
                revision=revision,
                seed=seed,
                templates=self.templates.folder,
            )

        made_from: dict[str, Path | str] = {"model": self.start.identity, **self._read("draft")}
        portable, helpful = section, section.helpful
        if helpful and helpful.path:  # counts by what it holds, not by where it lies
            made_from["helpful"] = helpful.path
            portable = section.model_copy(
                update={"helpful": helpful.model_copy(update={"path": None})}
            )
        return self.run.stage("finetune", portable, work, chains=critiqued, **made_from)

    def preferences(self, prompts: Path, finetuned: Path, *, round: int = 1) -> Path:
        """Pairs of the finetuned model's answers, with the judge's soft labels; in a later round of
        `kind: online`, of the policy's so far."""
        from rlaif.preferences import preferences

        policy, judge, section = self.made(finetuned), self.feedback, self.config.preferences

        def work(into: Path) -> dict[str, Any]:
            return preferences(
                into, section, prompts=prompts, policy=policy, judge=judge, **self._law()
            )

        made_from = self._asked("draft", "critique", "violates", "prefer", "prefer_reasoned")
        return self.run.stage(
            "preferences" if round == 1 else f"preferences-{round}",
            section,
            work,
            prompts=prompts,
            policy=finetuned,
            judge=judge.identity,
            **made_from,
        )

    def sampled(self, preferred: Path) -> Path:
        """The audit's ledger, with a sample of these labels drawn; drawing waits for nobody."""
        from rlaif.audit.told import sampled

        return sampled(preferred.parent, self.config.audit, self.config.seed)

    @property
    def gated(self) -> bool:
        """Whether training waits for an audit: the config says so, or the run began so."""
        return self.config.audit.gate

    def audit(self, preferred: Path) -> Path:
        """The labels that training reads, once people let it: see `labels`.

        Raises:
            RunError: the run is `gated`, and these labels have not passed.
        """
        if self.gated:
            from rlaif.audit.told import require

            self.sampled(preferred)
            require(preferred.parent)
            self.let_begin()
        return self.labels(preferred)

    def let_begin(self) -> None:
        """The gate is open: the run waits no longer."""
        (self.run.folder / AWAITING).unlink(missing_ok=True)

    def labels(self, preferred: Path) -> Path:
        """The judge's labels; under an overlay, those with what people said in their place."""
        overlay = self.config.preferences.overlay
        if overlay is None:
            return preferred
        from rlaif.audit.overlay import labels

        return self.run.stage(
            "audit",
            None,
            lambda into: labels(into, pairs=preferred, overlay=overlay, law=self.constitution),
            pairs=preferred,
            overlay=overlay,
            constitution=self.constitution.digest,
        )

    def reward(self, preferred: Path, finetuned: Path) -> Path:
        """A reward model from the soft labels, calibrated on held-out prompts."""
        from rlaif.reward import reward

        section, seed = self.config.reward, self.config.seed

        def work(into: Path) -> dict[str, Any]:
            self.models.make_room()
            return reward(
                into,
                section,
                pairs=preferred,
                model=str(finetuned / "model"),
                seed=seed,
                templates=self.templates.folder,
            )

        made_from = self._read("draft")
        return self.run.stage(
            "reward", section, work, pairs=preferred, model=finetuned, **made_from
        )

    def policy(
        self,
        preferred: Path,
        finetuned: Path,
        prompts: Path | None = None,
        rewarded: Path | None = None,
    ) -> Path:
        """The finetuned model, trained on the soft labels; or, by kinds that need `prompts` and
        mostly a reward model (`rewarded`), on the rewards of its own answers."""
        from rlaif.config.policy import OnlineConfig

        section = self.config.policy
        if not isinstance(section, OnlineConfig):
            return self._policy("policy", section, preferred, finetuned, prompts, rewarded)
        for n in range(1, section.rounds):
            finetuned = self._policy(f"policy-{n}", section.dpo, preferred, finetuned)
            preferred = self.preferences(prompts or self.prompts(), finetuned, round=n + 1)
        return self._policy("policy", section.dpo, preferred, finetuned)

    def _policy(
        self,
        stage: str,
        section: Any,
        preferred: Path,
        finetuned: Path,
        prompts: Path | None = None,
        rewarded: Path | None = None,
    ) -> Path:
        """One training of a policy, from the model that `finetuned` made."""
        from rlaif.policy import ON_POLICY, policy

        seed = self.config.seed
        inputs: dict[str, Path | str] = {"pairs": preferred, "model": finetuned}
        judge = None
        if section.kind in ON_POLICY:
            prompts = prompts or self.prompts()
            inputs = {"prompts": prompts, "model": finetuned, **self._rewards(rewarded)}
            judge = self._judge()

        def work(into: Path) -> dict[str, Any]:
            self.models.make_room()
            return policy(
                into,
                section,
                pairs=preferred,
                model=str(finetuned / "model"),
                seed=seed,
                prompts=prompts,
                rewarded=rewarded,
                judge=judge,
                templates=self.templates.folder,
            )

        return self.run.stage(stage, section, work, **inputs, **self._read("draft"))

    def evaluation(
        self, prompts: Path, critiqued: Path, finetuned: Path, preferred: Path, policy: Path
    ) -> Path:
        """Start model, finetuned model and policy on held-out prompts; the labels, if there is
        somebody who knows the truth."""
        from rlaif.evaluation import evaluation

        section, judge = self.config.evaluation, self.feedback
        models = {
            "seed": self.start,
            "finetuned": self.made(finetuned),
            "policy": self.made(policy),
        }
        weights = {
            "seed": self.config.model,
            "finetuned": str(finetuned / "model"),
            "policy": str(policy / "model"),
        }

        def work(into: Path) -> dict[str, Any]:
            return evaluation(
                into,
                section,
                prompts=prompts,
                models=models,
                weights=weights,
                revision=self.config.revision,
                make_room=self.models.make_room,
                judge=judge,
                chains=critiqued,
                pairs=preferred,
                **self._law(),
            )

        made_from = self._asked("draft", "violates", "prefer")
        return self.run.stage(
            "evaluation",
            section,
            work,
            prompts=prompts,
            chains=critiqued,
            pairs=preferred,
            seed=self.start.identity,
            finetuned=finetuned,
            policy=policy,
            judge=judge.identity,
            **made_from,
        )

    def report(self) -> Path:
        """One page that says what was asked, what came of it and what to distrust."""
        from rlaif.report import report

        return report(self.run.folder)

    # --- what the stages are made from ------------------------------------------------------------

    @property
    def start(self) -> Model:
        """The model that is trained, as it was."""
        return self._model(self.config.served(self.config.model, self.config.revision))

    @property
    def feedback(self) -> Model:
        """Who critiques, revises and judges."""
        return self._model(self.config.feedback) if self.config.feedback else self.start

    def made(self, stage: Path) -> Model:
        """The model that a training stage made."""
        ours = self.config.served(str(stage / "model")).model_copy(
            update={"base_urls": (), "served_name": None, "api_key_env": None}
        )
        return self._model(ours)

    def _rewards(self, rewarded: Path | None) -> dict[str, Path | str]:
        """Who says what answers are worth, as inputs of the policy stage."""
        asked: Any = self.config.policy
        inputs: dict[str, Path | str] = {"reward": rewarded} if rewarded else {}
        for model in asked.rewards.models:
            if model.path:
                inputs[f"reward model {model.name}"] = model.path
        if asked.rewards.judge:
            inputs |= {"judge": self.feedback.identity, **self._asked("violates")}
        return inputs

    def _judge(self) -> dict[str, Any]:
        """The judge as a training process can ask it (`rlaif.policy.rewards.opened`)."""
        engine = self.config.feedback or self.config.served(self.config.model, self.config.revision)
        return {
            "engine": engine.model_dump(mode="json"),
            "constitution": str(self.run.folder.resolve() / "constitution.yaml"),
            "templates": str(self.templates.folder),
            "store": self.store,
        }

    def _model(self, config: EngineConfig) -> Model:
        return self.models.model(config)

    def _law(self) -> dict[str, Any]:
        return {
            "constitution": self.constitution,
            "templates": self.templates,
            "seed": self.config.seed,
        }

    def _asked(self, *templates: str) -> dict[str, str]:
        """Digests of the law and of the templates that a stage reads."""
        return {"constitution": self.constitution.digest} | self._read(*templates)

    def _read(self, *templates: str) -> dict[str, str]:
        """Digests of the templates that a stage reads."""
        return {f"prompts/{name}.j2": self.templates.digest(name) for name in templates}
