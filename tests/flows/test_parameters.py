"""What a flow is asked for, and the shards of a stage; no Prefect server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from flows import shards
from flows.parameters import KINDS, LAWS, SETS, asked
from flows.pipeline import pipeline
from flows.shown import key
from rlaif.config import RunConfig, load
from rlaif.config.policy import PolicyConfig
from rlaif.engine.models import Models
from rlaif.errors import ConfigError
from rlaif.pipeline import Pipeline
from rlaif.shipped import SEED_MODEL
from rlaif.stages import OPTIONAL, STAGES, stage_record
from tests import finished_run

ROOT = Path(__file__).parents[2]
DEMO = SEED_MODEL.with_name("demo.yaml")
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))["deployments"]


def ask(**parameters: Any) -> RunConfig:
    return asked({"config_file": str(DEMO), "runs": "runs"} | parameters).config


def test_nothing_asked_is_as_the_file_says() -> None:
    assert ask() == ask(name="", policy="", constitution="", rounds=None) == load(DEMO)


def test_each_parameter_sets_its_keys() -> None:
    config = ask(
        name="x", constitution="general", model="sandbox", policy="kto", seed=3, rounds=2,
        prompts=7, heldout=5, principles=0, changes=["policy.beta=0.2", "seed=4"],
    )  # fmt: skip
    told = json.loads(config.model_dump_json())
    assert told["name"] == "x"
    assert Path(told["constitution"]).name == "general.yaml"
    assert (told["policy"]["kind"], told["policy"]["beta"]) == ("kto", 0.2)
    assert (told["critique"]["limit"], told["preferences"]["limit"]) == (7, 7)
    assert (told["evaluation"]["limit"], told["critique"]["rounds"]) == (5, 2)
    assert (told["preferences"]["principles"], told["seed"]) == (0, 4)  # `changes` come last


@pytest.mark.parametrize(("policy", "samples"), [("ppo", 1), ("grpo", 8), ("rloo", 8)])
def test_prompts_limit_a_policy_that_draws_its_own_answers(policy: str, samples: int) -> None:
    given = {"policy": policy, "prompts": 7, "changes": ["policy.batch_size=8"]}
    section = ask(**given).policy
    assert (section.kind, section.limit, section.samples) == (policy, 7, samples)  # type: ignore[union-attr]
    given["changes"] = ["policy.batch_size=8", "policy.limit=5"]
    assert ask(**given).policy.limit == 5  # type: ignore[union-attr]


def test_every_stage_can_be_made_anew_from_a_form() -> None:
    enum = pipeline.parameters.properties["fresh"]["anyOf"][0]["items"]["enum"]
    assert set(enum) == {*STAGES, *OPTIONAL}


def test_a_path_starts_where_the_flow_runs_not_at_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "law.yaml").write_text((ROOT / "constitution" / "sandbox.yaml").read_text("utf-8"))
    assert ask(constitution="law.yaml").constitution == tmp_path / "law.yaml"


def test_a_mistake_has_place_and_remedy() -> None:
    with pytest.raises(ConfigError, match=r"`betta`|'betta'.*\n.*did you mean `beta`"):
        ask(changes=["policy.betta=1"])
    with pytest.raises(ConfigError, match="no user nobody-here"):
        ask(model="~nobody-here/m")


def test_a_run_goes_on_as_it_stood(tmp_path: Path) -> None:
    run = tmp_path / "mine"
    run.mkdir()
    config = ask(name="mine", changes=["policy.beta=0.3", "policy.launch=", "templates=null"][:1])
    (run / "run.json").write_text(json.dumps({"config": config.resolved()}), "utf-8")
    (run / "constitution.yaml").write_text(config.constitution.read_text("utf-8"), "utf-8")
    found = asked({"config_file": str(run), "runs": "elsewhere"})
    assert found.folder == run
    assert found.config == config.model_copy(update={"constitution": run / "constitution.yaml"})


def test_a_run_that_was_renamed_is_the_run_of_its_folder(tmp_path: Path) -> None:
    run = tmp_path / "renamed"
    run.mkdir()
    kept = ask(name="demo").resolved()
    for logs in ("runs/demo/logs", str(tmp_path / "demo" / "logs")):  # as they were kept, once
        kept["engine"]["logs"] = logs
        (run / "run.json").write_text(json.dumps({"config": kept}), "utf-8")
        found = asked({"config_file": f"{run}/", "runs": "elsewhere"})
        assert found.folder == run
        assert found.config.engine.logs is None


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run that began"):
        ask(config_file=str(tmp_path))


def test_the_title_says_run_law_and_model() -> None:
    assert asked({"config_file": str(DEMO), "runs": "runs"}).title == "demo · sandbox@1 · sandbox"


def test_choices_are_those_of_the_library() -> None:
    sections = [get_args(tagged)[0] for tagged in get_args(get_args(PolicyConfig)[0])]
    assert set(KINDS) == {section.model_fields["kind"].default for section in sections}
    assert "general" in LAWS
    assert set(SETS) < set(pipeline.parameters.properties)


def test_every_deployment_names_a_flow_its_parameters_and_its_tags() -> None:
    import importlib

    for deployment in DEPLOYMENTS:
        file, function = deployment["entrypoint"].split(":")
        module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
        known = set(getattr(module, function).parameters.properties)
        triggered = [t["parameters"] for t in deployment.get("triggers", ())]
        for parameters in (deployment.get("parameters", {}), *triggered):
            assert set(parameters) <= known
        assert "rlaif" in deployment["tags"]
        assert deployment["enforce_parameter_schema"]


def test_an_artifact_key_is_what_prefect_takes() -> None:
    assert key("plan", Path("runs/My_run.v2")) == "plan-my-run-v2"


def test_an_end_that_is_never_reached_and_a_stage_that_is_none_are_refused() -> None:
    off = asked({"config_file": str(DEMO), "runs": "runs", "changes": ["reward.enabled=false"]})
    off.check()
    with pytest.raises(ConfigError, match="until: the reward stage is switched off"):
        off.check("reward")
    with pytest.raises(ConfigError, match=r"fresh: no stage is called 'polcy'.*\n.*`policy`"):
        off.check(fresh=["polcy"])


# --- shards -------------------------------------------------------------------------------------


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = finished_run.engine("start", 1.0)
    monkeypatch.setattr(Models, "engine", lambda self, config: engine)


@pytest.mark.usefixtures("scripted")
def test_a_stage_after_its_shards_asks_nothing_and_is_the_same(tmp_path: Path) -> None:
    """Also where the law is edited while the run goes on."""
    law = tmp_path / "law.yaml"
    told = finished_run.config(
        prompts=finished_run.requests(tmp_path / "p.jsonl", train=11, heldout=1),
        constitution=str(law),
        critique={"rounds": 3, "limit": 10},
    )
    text = (ROOT / "constitution" / "sandbox.yaml").read_text("utf-8")
    digests, sent = [], []
    for name, n in (("alone", 1), ("sharded", 3)):
        store = str(tmp_path / f"{name}.sqlite3")
        law.write_text(text, "utf-8")
        with Pipeline.open(told, root=tmp_path / name, store=store) as run:
            prompts = run.prompts()
            law.write_text(text.replace("the response", "the answer"), "utf-8")
            given = shards._asked(run, "critique", n, prompts)
            for number in range(n) if n > 1 else ():
                shards._shard(number, given)
            record = stage_record(run.critique(prompts))
            digests.append(record["digest"])
            sent.append(record["metrics"]["calls"]["sent"])
    assert digests[0] == digests[1]
    assert sent[0] > 10
    assert sent[1] == 0


@pytest.mark.usefixtures("scripted")
def test_logs_are_kept_in_the_runs_folder_and_not_in_its_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = finished_run.config(
        "mine", prompts=finished_run.requests(tmp_path / "p.jsonl", train=3, heldout=1)
    )
    for _ in range(2):
        with Pipeline.open(told, store="store") as run:
            run.prompts()
            assert run.config.engine.logs == tmp_path / "runs" / "mine" / "logs"
        told = asked({"config_file": "runs/mine", "runs": "runs"}).config
        assert told.engine.logs is None


@pytest.mark.usefixtures("scripted")
def test_shards_that_need_more_servers_than_fit_are_refused(tmp_path: Path) -> None:
    told = finished_run.config(
        prompts=finished_run.requests(tmp_path / "p.jsonl", train=3, heldout=1)
    )
    with Pipeline.open(told, root=tmp_path, store=str(tmp_path / "store")) as run:
        with pytest.raises(ConfigError, match="4 shards of critique would start 4 model servers"):
            shards.warm(run, "critique", 4, tmp_path)
        assert shards.warm(run, "critique", 1, tmp_path) is None
