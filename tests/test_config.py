"""The config of a run: the shipped one, every error at its place, overrides, paths."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlaif import shipped
from rlaif.config import RunConfig, load, named
from rlaif.config.policy import DpoConfig, KtoConfig, PpoConfig
from rlaif.config.section import LoraConfig
from rlaif.documents import DocumentError

DEMO = Path(shipped.__file__).parent / "sandbox" / "demo.yaml"
LEAST = "name: r\nconstitution: sandbox\nmodel: sandbox\nprompts: {sources: [{path: p.jsonl}]}\n"


def config(tmp_path: Path, text: str, *changes: str) -> RunConfig:
    path = tmp_path / "run.yaml"
    path.write_text(text, "utf-8")
    return load(path, changes)


def test_the_shipped_config_loads() -> None:
    demo = load(DEMO)
    assert demo.model == str(shipped.SEED_MODEL)
    assert demo.constitution.is_file()
    assert demo.prompts.sources[0].path == DEMO.parent / "prompts.jsonl"
    assert demo.evaluation.oracle == "sandbox"


def test_paths_start_from_the_configs_folder(tmp_path: Path) -> None:
    found = config(tmp_path, LEAST.replace("constitution: sandbox", "constitution: laws/mine.yaml"))
    assert found.constitution == tmp_path / "laws" / "mine.yaml"
    assert found.prompts.sources[0].path == tmp_path / "p.jsonl"


def test_a_constitution_of_no_known_name_is_told_with_the_names(tmp_path: Path) -> None:
    assert config(tmp_path, LEAST).constitution.name == "sandbox.yaml"
    with pytest.raises(DocumentError, match="no such file, and what is shipped is general, sand"):
        config(tmp_path, LEAST.replace("constitution: sandbox", "constitution: genral"))
    (tmp_path / "genral").touch()
    own = config(tmp_path, LEAST.replace("constitution: sandbox", "constitution: genral"))
    assert own.constitution == tmp_path / "genral"


def test_a_model_that_is_no_folder_is_a_name_on_the_hub(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert config(tmp_path, LEAST.replace("model: sandbox", "model: org/m")).model == "org/m"
    local = config(tmp_path, LEAST.replace("model: sandbox", "model: mine"))
    assert local.model == str(tmp_path / "mine")


@pytest.mark.parametrize(
    ("named", "meant"),
    [("org/m", "org/m"), ("mine", "{}/mine"), ("sandbox", str(shipped.SEED_MODEL))],
)
def test_the_feedback_model_is_named_as_the_model_is(
    tmp_path: Path, named: str, meant: str
) -> None:
    (tmp_path / "mine").mkdir()
    found = config(tmp_path, LEAST + f"feedback: {{model: {named}, logs: logs}}\n")
    assert found.feedback
    assert found.feedback.model == meant.format(tmp_path)
    assert found.feedback.logs == tmp_path / "logs"
    assert RunConfig.model_validate(found.resolved()) == found


def test_logs_are_kept_where_the_config_says(tmp_path: Path) -> None:
    found = config(tmp_path, LEAST + "engine: {logs: logs}\n")
    assert found.engine.logs == found.served(found.model).logs == tmp_path / "logs"


def test_the_kind_of_a_policy_decides_its_keys(tmp_path: Path) -> None:
    assert isinstance(config(tmp_path, LEAST).policy, DpoConfig)
    kto = config(tmp_path, LEAST + "policy: {kind: kto, beta: 0.5}\n").policy
    assert isinstance(kto, KtoConfig)
    assert kto.beta == 0.5


@pytest.mark.parametrize(
    ("line", "place", "what", "remedy"),
    [
        ("critique: {round: 2}", "5:12", "the key 'round' is unknown", "did you mean `rounds`?"),
        ("critique: {rounds: two}", "5:20", "`critique.rounds` ('two')", "it means: How often"),
        ("critique: {rounds: -1}", "5:20", "greater than or equal to 0", "it means: How often"),
        ("policy: {kind: dpo, betta: 1}", "5:21", "the key 'betta' is unknown", "`beta`?"),
        ("policy: {kind: rlhf}", "5:9", "'rlhf'", "`policy: {kind: dpo}`; the kinds are dpo, kto,"),
        ("policy: ppo", "5:9", "`policy` ('ppo'): this is no section", "`policy: {kind: ppo}`"),
        ("policy: null", "5:9", "`policy`: this is no section", "the kinds are dpo, kto, ppo,"),
        ("policy: [ppo]", "5:9", "`policy`: this is no section", "`policy: {kind: dpo}`"),
        ("templates: ~nobody-here/t", "5:12", "no user nobody-here", "it means: "),
        ("engine: {base_urls: [ftp://x]}", "5:22", "is not a URL", ""),
        ("finetune: {rounds: 2}", "5:20", "`finetune.rounds` ('2') is not a list", "write [2]"),
        (
            "finetune: {rounds: 2}",
            "5:20",
            "`finetune.rounds` ('2'): should be 'last'",
            "it means: W",
        ),
        (
            "finetune: {lora: {target_modules: {a: b}}}",
            "5:35",
            "`finetune.lora.target_modules`: ",
            "it means: Which layers",
        ),
        (
            "preferences: {clamp: [0.4]}",
            "5:22",
            "`preferences.clamp`: a value is",
            "it means: Clamp",
        ),
        ("policy: {report_to: tensorboard}", "5:21", "is not a list", "write [tensorboard]"),
        (
            "finetune: {trl: x}",
            "5:17",
            "`finetune.trl` ('x') is not a section",
            "`key: value` lines",
        ),
        ("critique:", "5:10", "`critique` is not a section", "`key: value` lines"),
        ("policy: {kind: PPO}", "5:9", "('PPO')", "`policy: {kind: ppo}`"),
        (
            "policy: {kind: online, dpo: {beta: x}}",
            "5:36",
            "`policy.dpo.beta` ('x'): ",
            "it means: How",
        ),
        ("critique: {draft: {temperature: inf}}", "5:33", "finite number", "it means: 1 draws"),
        ("engine: {grace_s: inf}", "5:19", "finite number", "it means: How long"),
        ("constitutoin: x", "5:1", "the key 'constitutoin' is unknown", "`constitution`?"),
    ],
)
def test_an_error_says_where_what_and_the_remedy(
    tmp_path: Path, line: str, place: str, what: str, remedy: str
) -> None:
    with pytest.raises(DocumentError) as caught:
        config(tmp_path, LEAST + line + "\n")
    said = str(caught.value)
    assert f"run.yaml:{place}: " in said
    assert what in said
    assert remedy in said


def test_a_change_that_says_no_kind_is_told_so_too(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"--set policy=ppo:1:1: .*\n.*`policy: \{kind: ppo\}`"):
        config(tmp_path, LEAST, "policy=ppo")


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(DocumentError) as caught:
        config(tmp_path, "name: r\nseed: x\nmodell: sandbox\nprompts: {sources: []}\n")
    assert len(caught.value.problems) == 5  # seed, modell, model, constitution, no source


def test_a_mistake_in_the_only_source_is_told_alone(tmp_path: Path) -> None:
    with pytest.raises(DocumentError) as caught:
        config(tmp_path, LEAST.replace("p.jsonl}", "p.jsonl, limit: 0}"))
    (problem,) = caught.value.problems
    assert "`prompts.sources.limit` ('0')" in problem.what


def test_a_source_is_one_place(tmp_path: Path) -> None:
    both = LEAST.replace("{path: p.jsonl}", "{path: p.jsonl, hub: org/data}")
    with pytest.raises(DocumentError, match="name either `path` or `hub`"):
        config(tmp_path, both)


def test_overrides_are_read_as_the_file_is(tmp_path: Path) -> None:
    changed = config(tmp_path, LEAST, "policy.beta=0.3", "seed=7", "critique.no_fault=null")
    assert isinstance(changed.policy, DpoConfig)
    assert (changed.policy.beta, changed.seed, changed.critique.no_fault) == (0.3, 7, None)


def test_another_kind_keeps_of_the_file_what_it_knows(tmp_path: Path) -> None:
    said = LEAST + "policy: {beta: 0.3, anchor: 0.1}\n"
    policy = config(tmp_path, said, "policy.kind=kto").policy
    assert isinstance(policy, KtoConfig)
    assert policy.beta == 0.3
    with pytest.raises(DocumentError, match="'anchor' is unknown"):  # what is asked for must fit
        config(tmp_path, said, "policy.anchor=0.2", "policy.kind=kto")
    with pytest.raises(DocumentError, match="'betta' is unknown"):  # mistakes stay mistakes
        config(tmp_path, LEAST + "policy: {betta: 0.3}\n", "policy.kind=kto")


def test_an_item_of_a_list_is_not_set_alone(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"--set prompts\.sources=\[\.\.\.\]") as caught:
        config(tmp_path, LEAST, "prompts.sources.0.limit=5")
    (problem,) = caught.value.problems
    assert problem.what == "`prompts.sources` is a list, whose items cannot be set one by one"


@pytest.mark.parametrize("said", ["null", "~", "Null"])
def test_an_override_says_nothing_as_the_file_does(said: str, tmp_path: Path) -> None:
    assert config(tmp_path, LEAST, f"critique.no_fault={said}").critique.no_fault is None


@pytest.mark.parametrize(
    "override", ["policy.beta=x", "seed", "polcy.beta=1", "=1", "engine.base_urls=http://h:1"]
)
def test_a_wrong_override_names_itself(tmp_path: Path, override: str) -> None:
    with pytest.raises(DocumentError, match=f"--set {override}"):
        config(tmp_path, LEAST, override)


def test_an_override_may_be_a_list_or_a_map(tmp_path: Path) -> None:
    changes = (
        "finetune.launch=[--num_processes=2, '--x=a, b']",
        "finetune.lora={}",
        "finetune.trl={bf16: true, optim: sgd}",
        "policy.kind=ppo",
        "policy.rewards={judge: {}, models: []}",
        "policy.rewards.judge.weight=2",
    )
    found = config(tmp_path, LEAST, *changes)
    assert found.finetune.launch == ("--num_processes=2", "--x=a, b")
    assert found.finetune.lora == LoraConfig()
    assert found.finetune.trl == {"bf16": True, "optim": "sgd"}
    assert isinstance(found.policy, PpoConfig)
    assert found.policy.rewards.judge
    assert found.policy.rewards.judge.weight == 2


@pytest.mark.parametrize(
    ("override", "column", "what"),
    [
        ("finetune.launch=[--a: b: c]", 24, "this is not YAML"),
        ("finetune.launch=[--a", 1, "this is not YAML"),
        ("finetune.lora={r: x}", 19, "`finetune.lora.r` ('x')"),
        ("finetune.lora={rr: 1}", 16, "the key 'rr' is unknown"),
        ("finetune.launch=[&a b]", 18, "an anchor"),
        ("finetune.launch=[a]\nseed: 1", 1, "this is not YAML"),
    ],
)
def test_a_wrong_list_or_map_is_told_at_its_place(
    tmp_path: Path, override: str, column: int, what: str
) -> None:
    with pytest.raises(DocumentError) as caught:
        config(tmp_path, LEAST, override)
    assert what in str(caught.value)
    assert len(caught.value.problems) == 1
    mark = caught.value.problems[0].mark
    assert (str(mark.path), mark.column) == (f"--set {override}", column)


def test_what_is_passed_through_to_trl_keeps_its_types(tmp_path: Path) -> None:
    text = (
        LEAST + "finetune:\n  trl: {bf16: true, warmup_ratio: 0.1, logging_steps: 5, optim: sgd}\n"
    )
    expected = {"bf16": True, "warmup_ratio": 0.1, "logging_steps": 5, "optim": "sgd"}
    assert config(tmp_path, text).finetune.trl == expected


def test_a_resolved_config_says_all_and_loads_again(tmp_path: Path) -> None:
    first = config(tmp_path, LEAST)
    assert RunConfig.model_validate(first.resolved()) == first
    assert first.resolved()["critique"]["rounds"] == 4


def test_a_mistake_in_the_record_of_a_run_is_told_at_its_place(tmp_path: Path) -> None:
    kept = config(tmp_path, LEAST).resolved() | {"seed": -1}
    (tmp_path / "run.json").write_text(json.dumps({"host": "h", "config": kept}, indent=1), "utf-8")
    with pytest.raises(DocumentError, match=r"run\.json:5:\d+: `seed` \('-1'\)"):
        named(tmp_path)


def test_a_hub_name_whose_first_part_is_a_folder_is_doubted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "there").mkdir(parents=True)
    monkeypatch.chdir(tmp_path.parent)
    for name in ("models/typo", "elsewhere/name", "models/there", "models/typo"):
        config(tmp_path, LEAST.replace("model: sandbox", f"model: {name}"))
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith(f"model models/typo: {tmp_path / 'models'} is a folder")
