"""The real vLLM server: chat, prefill, exact labels, and no process left whatever happens."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlaif.engine import Engine, EngineConfig, launch, serving
from rlaif.engine.model import check_servable, folder_digest, identity
from rlaif.errors import ConfigError, ServerDied
from rlaif.records import Answer, Call, Message, Reason, Sampling, Unanswered

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]

LABELS = ("A", "B")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a byte-level tokenizer, saved as users' models are: it says how it would
    be sampled, which is not how it is asked to be."""
    from tests.faults.tiny_model import save_tiny_model

    folder = save_tiny_model(tmp_path_factory.mktemp("tiny"))
    defaults = folder / "generation_config.json"
    own = {"do_sample": True, "top_k": 1, "repetition_penalty": 1.1}
    defaults.write_text(json.dumps(json.loads(defaults.read_text("utf-8")) | own), "utf-8")
    return folder


@pytest.fixture(scope="session")
def engine(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One real server for all tests of this file."""
    logs = tmp_path_factory.mktemp("logs")
    with serving(EngineConfig(model=str(tiny_model), dtype="float32", logs=logs)) as engine:
        yield engine


def chat(text: str, prefill: str = "", **options) -> Call:
    messages = (Message("user", text),)
    return Call(messages + ((Message("assistant", prefill),) if prefill else ()), **options)


def test_chat_is_reproducible_and_samples_differ(engine: Engine):
    calls = [chat("hello", sampling=Sampling(max_tokens=8), sample=i) for i in range(20)]
    first, again = list(engine.answers(calls)), list(engine.answers(calls))
    assert first == again
    texts = {outcome.text for outcome in first if isinstance(outcome, Answer)}
    assert len(texts) > 15


def test_stop_and_length(engine: Engine):
    (outcome,) = engine.answers([chat("hello", sampling=Sampling(max_tokens=3, temperature=0))])
    assert isinstance(outcome, Answer)
    assert (outcome.finish, outcome.completion_tokens) == ("length", 3)


def test_too_long_is_a_reason(engine: Engine):
    calls = [chat("a " * 4000), chat("a", sampling=Sampling(max_tokens=9999))]
    for outcome in engine.answers(calls):
        assert isinstance(outcome, Unanswered)
        assert outcome.reason is Reason.TOO_LONG


@pytest.mark.parametrize("prefill", ["Answer: (", ""])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_label_probabilities_are_those_of_transformers(
    engine: Engine, tiny_model: Path, prefill: str, temperature: float
):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    sampling = Sampling(temperature=temperature)
    calls = [chat(f"item {i}", prefill, labels=LABELS, sampling=sampling) for i in range(30)]
    outcomes = list(engine.answers(calls))
    for i, outcome in enumerate(outcomes):
        text = f"<|user|>item {i}<|end|><|assistant|>{prefill}"
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
        with torch.no_grad():
            logprobs = model(ids).logits[0, -1].log_softmax(-1)
        labels = [tokenizer.encode(label, add_special_tokens=False)[0] for label in LABELS]
        assert isinstance(outcome, Answer)
        assert outcome.logprobs == pytest.approx([float(logprobs[i]) for i in labels], abs=1e-3)
    spread = {round(o.logprobs[0], 4) for o in outcomes if isinstance(o, Answer)}
    assert len(spread) > 20  # the prompts really differ in what they ask of the model


def test_a_prefill_is_continued_in_place(engine: Engine):
    prefix = chat("hello", "The reply", sampling=Sampling(max_tokens=4, temperature=0))
    (outcome,) = engine.answers([prefix])
    assert isinstance(outcome, Answer)
    longer = chat("hello", "The reply" + outcome.text, sampling=Sampling(max_tokens=1))
    (after,) = engine.answers([longer])
    assert isinstance(after, Answer)
    assert math.isclose(after.prompt_tokens, outcome.prompt_tokens + 4, abs_tol=2)


def test_a_label_of_several_tokens_is_refused(engine: Engine):
    with pytest.raises(ConfigError, match="tokens, not one"):
        list(engine.answers([chat("q", "(", labels=("Harmless", "B"))]))


OWNER = """
import os, sys, time
from rlaif.engine import EngineConfig, serving
with serving(EngineConfig(model=sys.argv[1], dtype="float32")) as engine:
    print("up", flush=True)
    time.sleep(600)
"""


def processes_of(marker: str) -> list[int]:
    """Every process that was started with this environment marker, zombies not counted."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if marker.encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


def assert_all_gone(marker: str, within_s: float = 15.0) -> None:
    deadline = time.monotonic() + within_s
    while (left := processes_of(marker)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, "importing"),
        (signal.SIGTERM, "importing"),
        (signal.SIGKILL, "spawned"),
        (signal.SIGKILL, "up"),
    ],
)
def test_no_process_is_left(tiny_model: Path, number: signal.Signals, moment: str):
    marker = f"RLAIF_TEST_MARKER={os.getpid()}-{number.name}-{moment}"
    env = dict(os.environ) | dict([marker.split("=", 1)])
    command = [sys.executable, "-c", OWNER, str(tiny_model)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        if moment == "up":
            assert owner.stdout.readline() == b"up\n"
        wanted = 3 if moment == "importing" else 4  # we, the keeper, the server; then the engine
        deadline = time.monotonic() + 120
        while len(processes_of(marker)) < wanted and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(processes_of(marker)) >= wanted
        owner.send_signal(number)
    assert_all_gone(marker)


def test_leaving_the_block_leaves_no_process(tmp_path: Path):
    from rlaif.engine.child import Child

    code = (
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
        " start_new_session=True)\n"
        "time.sleep(600)"
    )
    marker = f"RLAIF_TEST_MARKER={os.getpid()}-child"
    env = dict(os.environ) | dict([marker.split("=", 1)])
    child = Child([sys.executable, "-c", code], env, tmp_path / "log")
    while len(processes_of(marker)) < 3:
        time.sleep(0.05)
    child.stop()
    assert processes_of(marker) == []


def test_the_end_of_a_log_is_the_processs_own_not_its_launchers(tmp_path: Path):
    from rlaif.engine.child import Child

    said = (
        "ValueError: its own last word",
        "E1128 22:41:21.957000 96 torch/distributed/elastic/multiprocessing/api.py:1002] failed",
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError:",
    )
    child = Child(
        [sys.executable, "-c", f"print(*{said!r}, sep='\\n')"], os.environ, tmp_path / "log"
    )
    while child.returncode is None:
        time.sleep(0.05)
    child.stop()
    assert child.log_end() == said[0]


def test_a_server_that_dies_shows_its_log_and_a_remedy(tiny_model: Path):
    config = EngineConfig(model=str(tiny_model), vllm_args=("--no-such-option",))
    with pytest.raises(ServerDied, match="unrecognized arguments") as error, serving(config):
        pass
    assert "engine.vllm_args" in error.value.remedy


STAND_IN = """
import asyncio, os, sys
sys.path.insert(0, '.')
from tests.faults.server import Faulty
class Dies(Faulty):
    def _respond(self, path, body):
        if path == '/tokenize' or path.startswith('/v1') and self.stats['ok'] == 50:
            print('CUDA out of memory', flush=True)
            os._exit(1)
        super()._respond(path, body)
async def main(port):
    server = await asyncio.get_running_loop().create_server(Dies, '127.0.0.1', port)
    await server.serve_forever()
if not os.path.exists(sys.argv[2]):
    open(sys.argv[2], 'w').close()
    sys.exit('OSError: [Errno 98] Address already in use')
asyncio.run(main(int(sys.argv[1])))
"""


def test_another_port_is_tried_and_a_death_in_use_ends_the_run(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """With a stand-in for vLLM whose first start finds its port taken."""
    flag = str(tmp_path / "started")
    monkeypatch.setattr(
        launch, "command", lambda config, port: [sys.executable, "-c", STAND_IN, str(port), flag]
    )
    config = EngineConfig(model=str(tiny_model), logs=tmp_path, max_in_flight=8)
    calls = {
        "an answer": (chat(f"question {i}") for i in range(5000)),
        "the tokens of a label": [chat("Which?", labels=("A", "B"))],
    }
    for asked in calls.values():
        with serving(config) as engine, pytest.raises(ServerDied, match="out of memory") as error:
            list(engine.answers(asked))
        assert "max_model_len" in error.value.remedy


def test_models_that_cannot_be_served_are_refused_before_anything_starts(
    tiny_model: Path, tmp_path: Path
):
    def complaint(model: Path | str) -> str:
        with pytest.raises(ConfigError) as error:
            check_servable(EngineConfig(model=str(model)))
        return str(error.value)

    assert "no such model folder" in complaint(tmp_path / "missing")
    assert "check `model`, or `feedback.model`" in complaint("./missing")
    assert "config.json" in complaint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert "pickled" in complaint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "chat template" in complaint(tmp_path)
    check_servable(EngineConfig(model=str(tiny_model)))


def test_identity_is_the_content(tiny_model: Path, tmp_path: Path):
    import shutil

    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    one, two = (identity(EngineConfig(model=str(path))) for path in (tiny_model, copy))
    assert one == two
    (copy / "README.md").write_text("no answer depends on this,")
    (copy / "recipe.json").write_text('{"nor": "on this"}')
    assert identity(EngineConfig(model=str(copy))) == one
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    assert identity(EngineConfig(model=str(copy))) != one
    hub = EngineConfig(model="org/name", revision="abc", dtype="bfloat16")
    assert identity(hub) == "org/name@abc:bfloat16"


def test_a_home_that_cannot_be_written_is_no_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").touch()
    with (tmp_path / "model.safetensors").open("wb") as weights:
        weights.truncate((1 << 26) + 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(folder_digest(tmp_path)) == 64


def test_identity_has_the_arguments_that_can_change_an_answer(tmp_path: Path):
    def known(*args: str, **more: object) -> str:
        return identity(EngineConfig.model_validate({"model": "m", "vllm_args": args} | more))

    template = tmp_path / "chat.jinja"
    template.write_text("one")
    plain, asked = known(), known("--chat-template", str(template))
    faster = ("--gpu_memory_utilization=0.5", "--tensor-parallel-size", "2", "--enforce-eager")
    assert known(*faster) == plain == known("--quantization", "fp8", base_urls=("http://a",))
    assert known(*faster, f"--chat-template={template}") == asked != plain
    assert known("--quantization", "fp8") not in (plain, asked)
    template.write_text("another")
    assert known("--chat-template", str(template)) not in (plain, asked)
