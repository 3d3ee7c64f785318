"""AI feedback: pairs of the finetuned model's answers, each with the judge's soft label.

Answers are drawn, every two different ones of a prompt make a pair, and a judge says under one or
more principles which is better: pairwise in both orders, or each answer alone. Departs from Bai et
al. (2022, section 4.1) in that both orders are asked and averaged, that a label holds its verdict
under every principle, and that what cannot be read is unlabelled, with a reason, never 0.5.

    rlaif run CONFIG
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlaif.config.run import PreferencesConfig
from rlaif.constitution import Constitution
from rlaif.engine import Model
from rlaif.engine.counts import Counts
from rlaif.errors import ConfigError
from rlaif.jsonl import rows, writing
from rlaif.preferences import selftest
from rlaif.preferences.counting import Tally
from rlaif.preferences.judging import Group, Method, Rationale, labelled, rationales
from rlaif.preferences.pairs import Candidates, Drawn, pairs, sample
from rlaif.preferences.pairwise import Pairwise
from rlaif.preferences.pointwise import Pointwise
from rlaif.templates import Templates

__all__ = ["Candidates", "Drawn", "Rationale", "preferences"]


def preferences(
    into: Path,
    config: PreferencesConfig,
    *,
    prompts: Path,
    policy: Model,
    judge: Model,
    constitution: Constitution,
    templates: Templates,
    seed: int,
) -> dict[str, Any]:
    """Fill `into` with answers.jsonl (`Candidates`) and pairs.jsonl (`Pair`); the metrics.

    `prompts` is the folder of the prompts stage. Where the judge writes before it labels, there is
    rationales.jsonl too. All answers are drawn before the judge is asked anything, for the two
    models may not be servable at once.

    Raises:
        ConfigError: the self-test of the labels failed, or the constitution or a template cannot
            be used.
        DataError: a row of the prompts cannot be read.
    """
    selftest.check(method_of, config, constitution, templates, seed)
    method = method_of(config, constitution, templates, seed)
    tally, questions = Tally(pairwise=config.method == "pairwise"), 0
    with writing(into / "answers.jsonl") as write:
        for row in sample(prompts, policy, config, templates, seed):
            write(row)
            made = pairs(row, seed=seed, most=config.max_pairs)
            tally.candidates(row, len(made))
            groups = method.groups(row.prompt, made)
            questions += sum(len(method.questions(group)) for group in groups)
    label(into, method, config, judge, tally, seed, total=questions)
    calls = Counts()
    for counts in [judge.counts] if policy is judge else [policy.counts, judge.counts]:
        calls.merge(counts)
    return tally.json() | {"calls": calls.as_dict()}


def method_of(
    config: PreferencesConfig, constitution: Constitution, templates: Templates, seed: int
) -> Method:
    """How the config wants pairs to be judged.

    Raises:
        ConfigError: the constitution has no principle for that, or no worked preference where the
            config asks for some.
    """
    kind = Pairwise if config.method == "pairwise" else Pointwise
    if not any(p.weight and all(map(p.wordings, kind.reads)) for p in constitution.principles):
        wordings = " with ".join(f"a `{name}` wording" for name in kind.reads)
        what = f"no principle has {wordings}; {config.method} labels need one"
        remedy = "write some, for a principle that is not switched off"
        raise ConfigError(what, where="constitution", remedy=remedy)
    return kind(config, constitution, templates, seed)


def label(
    into: Path,
    method: Method,
    config: PreferencesConfig,
    judge: Model,
    tally: Tally,
    seed: int,
    *,
    total: int | None = None,
) -> None:
    """Write pairs.jsonl (and, if the judge writes first, rationales.jsonl) from answers.jsonl.

    `total`: how many questions there are, for the progress bar.
    """

    def groups() -> Iterator[Group]:
        for row in rows(into / "answers.jsonl", Candidates):
            made = pairs(row, seed=seed, most=config.max_pairs)
            yield from method.groups(row.prompt, made)

    written = None
    if method.writes_first:
        with writing(into / "rationales.jsonl") as write:
            for rationale in rationales(method, judge, groups(), total):
                tally.rationale(rationale)
                write(rationale)
        written = rows(into / "rationales.jsonl", Rationale)
    with writing(into / "pairs.jsonl") as write:
        for pair in labelled(method, judge, groups(), written, watch=tally.reading, total=total):
            tally.pair(pair)
            write(pair)
