"""A real HTTP server that speaks just enough of the OpenAI API, and misbehaves at set rates.

    python tests/faults/server.py '{"429": 0.05, "reset": 0.02}'     # prints its port, then serves

Without faults it is the zero-latency stub of the benchmark. For its first `recover_s` seconds it
answers nothing but 5xx; a message with "poison reset" (or another fault) always gets that fault.
What it answers is a function of the request alone (`text_for`, `logprob_for`), so that a test can
tell an answer from an invention. `GET /stats` returns how often each kind of response was given.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
import sys
from collections import Counter
from hashlib import sha256
from typing import ClassVar

FAULTS = ("403", "429", "5xx", "timeout", "reset", "malformed", "truncated", "nan")
HANG_S = 30.0
GARBAGE = [b"<html>oops", b'{"choices": [], "error": "oops"}', b'["oops"]', b"\xff{oops"]


def text_for(prompt: str) -> str:
    """The text that the server answers to a last message."""
    return "echo " + sha256(prompt.encode()).hexdigest()[:12]


def logprob_for(prompt: str, token_id: int) -> float:
    """The log-probability that the server gives a label's token."""
    digest = sha256(f"{token_id}:{prompt}".encode()).digest()
    return -0.001 - int.from_bytes(digest[:2], "big") / 10000


def completion(request: dict, *, number: str | None = None) -> bytes:
    """A chat completion for a request; `number` replaces every log-probability."""
    prompt = request["messages"][-1]["content"]
    choice: dict = {
        "index": 0,
        "message": {"role": "assistant", "content": text_for(prompt)},
        "finish_reason": "stop",
        "logprobs": None,
    }
    if request.get("logprobs"):
        ids = request["logprob_token_ids"]
        top = [{"token": f"token_id:{i}", "logprob": logprob_for(prompt, i)} for i in ids]
        choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    body = json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage})
    if number is not None:
        for token in (choice["logprobs"] or {}).get("content", [{}])[0].get("top_logprobs", []):
            body = body.replace(json.dumps(token["logprob"]), number)
    return body.encode()


def tokens(request: dict) -> bytes:
    """One token per character: enough to resolve labels of one character."""
    text = "\n".join(message["content"] for message in request["messages"])
    return json.dumps({"count": len(text), "tokens": [ord(c) for c in text]}).encode()


def _poison(body: bytes) -> str | None:
    return next((fault for fault in FAULTS if b"poison " + fault.encode() in body), None)


class Faulty(asyncio.Protocol):
    """One connection; requests come one after another."""

    stats: ClassVar[Counter[str]] = Counter()
    rates: ClassVar[dict[str, float]] = {}
    dice = random.Random(0)
    down_until: ClassVar[float] = 0.0

    def __init__(self) -> None:
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            at = head.lower().find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            body = self._buffer[end + 4 : end + 4 + length]
            self._buffer = self._buffer[end + 4 + length :]
            self._respond(head.split(b" ", 2)[1].decode(), body)

    def _respond(self, path: str, body: bytes) -> None:
        if path == "/health":
            return self._send(b"{}")
        if path == "/stats":
            return self._send(json.dumps(self.stats).encode())
        if path == "/tokenize" and b"no tokens" in body:
            return self._misbehave("403", json.loads(body))
        if path == "/tokenize":
            return self._send(tokens(json.loads(body)))
        fault = _poison(body) or self._fault()
        self.stats[fault or "ok"] += 1
        if not fault:
            return self._send(completion(json.loads(body)))
        return self._misbehave(fault, json.loads(body))

    def _fault(self) -> str | None:
        if asyncio.get_running_loop().time() < self.down_until:
            return "5xx"
        draw = self.dice.random()
        for name, rate in self.rates.items():
            if (draw := draw - rate) < 0:
                return name
        return None

    def _misbehave(self, fault: str, request: dict) -> None:
        good = completion(request)
        if fault == "429":
            return self._send(b'{"error": "slow down"}', "429 Too Many", b"Retry-After: 0.1\r\n")
        if fault == "403":
            return self._send(b'{"error": "flagged"}', "403 Forbidden")
        if fault == "5xx":
            return self._send(b"oops", self.dice.choice(["500 Error", "502 Bad", "503 Busy"]))
        if fault == "timeout":
            asyncio.get_running_loop().call_later(HANG_S, self._transport.close)
            return None
        if fault == "reset":
            sock: socket.socket = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return self._transport.abort()
        if fault == "malformed":
            return self._send(self.dice.choice(GARBAGE))
        if fault == "truncated" and self.dice.random() < 0.5:
            return self._send(good[: len(good) // 2])
        if fault == "truncated":
            self._send(good[: len(good) // 2], length=len(good))
            return self._transport.close()
        return self._send(completion(request, number=self.dice.choice(["NaN", "null", "0.25"])))

    def _send(
        self, body: bytes, status: str = "200 OK", extra: bytes = b"", length: int | None = None
    ) -> None:
        self._transport.write(
            b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n%s"
            % (status.encode(), len(body) if length is None else length, extra, body)
        )


async def serve(rates: dict[str, float]) -> None:
    """Listen on a free port, print it, and serve until killed."""
    Faulty.down_until = asyncio.get_running_loop().time() + rates.pop("recover_s", 0.0)
    Faulty.rates = rates
    server = await asyncio.get_running_loop().create_server(Faulty, "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}))
