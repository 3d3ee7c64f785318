"""How fast is the engine's client, and how near does the served model come to vLLM offline?

    python tests/bench/bench_engine.py [--json] [--only client|vllm] [--requests N]

client: our client and bare client libraries against the same zero-latency stub server, in turns,
        in one run. Goal: at least 80% of the fastest library's requests/s.
vllm:   our client against the real server with max_tokens=1, and `vllm.LLM.chat` on the same
        prompts with the same model, dtype and flags, in turns. Goal: at least 90%.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from rlaif.engine import Engine, EngineConfig, launch, serving
from rlaif.records import Answer, Call, Message, Sampling

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.faults import fault_server

IN_FLIGHT = 128
ROUNDS = 3
Post = Callable[[bytes], Awaitable[object]]


def prompt(i: int) -> str:
    """About as long as a judge's question; the first part is shared, the rest is i's own."""
    shared = f"Read the two answers below and judge them. {'some shared words ' * 10}"
    return f"{shared} item {i} " + " ".join(str((i * k) % 997) for k in range(1, 20))


def calls(n: int, first: int = 0) -> list[Call]:
    """n calls for one token each."""
    one = Sampling(max_tokens=1, temperature=0)
    return [Call((Message("user", prompt(first + i)),), one) for i in range(n)]


def timed_engine(url: str, n: int) -> float:
    """Requests/s of `Engine.answers`, JSON, checks and all."""
    engine = Engine(EngineConfig(model="stub", base_urls=(url,), max_in_flight=IN_FLIGHT))
    work = calls(n)
    start = time.perf_counter()
    good = sum(isinstance(outcome, Answer) for outcome in engine.answers(work))
    assert good == n
    return n / (time.perf_counter() - start)


async def _drive(post: Post, prompts: list[str]) -> None:
    rest = iter(prompts)

    async def worker() -> None:
        for text in rest:
            await post(_body(text))

    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))


def _body(text: str) -> bytes:
    message = {"role": "user", "content": text}
    return msgspec.json.encode({"model": "stub", "messages": [message], "max_tokens": 1})


async def bare_aiohttp(url: str, prompts: list[str]) -> None:
    """aiohttp with its connection limit lifted; the body is read and parsed, nothing is checked."""
    import aiohttp

    headers = {"Content-Type": "application/json"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def post(body: bytes) -> object:
            async with session.post(url, data=body) as response:
                return msgspec.json.decode(await response.read())

        await _drive(post, prompts)


async def bare_httpx(url: str, prompts: list[str]) -> None:
    """httpx with as many connections as requests in flight."""
    import httpx

    limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
    headers = {"Content-Type": "application/json"}
    async with httpx.AsyncClient(limits=limits, headers=headers, timeout=60) as client:

        async def post(body: bytes) -> object:
            return msgspec.json.decode((await client.post(url, content=body)).content)

        await _drive(post, prompts)


async def bare_openai(url: str, prompts: list[str]) -> None:
    """The openai SDK, as most programs use it."""
    import openai

    base = url.removesuffix("/chat/completions")
    async with openai.AsyncOpenAI(base_url=base, api_key="none", max_retries=0) as client:

        async def post(body: bytes) -> object:
            return await client.chat.completions.create(**msgspec.json.decode(body))

        await _drive(post, prompts)


LIBRARIES = {"aiohttp": bare_aiohttp, "httpx": bare_httpx, "openai": bare_openai}


def timed_library(name: str, url: str, n: int) -> float:
    """Requests/s of one library on the same kind of event loop as ours."""
    import uvloop

    prompts = [prompt(i) for i in range(n)]
    start = time.perf_counter()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(LIBRARIES[name](f"{url}/v1/chat/completions", prompts))
    return n / (time.perf_counter() - start)


def bench_client(n: int) -> dict[str, float]:
    """Medians of several rounds, each of which measures all clients in turn."""
    rates: dict[str, list[float]] = {name: [] for name in ("rlaif", *LIBRARIES)}
    with fault_server() as url:
        for _ in range(ROUNDS):
            timed_engine(url, 100)
            timed_library("aiohttp", url, 100)
            rates["rlaif"].append(timed_engine(url, n))
            for name in LIBRARIES:
                share = n if name == "aiohttp" else n // 10
                rates[name].append(timed_library(name, url, share))
    medians = {f"{name} requests/s": statistics.median(rate) for name, rate in rates.items()}
    best = max(value for name, value in medians.items() if not name.startswith("rlaif"))
    return medians | {"share of the fastest library": medians["rlaif requests/s"] / best}


OFFLINE = """
import json, sys, time
from vllm import LLM, SamplingParams
llm = LLM(**json.loads(sys.stdin.readline()))
one = SamplingParams(max_tokens=1, temperature=0)
print("READY", flush=True)
for line in sys.stdin:
    chats = [[{"role": "user", "content": p}] for p in json.loads(line)]
    start = time.perf_counter()
    llm.chat(chats, one, use_tqdm=False)
    print("RATE", len(chats) / (time.perf_counter() - start), flush=True)
"""


class Offline:
    """vLLM's own offline engine in a process of its own, with the server's environment."""

    def __init__(self, config: EngineConfig) -> None:
        options: dict[str, object] = {"model": config.model, "dtype": config.dtype}
        if not launch.on_gpu():
            options |= {"enforce_eager": True, "max_num_seqs": config.max_in_flight}
        self._process = subprocess.Popen(
            [sys.executable, "-c", OFFLINE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=launch.environment(config),
            text=True,
        )
        self._ask(options, "READY")

    def rate(self, prompts: list[str]) -> float:
        """Requests/s over these prompts."""
        return float(self._ask(prompts, "RATE"))

    def close(self) -> None:
        """End it."""
        self._process.communicate()

    def _ask(self, what: object, reply: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith(reply):
                return line.removeprefix(reply)
        raise RuntimeError("vLLM's offline engine died")


def bench_vllm(n: int) -> dict[str, float]:
    """Rounds of both in turn, each with prompts that neither has seen; the median of the ratios."""
    with tempfile.TemporaryDirectory() as folder:
        config = EngineConfig(model=str(_model(Path(folder))), dtype="float32", max_in_flight=256)
        offline = Offline(config)
        with serving(config) as engine:
            rounds = [_round(engine, offline, n, first=r * n) for r in range(ROUNDS + 1)][1:]
        offline.close()
    served, bare = zip(*rounds, strict=True)
    return {
        "served requests/s": statistics.median(served),
        "offline requests/s": statistics.median(bare),
        "share of offline": statistics.median(a / b for a, b in rounds),
    }


def _round(engine: Engine, offline: Offline, n: int, first: int) -> tuple[float, float]:
    work = calls(n, first)
    start = time.perf_counter()
    assert all(isinstance(outcome, Answer) for outcome in engine.answers(work))
    served = n / (time.perf_counter() - start)
    return served, offline.rate([call.messages[0].content for call in work])


def _model(folder: Path) -> Path:
    seed = Path(launch.__file__).parents[1] / "sandbox" / "seed"
    if (seed / "config.json").is_file():
        return seed
    from tests.faults.tiny_model import save_tiny_model

    return save_tiny_model(folder, width=192, layers=5, vocab=1500)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=("client", "vllm"))
    parser.add_argument("--requests", type=int, default=4000)
    args = parser.parse_args()
    figures: dict[str, float] = {"cores": len(os.sched_getaffinity(0))}
    if args.only != "vllm":
        figures |= bench_client(args.requests)
    if args.only != "client":
        figures |= bench_vllm(args.requests // 8)
    if args.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:32s} {value:10.2f}")


if __name__ == "__main__":
    main()
