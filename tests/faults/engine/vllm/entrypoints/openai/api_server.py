"""The server of the stand-in: what it answers is a function of the request alone.

STAND_IN_LOG names a file that gets a line for each request when it arrives: time, fingerprint.
STAND_IN_DELAY are the seconds that each answer takes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import time
from hashlib import sha256
from zlib import crc32

DELAY_S = float(os.environ.get("STAND_IN_DELAY", "0"))
LOG = os.environ.get("STAND_IN_LOG")


def fingerprint(messages: list, max_tokens: int, seed: int | None, labels: bool) -> str:
    """What tells one question from another."""
    return sha256(json.dumps([messages, max_tokens, seed, labels]).encode()).hexdigest()[:24]


def answer(asked: dict) -> bytes:
    """The response to a request, by its hash."""
    labels = bool(asked.get("logprobs"))
    name = fingerprint(asked["messages"], asked["max_tokens"], asked.get("seed"), labels)
    if LOG:
        with open(LOG, "a", encoding="utf-8") as file:
            file.write(f"{time.time()} {name}\n")
    choice: dict = {"index": 0, "finish_reason": "stop", "logprobs": None}
    choice["message"] = {"role": "assistant", "content": f"echo {name[:12]}"}
    if labels:
        ids = asked["logprob_token_ids"]
        top = [
            {"token": f"token_id:{i}", "logprob": -0.01 - int(name[:4], 16) / 1e5 * (i % 7)}
            for i in ids
        ]
        choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage}).encode()


def tokens(asked: dict) -> bytes:
    """One token per word, with the space before it."""
    text = "\n".join(message["content"] for message in asked["messages"])
    ids = [crc32(word.encode()) % 50_000 for word in re.findall(r" ?\w+|\W", text)]
    return json.dumps({"count": len(ids), "tokens": ids}).encode()


async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection; requests come one after another."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            body = await reader.readexactly(length)
            path = head.split(b" ", 2)[1]
            if path == b"/health":
                said = b"{}"
            elif path == b"/tokenize":
                said = tokens(json.loads(body))
            else:
                said = answer(json.loads(body))
                await asyncio.sleep(DELAY_S)
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
            writer.write(head % len(said) + b"\r\n" + said)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    port = parser.parse_known_args()[0].port
    server = await asyncio.start_server(respond, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
