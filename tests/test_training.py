"""Trainings as child processes, and what all of them share: models, examples, arguments."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from rlaif import evaluation, training
from rlaif.config.policy import DpoConfig, GrpoConfig, KtoConfig, PpoConfig, RlooConfig
from rlaif.config.run import FinetuneConfig, RewardConfig
from rlaif.config.section import TrainerConfig
from rlaif.errors import ConfigError, DataError, RlaifError, RunError, TrainingFailed
from rlaif.jsonl import writing
from rlaif.pipeline import Pipeline
from rlaif.records import Chain, Message, Step
from rlaif.shipped import folder
from rlaif.stages import stage_record
from rlaif.templates import Templates
from rlaif.training import job, launch, models, train
from rlaif.training.examples import Encoder, LeftOut, stored
from tests import finished_run
from tests import tiny_training as tiny

# --- the child process ----------------------------------------------------------------------------

ENTRIES = """
import json, os, signal, sys, time
from rlaif.errors import ConfigError
from rlaif.training import finish, job

def doubles(folder):
    finish(folder, {"doubled": 2 * job(folder)["number"]})

def refuses(folder):
    raise ConfigError("no weight", where="law.yaml:3:5", remedy="add one")

def fills_memory(folder):
    raise RuntimeError("CUDA out of memory. Tried to allocate 7 GiB")

def waits_for_others(folder):
    from torch.distributed.distributed_c10d import _get_default_group
    from torch import device
    options = _get_default_group()._get_backend(device("cpu")).options
    finish(folder, {"hours": options._timeout.total_seconds() / 3600})

def is_killed(folder):
    os.kill(os.getpid(), signal.SIGKILL)

def fills_disk(folder):
    try:
        raise OSError(28, "No space left on device")
    except OSError as error:
        raise RuntimeError("cannot save") from error

def breaks(folder):
    print("a line of the log")
    raise KeyError("what is this")

def waits(folder):
    def stop(number, frame):
        (folder / "stopped").touch()
        sys.exit(143)
    signal.signal(signal.SIGTERM, stop)
    (folder / "pid").write_text(str(os.getpid()))
    time.sleep(100)
"""

PARENT = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with it ignored
from rlaif.training import launch
try:
    launch("entries:waits", Path(sys.argv[1]))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.fixture
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The functions of ENTRIES can be launched."""
    (tmp_path / "entries.py").write_text(ENTRIES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_a_training_returns_its_metrics_and_leaves_nothing_else(entries: Path) -> None:
    into = entries / "stage"
    assert train("entries:doubles", into, TrainerConfig(), number=21) == {"doubled": 42}
    assert [p.name for p in into.iterdir()] == ["train.log"]


def test_an_error_raised_on_purpose_comes_out_as_it_was(entries: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        launch("entries:refuses", entries)
    error = caught.value
    assert (error.what, error.where, error.remedy) == ("no weight", "law.yaml:3:5", "add one")


@pytest.mark.parametrize(
    ("entry", "kind", "said"),
    [
        ("fills_memory", TrainingFailed, "set a smaller micro_batch"),
        ("is_killed", TrainingFailed, "most likely for want of memory"),
        ("fills_disk", RunError, "the disk is full"),
        ("breaks", TrainingFailed, "a line of the log"),
    ],
)
def test_any_other_end_is_a_failure_with_a_remedy(
    entries: Path, entry: str, kind: type[RlaifError], said: str
) -> None:
    with pytest.raises(kind, match=said) as caught:
        launch(f"entries:{entry}", entries)
    assert caught.value.remedy
    assert len(str(caught.value).splitlines()) < 40


@pytest.mark.parametrize("entry", ["fills_memory", "is_killed"])
def test_who_launches_says_how_to_save_memory(entries: Path, entry: str) -> None:
    with pytest.raises(TrainingFailed) as caught:
        launch(f"entries:{entry}", entries, saving="set `evaluation.kl: 0`")
    assert "set `evaluation.kl: 0`" in (caught.value.remedy or "")
    assert "micro_batch" not in (caught.value.remedy or "")


def test_processes_wait_long_for_the_one_that_makes_the_examples(
    entries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_PORT": port}
    for name, value in told.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert train("entries:waits_for_others", entries / "stage", TrainerConfig())["hours"] == 24


def test_a_training_without_a_result_has_failed(entries: Path) -> None:
    (entries / "silent.py").write_text("def ends(folder): pass")
    with pytest.raises(TrainingFailed, match="left no result"):
        train("silent:ends", entries / "stage", TrainerConfig())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_child_may_finish_its_step_and_ends_with_its_parent(entries: Path, number: int) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(entries)])
    pid = int(_appears(entries / "pid").read_text())
    parent.send_signal(number)
    assert parent.wait(20) == (130 if number == signal.SIGINT else -number)
    _appears(entries / "stopped")
    _until(lambda: not Path(f"/proc/{pid}").exists())


def test_a_training_waits_for_one_that_is_not_yet_gone(entries: Path) -> None:
    with (entries / "train.log").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        command = [sys.executable, "-m", "rlaif.training", "entries:doubles", str(entries)]
        (entries / "job.json").write_text('{"number": 1}')
        late = subprocess.Popen(command)
        with pytest.raises(subprocess.TimeoutExpired):
            late.wait(2)
    assert late.wait(20) == 0


def test_a_single_process_gets_a_single_gpu(entries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (entries / "shows.py").write_text(
        "import os\n"
        "from rlaif.training import finish\n"
        "def gpus(folder): finish(folder, {'gpus': os.environ['CUDA_VISIBLE_DEVICES']})"
    )
    for given, seen in (("2,3", "2"), ("", "")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        assert train("shows:gpus", entries / "stage", TrainerConfig()) == {"gpus": seen}


def test_without_an_error_file_the_exit_status_says_that_the_disk_is_full(entries: Path) -> None:
    command = [sys.executable, "-m", "rlaif.training", "entries:fills_disk", str(entries)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == errno.ENOSPC


def _appears(path: Path) -> Path:
    _until(lambda: path.exists() and (path.name != "pid" or path.stat().st_size > 0))
    return path


def _until(true: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_job_is_what_the_stage_gave(tmp_path: Path) -> None:
    given = tiny.begin(tmp_path, TrainerConfig(epochs=2), pairs="there")
    assert job(given)["config"]["epochs"] == 2
    assert job(given)["pairs"] == "there"


# --- models ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    """The model's folder, to be spoilt."""
    return shutil.copytree(model, tmp_path / "copy")


def test_a_model_is_loaded_in_single_precision(model: Path) -> None:
    import torch

    assert models.storage_format(model) == "float16"
    assert {p.dtype for p in models.load_model(model).parameters()} == {torch.float32}


def test_how_a_model_is_drawn_from_does_not_hinder_training(copy: Path, tmp_path: Path) -> None:
    """transformers loads a temperature without do_sample, and refuses to save it."""
    from rlaif.policy.dpo import fit

    drawn = json.dumps({"temperature": 0.9, "top_p": 0.6, "eos_token_id": [0, 4]})
    (copy / "generation_config.json").write_text(drawn)
    pairs, into = tiny.pairs(tmp_path / "pairs", n=8), tmp_path / "into"
    tiny.fit(fit, into, DpoConfig(**tiny.QUICK, save_every=1), model=copy, pairs=pairs)
    assert (into / "model" / "generation_config.json").read_text() == drawn
    assert vars(models.load_model(into / "model").generation_config)["eos_token_id"] == [0, 4]


@pytest.mark.parametrize("layer", ["embed_tokens", "lm_head"])
def test_no_adapter_is_merged_into_two_layers(model: Path, layer: str) -> None:
    config = DpoConfig.model_validate({"lora": {"target_modules": [layer, "q_proj"]}})
    with pytest.raises(ConfigError, match=f"embed_tokens and lm_head share.*\n.*{layer} away"):
        models.load_for_training(model, config)
    models.load_for_training(model, DpoConfig.model_validate({"lora": {}}))


def wet(kind: str) -> Any:
    """A tiny model of an architecture that has dropout somewhere: modules, attention, residuals."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 40, "hidden_size": 16}
    rates = {
        "gpt2": {"attn_pdrop": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5},
        "starcoder2": {"residual_dropout": 0.5, "embedding_dropout": 0.5},
        "granite": {"attention_dropout": 0.5},
    }
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes | rates[kind]))


@pytest.mark.parametrize("kind", ["gpt2", "starcoder2", "granite"])
def test_dropout_is_off_wherever_it_is(kind: str, tmp_path: Path) -> None:
    import torch

    wet(kind).save_pretrained(tmp_path)

    def draws(config: TrainerConfig) -> list[Any]:
        made: Any = models.load_for_training(tmp_path, config).train()
        return [made(torch.arange(12)[None]).logits for _ in range(2)]

    for config in (DpoConfig(), KtoConfig(), PpoConfig(), GrpoConfig(), RlooConfig()):
        assert torch.equal(*draws(config))
    assert not torch.equal(*draws(FinetuneConfig()))


def test_garbled_weights_are_an_error_with_a_remedy(copy: Path) -> None:
    (copy / "model.safetensors").write_bytes(b"garbage" * 100)
    with pytest.raises(ConfigError, match="cannot be loaded") as caught:
        models.load_model(copy)
    assert caught.value.remedy


def test_missing_weights_are_never_made_up(copy: Path) -> None:
    from safetensors.torch import save_file

    kept = {name: w for name, w in tiny.weights(copy).items() if "down_proj" not in name}
    save_file(kept, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match="1 weights are missing"):
        models.load_model(copy)


def test_an_encoder_with_another_head_is_no_reward_model_of_ours(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    sizes |= {"vocab_size": 40, "intermediate_size": 16, "num_labels": 1}
    BertForSequenceClassification(BertConfig(**sizes)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="this is no reward model"):
        models.load_reward_model(tmp_path)


def test_a_language_model_is_no_reward_model(model: Path) -> None:
    with pytest.raises(ConfigError, match="no reward model"):
        models.load_reward_model(model)


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("chat_template.jinja", "no chat template"),
        ("model.safetensors", "no \\*.safetensors"),
        ("config.json", "no config.json"),
    ],
)
def test_a_folder_that_could_not_be_served_is_refused(copy: Path, gone: str, said: str) -> None:
    (copy / gone).unlink()
    with pytest.raises(ConfigError, match=said):
        models.source(str(copy))


def test_a_name_that_the_hub_does_not_give_is_an_error_with_a_remedy() -> None:
    with pytest.raises(ConfigError, match="cannot be had") as caught:
        models.source("nobody/nothing", "main")
    assert "network" in caught.value.remedy


def test_a_garbled_tokenizer_is_an_error(copy: Path) -> None:
    (copy / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        models.load_tokenizer(copy)


# --- examples -------------------------------------------------------------------------------------

ASKED = (Message("user", "say apple"),)


def test_an_example_is_what_is_served_and_ends_with_the_end_of_a_turn(model: Path) -> None:
    encode = Encoder(model, 64)
    prompt, answer = encode(ASKED, "boat cloud")
    assert encode.tokenizer.decode(prompt) == "<|user|>say apple<|end|><|assistant|>"
    assert encode.tokenizer.decode(answer) == "boat cloud<|end|>"
    assert answer[-1] == encode.tokenizer.eos_token_id != encode.padding


def test_what_follows_the_end_is_not_learned_and_a_missing_end_is_added(copy: Path) -> None:
    template = (copy / "chat_template.jinja").read_text()
    served = Encoder(copy, 64)(ASKED, "boat")
    (copy / "chat_template.jinja").write_text(template.replace("'<|end|>'", "'<|end|>\\n'"))
    assert Encoder(copy, 64)(ASKED, "boat")[1] == served[1]
    (copy / "chat_template.jinja").write_text(template.replace("'<|end|>'", "''"))
    assert Encoder(copy, 64)(ASKED, "boat")[1] == served[1]


def test_a_long_example_is_left_out_and_never_cut(model: Path) -> None:
    prompt, answer = Encoder(model, 64)(ASKED, "boat")
    exact = len(prompt) + len(answer)
    assert Encoder(model, exact)(ASKED, "boat") == (prompt, answer)
    with pytest.raises(LeftOut, match="too_long"):
        Encoder(model, exact - 1)(ASKED, "boat")


def test_a_dialogue_that_the_template_refuses_is_left_out(copy: Path) -> None:
    (copy / "chat_template.jinja").write_text("{{ raise_exception('no system here') }}")
    with pytest.raises(LeftOut, match="refused_by_chat_template"):
        Encoder(copy, 64)(ASKED, "boat")


DRAFT = "{% block system %}Be {{ 'very ' * 3 }}brief.{% endblock %}{% block user %}"
TALK = (Message("user", "hello"), Message("assistant", "elm"), *ASKED)


@pytest.fixture
def drafts(tmp_path: Path) -> Callable[[str], Templates]:
    def drafts(text: str) -> Templates:
        (tmp_path / "prompts").mkdir(exist_ok=True)
        (tmp_path / "prompts" / "draft.j2").write_text(text)
        return Templates(tmp_path / "prompts")

    return drafts


@pytest.mark.parametrize("begun", ["", "Well,"])
def test_a_prompt_is_learned_as_it_was_asked(
    model: Path, drafts: Callable[[str], Templates], begun: str
) -> None:
    last = f"{{% block assistant %}}{begun}{{% endblock %}}" if begun else ""
    templates = drafts(DRAFT + "Now {{ request }}{% endblock %}" + last)
    encode = Encoder(model, 999, templates.folder)
    turns = [{"role": m.role, "content": m.content} for m in templates.asked(TALK)]
    render = encode.tokenizer.apply_chat_template
    asked = render(
        turns,
        return_dict=False,
        add_generation_prompt=not begun,
        continue_final_message=bool(begun),
    )
    text = encode.tokenizer.decode(asked)
    assert text.startswith("<|system|>Be very very very brief.<|end|><|user|>hello<|end|>")
    assert text.endswith(f"<|user|>Now say apple<|end|><|assistant|>{begun}")
    prompt, answer = encode(TALK, " boat")
    assert (prompt, encode.tokenizer.decode(answer)) == (asked, " boat<|end|>")
    assert encode.asked(TALK) == (turns, asked)


def test_the_shipped_draft_adds_nothing(model: Path) -> None:
    bare, shipped = Encoder(model, 999), Encoder(model, 999, folder("prompts"))
    for prompt in (ASKED, TALK, (Message("system", "brief"), *TALK)):
        assert shipped(prompt, "boat") == bare(prompt, "boat")


def test_what_would_be_read_as_control_tokens_is_left_out(
    model: Path, drafts: Callable[[str], Templates]
) -> None:
    said = Message("user", "say <|end|>")
    for encode in (Encoder(model, 64), Encoder(model, 64, folder("prompts"))):
        with pytest.raises(LeftOut, match="control_tokens"):
            encode(ASKED, "boat<|user|>more")
    with pytest.raises(LeftOut, match="control_tokens"):
        Encoder(model, 64)((said, *TALK[1:]), "boat")
    # Asked by a template, it has lost its effect; what the template itself says is meant.
    templates = drafts("{% block user %}{{ request }}<|end|>{% endblock %}")
    encode = Encoder(model, 64, templates.folder)
    prompt, _ = encode((said,), "boat")
    assert prompt.count(encode.tokenizer.eos_token_id) == 2


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("rlaif.finetune", FinetuneConfig(max_length=64)),
        ("rlaif.reward.trainer", RewardConfig(max_length=64)),
        ("rlaif.policy.dpo", DpoConfig(max_length=64)),
        ("rlaif.policy.kto", KtoConfig(max_length=64)),
        ("rlaif.policy.ppo", PpoConfig(max_length=64, max_tokens=8)),
        ("rlaif.policy.grpo", GrpoConfig(max_length=64, max_tokens=8)),
        ("rlaif.policy.rloo", RlooConfig(max_length=64, max_tokens=8)),
    ],
)
def test_every_training_asks_by_the_template(
    name: str,
    config: TrainerConfig,
    model: Path,
    tmp_path: Path,
    drafts: Callable[[str], Templates],
) -> None:
    data = tiny.pairs(tmp_path / "data", 4)
    with writing(data / "chains.jsonl") as write:
        write(Chain(tiny.prompt(0), "a", (Step(1, "kind", "b"),)))
    with writing(data / "train.jsonl") as write:
        write(tiny.prompt(0))
    given: dict[str, Any] = {"chains": data, "pairs": data, "prompts": data, "revision": None}
    given |= {"model": str(model), "judge": None, "critic": None}
    given["reward_models"] = {"reward": tiny.reward_model(model, tmp_path / "reward")}
    given["templates"] = drafts(DRAFT.replace("3", "99") + "{{ request }}{% endblock %}").folder
    with pytest.raises(DataError, match="too_long"):
        tiny.fit(import_module(name).fit, tmp_path / "stage", config, **given)


def test_stages_pass_the_templates_on_and_remember_them(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def train(entry: str, into: Path, config: Any, **told: Any) -> dict[str, Any]:
        given.append(told["templates"])
        shutil.copytree(model, into / "model")
        return {}

    def measured(into: Path, config: Any, **told: Any) -> dict[str, Any]:
        given.extend([told["make_room"], told["revision"]])
        return {}

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(evaluation, "evaluation", measured)
    told = finished_run.config(prompts=tmp_path, model=str(model), revision="v1")
    with Pipeline.open(told, root=tmp_path, store=str(tmp_path / "store.db")) as run:
        pairs = tiny.pairs(tmp_path / "pairs", 1)
        finetuned = run.finetune(pairs)
        rewarded, policy = run.reward(pairs, finetuned), run.policy(pairs, finetuned)
        run.evaluation(pairs, pairs, finetuned, pairs, policy)
        assert given == [folder("prompts")] * 3 + [run.models.make_room, "v1"]
        for stage in (finetuned, rewarded, policy):
            inputs = stage_record(stage)["made_from"]["inputs"]
            assert inputs["prompts/draft.j2"] == run.templates.digest("draft")


def test_helpful_samples_count_by_what_they_hold(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(entry: str, into: Path, config: Any, **told: Any) -> dict[str, Any]:
        shutil.copytree(model, into / "model")
        return {}

    monkeypatch.setattr(training, "train", train)
    pairs = tiny.pairs(tmp_path / "pairs", 1)

    def finetuned(helpful: Path) -> Path:
        section = {"helpful": {"path": str(helpful)}}
        told = finished_run.config(prompts=tmp_path, model=str(model), finetune=section)
        with Pipeline.open(told, root=tmp_path, store=str(tmp_path / "store.db")) as run:
            return run.finetune(pairs)

    here, elsewhere = tmp_path / "helpful.jsonl", tmp_path / "moved.jsonl"
    here.write_text("one")
    finetuned(here)
    finetuned(here.rename(elsewhere))
    elsewhere.write_text("two")
    with pytest.raises(RunError, match="made from something else: helpful"):
        finetuned(elsewhere)


def test_examples_are_made_once_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    rows = [{"ids": [1, 2]}, LeftOut("too_long"), {"ids": [3]}, LeftOut("too_long")]
    dataset, left_out = stored(tmp_path, "pairs", lambda: iter(rows))
    assert dataset["ids"][:] == [[1, 2], [3]]
    assert left_out == {"too_long": 2}
    again, counted = stored(tmp_path, "pairs", lambda: pytest.fail("asked twice"))
    assert (again["ids"][:], counted) == (dataset["ids"][:], left_out)


def test_no_examples_are_an_error_that_says_why(tmp_path: Path) -> None:
    rows = [LeftOut("too_long"), LeftOut("unlabelled"), LeftOut("unlabelled")]
    with pytest.raises(DataError, match="1 too_long, 2 unlabelled: there are no training pairs"):
        stored(tmp_path, "training_pairs", lambda: iter(rows))
    assert len(stored(tmp_path, "others", lambda: iter(rows), optional=True)[0]) == 0


# --- arguments ------------------------------------------------------------------------------------


def test_arguments_follow_the_config_and_trl_options_win(tmp_path: Path) -> None:
    from trl import SFTConfig

    from rlaif.training.fitting import arguments

    config = TrainerConfig(batch_size=12, micro_batch=4, trl={"warmup_steps": 7})
    made = arguments(SFTConfig, tmp_path, config, seed=5)
    assert (made.per_device_train_batch_size, made.gradient_accumulation_steps) == (4, 3)
    assert (made.warmup_steps, made.seed, made.report_to) == (7, 5, [])


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"trl": {"warmup_step": 7}}, "has no 'warmup_step'.*\n.*warmup_steps"),
        ({"trl": {"max_length": 7}}, "max_length cannot be set here"),
        ({"trl": {"remove_unused_columns": True}}, "remove_unused_columns cannot be set here"),
        ({"trl": {"lr_scheduler_type": "round"}}, "round"),
        ({"batch_size": 12, "micro_batch": 5}, "no multiple"),
    ],
)
def test_an_option_that_cannot_be_used_is_an_error(
    tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    from trl import SFTConfig

    from rlaif.training.fitting import arguments

    with pytest.raises(ConfigError, match=said) as caught:
        arguments(SFTConfig, tmp_path, TrainerConfig(**config), seed=0)
    assert caught.value.remedy


# --- many processes -------------------------------------------------------------------------------


@pytest.fixture
def deepspeed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """DeepSpeed's plugin of accelerate, as the shipped file asks for it."""
    from accelerate.commands import launch as launching
    from accelerate.utils import DeepSpeedPlugin
    from accelerate.utils.launch import prepare_deepspeed_cmd_env

    file = Path(training.__file__).parent / "accelerate" / "deepspeed.yaml"
    told = ["--config_file", str(file), "--num_processes", "2", "-m", "rlaif.training"]
    args, *_ = launching._validate_launch_command(
        launching.launch_command_parser().parse_args(told)
    )
    args.deepspeed_fields_from_accelerate_config = ""
    with monkeypatch.context() as inside:
        for name, value in prepare_deepspeed_cmd_env(args)[1].items():
            inside.setenv(name, value)
        return DeepSpeedPlugin()


def test_deepspeed_takes_the_batches_of_a_trl_training(
    deepspeed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate.utils.deepspeed import HfDeepSpeedConfig
    from transformers.integrations import deepspeed as integration
    from trl import SFTConfig

    from rlaif.training.fitting import arguments

    class Trainers(integration.HfTrainerDeepSpeedConfig, HfDeepSpeedConfig):
        """As it is where DeepSpeed is installed."""

    for checked in ("dep_version_check", "set_hf_deepspeed_config"):
        monkeypatch.setattr(integration, checked, lambda _: None)
    args = arguments(SFTConfig, tmp_path, TrainerConfig(batch_size=12, micro_batch=4), seed=0)
    made: Any = Trainers(deepspeed.deepspeed_config)
    made.trainer_config_process(args)
    made.trainer_config_finalize(args, None, 10)
    found = {name: value for name, value in made.config.items() if isinstance(value, int | float)}
    assert found.pop("steps_per_print")
    assert found == {
        "train_batch_size": 12,
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 3,
        "gradient_clipping": 1.0,
    }


def test_deepspeed_needs_no_data_loader_for_ppo(deepspeed: Any) -> None:
    from rlaif.policy.ppo.learner import _tell_deepspeed

    assert deepspeed.is_auto("train_micro_batch_size_per_gpu")
    _tell_deepspeed(deepspeed, 0.5)
    for name, value in {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.5,
    }.items():
        assert deepspeed.get_value(name) == value


@pytest.mark.slow
def test_two_processes_share_the_batch(model: Path, tmp_path: Path) -> None:
    from rlaif.policy import policy

    pairs = tiny.pairs(tmp_path / "pairs")
    ways = {"one": (), "two": ("--multi_gpu", "--num_processes=2", "--mixed_precision=no")}
    found = {
        name: policy(
            tmp_path / name,
            DpoConfig(**tiny.QUICK, launch=launch),
            pairs=pairs,
            model=str(model),
            seed=0,
        )
        for name, launch in ways.items()
    }
    assert found["one"]["steps"] == found["two"]["steps"]
    assert found["two"]["loss"] == pytest.approx(found["one"]["loss"], abs=0.02)
    one, two = (json.loads((tmp_path / w / "model/config.json").read_text()) for w in ways)
    assert one == two
    assert sorted(os.listdir(tmp_path / "one")) == sorted(os.listdir(tmp_path / "two"))
