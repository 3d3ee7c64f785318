"""The client against a real HTTP server that misbehaves: answers or reasons, never an invention."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import time
from contextlib import nullcontext
from copy import copy

import pytest

from rlaif.engine import Counts, Engine, EngineConfig, Model, Models, ScriptedEngine, serving, wire
from rlaif.engine.pool import Pool
from rlaif.errors import ConfigError, EngineError
from rlaif.records import Answer, Call, Message, Reason, Sampling, Unanswered, read
from tests.faults import fault_server, stats
from tests.faults.server import logprob_for, text_for

RATES = {
    "429": 0.05, "5xx": 0.05, "timeout": 0.03, "reset": 0.02,
    "malformed": 0.02, "truncated": 0.02, "nan": 0.01,
}  # fmt: skip
LABELS = ("A", "B")


def engine_for(*urls: str, **options: object) -> Engine:
    return Engine(EngineConfig.model_validate({"model": "stub", "base_urls": urls} | options))


def text_call(i: int = 0) -> Call:
    return Call((Message("user", f"question {i}"),))


def label_call(i: int = 0) -> Call:
    return Call((Message("user", f"q {i}"), Message("assistant", f"{i} (")), labels=LABELS)


def test_faults_end_as_answers_or_reasons_and_nothing_is_invented():
    calls = [label_call(i % 50) if i % 2 else text_call(i) for i in range(10_000)]
    with fault_server(**RATES) as url:
        engine = engine_for(url, timeout_s=2.0)
        outcomes = list(engine.answers(calls))
        served = stats(url)
    assert len(outcomes) == len(calls)
    for call, outcome in zip(calls, outcomes, strict=True):
        prompt = call.messages[-1].content
        if isinstance(outcome, Unanswered):
            continue
        assert outcome.text == text_for(prompt)
        assert outcome.logprobs == tuple(logprob_for(prompt, ord(c)) for c in call.labels)
    unanswered = sum(isinstance(outcome, Unanswered) for outcome in outcomes)
    assert unanswered == engine.counts.unanswered.total() <= 20
    assert sum(served.values()) <= 1.35 * len(calls)
    assert engine.counts.answered + unanswered == len(calls)
    assert all(served.get(fault, 0) > 0 for fault in RATES)


def poisonous(fault: str, *labels: str) -> Call:
    """A call that is always answered with this fault."""
    prefill = (Message("assistant", "("),) if labels else ()
    return Call((Message("user", f"poison {fault}"), *prefill), labels=labels)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (poisonous("403"), Reason.UNAVAILABLE),
        (poisonous("429"), Reason.UNAVAILABLE),
        (poisonous("5xx"), Reason.UNAVAILABLE),
        (poisonous("reset"), Reason.UNAVAILABLE),
        (poisonous("timeout"), Reason.UNAVAILABLE),
        (poisonous("malformed"), Reason.MALFORMED),
        (poisonous("nan", *LABELS), Reason.NOT_A_NUMBER),
    ],
)
def test_a_call_that_always_fails_becomes_a_reason_and_holds_up_nothing(call, reason):
    with fault_server() as url:
        engine = engine_for(url, retries=1, timeout_s=0.3)
        outcome, *rest = engine.answers([call, text_call()])
        (alone,) = engine.answers([call])
    assert isinstance(outcome, Unanswered)
    assert outcome.reason is reason
    assert url in outcome.detail
    assert all(isinstance(other, Answer) for other in rest)
    assert isinstance(alone, Unanswered)
    assert alone.reason is reason
    assert engine.counts.said[reason]


@pytest.mark.parametrize("fault", ["403", "429", "5xx", "reset", "timeout", "malformed"])
def test_an_outage_ends_the_run_and_leaves_no_holes(fault):
    store, calls = MemoryStore(), [text_call(i) for i in range(300)]
    with fault_server() as url:
        list(engine_for(url).answers(calls[:100], store=store))
    with fault_server(**{fault: 1.0}) as url:
        patience_s = 0.3 if fault == "timeout" else 20.0  # the machine may be busy
        engine = engine_for(url, retries=1, timeout_s=patience_s, grace_s=0.5)
        start = time.monotonic()
        with pytest.raises(EngineError, match="has answered anything") as error:
            list(engine.answers(calls, store=store))
        assert time.monotonic() - start < 20
    assert url in str(error.value)
    said = {"403": "flagged", "429": "slow down", "5xx": "oops", "malformed": "oops"}
    assert said.get(fault, "last attempt") in str(error.value)
    with fault_server() as url:
        engine = engine_for(url)
        assert all(isinstance(o, Answer) for o in engine.answers(calls, store=store))
    assert (engine.counts.cached, engine.counts.answered) == (100, 200)


def test_a_call_that_an_outage_hit_is_asked_again_when_the_server_is_back():
    with fault_server(recover_s=3.0) as url:
        engine = engine_for(url, retries=1, grace_s=30.0)
        outcomes = list(engine.answers(text_call(i) for i in range(500)))
    assert all(isinstance(outcome, Answer) for outcome in outcomes)


def test_deadline():
    with fault_server() as url:
        (outcome,) = engine_for(url, deadline_s=0.3, timeout_s=0.2).answers([poisonous("timeout")])
    assert isinstance(outcome, Unanswered)
    assert outcome.reason is Reason.CANCELLED


REFUSED = Unanswered(Reason.REFUSED, "HTTP 400: no such parameter")


@pytest.mark.parametrize(
    ("lost", "n", "stops"),
    [(1, 1, True), (37, 37, True), (36, 40, True), (35, 40, False), (1, 2, False)],
)
def test_hardly_any_answer_is_an_error_in_the_servers_words(lost, n, stops, caplog):
    model = Model.of(ScriptedEngine(lambda call: REFUSED if number(call) < lost else "well"))
    calls = [text_call(i) for i in range(n)]
    with pytest.raises(EngineError, match="no such parameter") if stops else nullcontext() as told:
        assert len(list(model.answers(calls, "drafts"))) == n
    if told:
        assert f"{lost} of {n} calls have no answer ({lost} refused)" in str(told.value)
    warned = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert warned == ["drafts: a call has no answer (refused): HTTP 400: no such parameter"]
    assert model.counts.as_dict()["said"] == {"refused": REFUSED.detail}


def test_a_few_lost_calls_after_many_answers_are_no_error():
    model = Model.of(ScriptedEngine(lambda call: REFUSED if number(call) < 3 else "well"))
    list(model.answers(text_call(i) for i in range(3, 40)))
    assert list(model.answers(text_call(i) for i in range(3))) == [REFUSED] * 3


def test_a_thousand_calls_without_an_answer_are_enough_to_know():
    engine = ScriptedEngine(lambda call: REFUSED)
    with pytest.raises(EngineError, match="1,000 of 1,000"):
        list(Model.of(engine).answers(text_call(i) for i in range(100_000)))
    assert len(engine.asked) < 10_000


def number(call: Call) -> int:
    return int(call.messages[-1].content.split()[-1])


def test_as_many_calls_are_asked_at_once_as_the_config_says(monkeypatch):
    open_now, most = 0, 0

    class Slow(ScriptedEngine):
        async def ask(self, call: Call, counts: Counts):
            nonlocal open_now, most
            open_now += 1
            most = max(most, open_now)
            await asyncio.sleep(0.05)
            open_now -= 1
            return await super().ask(call, counts)

    engine = Slow(lambda call: "well")
    monkeypatch.setattr(Models, "engine", lambda self, config: engine)
    config = EngineConfig(model="stub", base_urls=("http://stub",), max_in_flight=300)
    with Models(None) as models:
        assert len(list(models.model(config).answers(text_call(i) for i in range(2000)))) == 2000
    assert most == 300


def test_a_thought_that_was_cut_is_no_text_and_hides_no_label():
    """What vLLM 0.32 with --reasoning-parser deepseek_r1 answered to a label's call."""
    top = [{"token": "token_id:65", "logprob": -0.5}, {"token": "token_id:66", "logprob": -1.5}]
    body = {
        "choices": [
            {
                "message": {"content": None, "reasoning": "tg"},
                "finish_reason": "length",
                "logprobs": {"content": [{"token": "token_id:65", "top_logprobs": top}]},
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 1},
    }
    with pytest.raises(
        wire.BadResponse, match="token 67: the server may not know logprob_token_ids"
    ):
        wire.decode(json.dumps(body).encode(), (65, 67))
    answer = wire.decode(json.dumps(body).encode(), (66, 65))
    assert answer == Answer("", "length", 7, 1, (-1.5, -0.5))
    assert read(answer) == ("", "length")


def test_half_a_character_is_no_text():
    body = {
        "choices": [{"message": {"content": "so \ud83d"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    }
    with pytest.raises(wire.BadResponse, match="not a chat completion"):
        wire.decode(json.dumps(body).encode())


@pytest.mark.parametrize("fault", ["5xx", "429", "malformed"])
def test_a_bad_server_is_avoided(fault):
    with fault_server() as good, fault_server(**{fault: 1.0}) as bad:
        engine = engine_for(bad, good, max_in_flight=8)
        outcomes = list(engine.answers(text_call(i) for i in range(2000)))
        served = stats(bad)
    assert all(isinstance(outcome, Answer) for outcome in outcomes)
    assert sum(served.values()) < 100


def test_servers_that_refuse_connections_end_the_run():
    with fault_server() as url:
        pass
    engine = engine_for(url, grace_s=1.0)
    start = time.monotonic()
    with pytest.raises(
        EngineError, match=r"Connect call failed[^\n]*\n.*start the server"
    ) as error:
        list(engine.answers(text_call(i) for i in range(1000)))
    assert url in str(error.value)
    assert time.monotonic() - start < 10
    with pytest.raises(EngineError, match="Connection refused"), serving(engine.config):
        pass


def test_the_grace_period_is_of_refusals_in_a_row():
    pool = Pool(("http://a",), grace_s=0.2)
    (server,) = pool.servers
    pool.refused(server, "it restarts")
    time.sleep(0.25)
    pool.failed(server)  # 502: somebody listens
    pool.refused(server, "it restarts again")
    time.sleep(0.25)
    with pytest.raises(EngineError, match="it restarts again"):
        pool.refused(server, "it restarts again")


def test_a_server_may_come_back_within_the_grace_period():
    with fault_server() as url:
        pass
    port = url.rsplit(":", 1)[1]
    script = (
        "import time, asyncio, sys; time.sleep(1.0); sys.path.insert(0, '.');"
        "from tests.faults.server import Faulty\n"
        "async def main():\n"
        f"    s = await asyncio.get_running_loop().create_server(Faulty, '127.0.0.1', {port})\n"
        "    await s.serve_forever()\n"
        "asyncio.run(main())"
    )
    late = subprocess.Popen([sys.executable, "-c", script])
    try:
        outcomes = list(engine_for(url, grace_s=15.0, retries=0).answers([text_call()] * 20))
    finally:
        late.kill()
        late.wait()
    assert all(isinstance(outcome, Answer) for outcome in outcomes)


def test_order_is_kept_and_memory_bounded():
    taken = itertools.count()
    calls = (text_call(next(taken)) for _ in range(20_000))
    with fault_server() as url:
        engine = engine_for(url)
        outcomes = engine.answers(calls)
        for i, outcome in enumerate(itertools.islice(outcomes, 3000)):
            assert isinstance(outcome, Answer)
            assert outcome.text == text_for(f"question {i}")
        outcomes.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert next(taken) < 3000 + 8 * 128 + 1024 + 2 * 256


@pytest.mark.parametrize("every", [1000, 1_000_000])
def test_memory_is_bounded_where_hardly_any_unit_has_a_call(every):
    """As where hardly a prompt meets a principle, or answers are equal."""
    taken = itertools.count()
    units = ((i, [text_call(i)] if i % every == 7 else []) for i in iter(taken.__next__, 200_000))
    model = Model.of(ScriptedEngine(lambda call: f"to {number(call)}"))
    done = most = 0
    for i, outcomes in model.each(units):
        assert i == done
        said = [o.text for o in outcomes if isinstance(o, Answer)]
        assert said == ([f"to {i}"] if i % every == 7 else [])
        done += 1
        if done % 1000 == 0:
            most = max(most, next(copy(taken)) - done)
    assert done == 200_000
    assert most < 50_000


class MemoryStore:
    """What the engine asks of a completions store."""

    def __init__(self) -> None:
        self.rows: dict[bytes, Answer] = {}

    def get_many(self, keys: list[bytes], /) -> dict[bytes, Answer]:
        return {key: self.rows[key] for key in keys if key in self.rows}

    def put(self, key: bytes, call: Call, answer: Answer, model: str = "", /) -> None:
        self.rows[key] = answer

    def flush(self) -> None: ...


def test_the_store_is_asked_first_and_unanswered_is_never_stored():
    store = MemoryStore()
    calls = [text_call(i % 400) for i in range(1000)]
    with fault_server() as url:
        engine = engine_for(url)
        first = list(engine.answers(calls, store=store))
        sent = engine.counts.sent
        again = list(engine.answers(calls, store=store))
    assert first == again
    assert engine.counts.answered == len(store.rows) == 400
    assert (engine.counts.cached, engine.counts.sent) == (600 + 1000, sent)
    with fault_server() as url:
        store.rows.clear()
        list(engine_for(url).answers([poisonous("malformed")] * 3, store=store))
    assert not store.rows


def test_a_call_that_is_answered_while_the_store_is_read_is_not_asked_again():
    class Slow(MemoryStore):
        def get_many(self, keys: list[bytes], /) -> dict[bytes, Answer]:
            found = super().get_many(keys)
            while len(self.rows) < looked[0]:
                time.sleep(0.01)
            time.sleep(0.2)
            looked[0] += 256
            return found

    looked, engine = [0], ScriptedEngine(lambda call: "well")
    calls = [text_call(i) for i in range(256)]
    assert len(list(engine.answers(calls + calls, store=Slow()))) == 512
    assert (engine.counts.sent, engine.counts.cached) == (256, 256)


@pytest.mark.parametrize(
    ("label", "complaint"), [("AB", "2 tokens"), ("", "0 tokens"), ("A", "same token")]
)
def test_a_label_that_cannot_be_read_is_a_config_error(label, complaint):
    call = Call((Message("user", "q"), Message("assistant", "(")), labels=("A", label))
    with fault_server() as url, pytest.raises(ConfigError, match=complaint):
        list(engine_for(url).answers([call]))


def test_a_gateway_that_keeps_the_tokenizer_to_itself_is_a_config_error():
    call = Call((Message("user", "no tokens"), Message("assistant", "(")), labels=LABELS)
    with fault_server() as url, pytest.raises(ConfigError, match=r"does not tokenize.*HTTP 403"):
        list(engine_for(url).answers([call] * 3))


def test_the_seed_depends_on_everything_in_the_call():
    base = Call((Message("user", "q"),))
    others = [
        Call((Message("user", "r"),)),
        Call((Message("user", "q"),), sample=1),
        Call((Message("user", "q"),), Sampling(seed=1)),
    ]
    assert len({wire.derived_seed(call) for call in (base, *others)}) == 4
    assert wire.derived_seed(base) == wire.derived_seed(Call((Message("user", "q"),)))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_text_is_drawn_as_asked_and_not_as_the_models_defaults_have_it(temperature):
    """`_DEFAULT_SAMPLING_PARAMS` of vLLM's chat requests: what a request leaves out comes from the
    model's generation_config.json."""
    call = Call((Message("user", "q"),), Sampling(temperature, top_p=0.9, max_tokens=7))
    sent = json.loads(wire.encode(call, "m"))
    neutral = {"top_k": -1, "min_p": 0, "repetition_penalty": 1}
    neutral |= {"presence_penalty": 0, "frequency_penalty": 0}
    assert {key: sent[key] for key in neutral} == neutral
    assert (sent["temperature"], sent["top_p"], sent["max_tokens"]) == (temperature, 0.9, 7)


@pytest.mark.parametrize("key", ["--trust-remote-code", "--host=0.0.0.0"])
def test_unsafe_arguments_are_refused(key):
    with pytest.raises(ValueError, match="not allowed"):
        EngineConfig(model="m", vllm_args=(key,))


def test_the_key_comes_from_the_environment_alone(monkeypatch):
    config = EngineConfig(model="m", api_key_env="RLAIF_TEST_KEY")
    with pytest.raises(ConfigError, match="RLAIF_TEST_KEY"):
        config.api_key()
    monkeypatch.setenv("RLAIF_TEST_KEY", "secret")
    assert config.api_key() == "secret"
    assert "secret" not in repr(config)


def test_importing_the_engine_is_cheap():
    heavy = "{'torch', 'vllm', 'transformers', 'aiohttp'}"
    code = (
        f"import sys\nfrom rlaif.engine import serving\nprint(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
