"""One HTTP session to the servers of a model: an attempt, its retries, its deadline.

Retried: 429, 5xx, resets, timeouts (exponential backoff with full jitter) and, twice, responses
that cannot be read. Not retried: other 4xx. A server that refuses connections costs no retry; the
pool ends the run when all of them do for too long.

A call that has failed to its last retry, or is forbidden (403), may be at fault itself, or the
servers may be down. So a question that any model can answer is asked: if nothing is answered for
too long, that is an outage, and the run ends; if something is, the call is tried once more, and
then given up.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, NoReturn, TypeVar

from rlaif.config.engine import EngineConfig
from rlaif.engine import wire
from rlaif.engine.counts import Counts
from rlaif.engine.pool import Pool, Server
from rlaif.errors import EngineError, NotOffered
from rlaif.records import Call, Message, Reason, Sampling, Unanswered

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")

_BACKOFF_S = (0.25, 20.0)  # the first wait's upper bound, and the largest
_UNREADABLE_RETRIES = 2
_CHAT = "/v1/chat/completions"
_EASY = Call((Message("user", "Hello"),), Sampling(temperature=0.0, max_tokens=1))
_EASY_EVERY_S = 1.0
_OF_AN_OUTAGE = (Reason.UNAVAILABLE, Reason.MALFORMED, Reason.CANCELLED)
_TOO_LONG = ("maximum context length", "max_model_len", "maximum model length", "context_length")


class Transient(Exception):
    """An attempt failed in a way that may pass; `wait_s` is what the server asked for, `cost` how
    many retries it uses up."""

    def __init__(self, detail: str, wait_s: float = 0.0, *, cost: float = 1) -> None:
        self.detail, self.wait_s, self.cost = detail, wait_s, cost
        super().__init__(detail)


class Rejected(Exception):
    """The server will not serve this request; asking again would not help."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(detail)


class Link:
    """Posts JSON to the pool and hands the bodies of good responses to a reader."""

    def __init__(self, config: EngineConfig, pool: Pool) -> None:
        import aiohttp
        from yarl import URL

        self._parsed = lru_cache(64)(URL)  # parsing takes as long as parsing the response
        self._within = aiohttp.ClientTimeout
        self._patience = self._within(config.timeout_s)
        self._errors = (aiohttp.ClientError, ConnectionError, TimeoutError, OSError)
        self._refusals = (aiohttp.ClientConnectorError, ConnectionRefusedError)
        self._config, self._pool = config, pool
        self._slots = asyncio.Semaphore(config.max_in_flight)
        self._session = _session(config)
        self.one_at_a_time = asyncio.Lock()  # for what is looked up once, by who needs it first
        self._easy = wire.encode(_EASY, config.served_name or config.model)
        self._looking = asyncio.Lock()
        self._heard = self._found_down = 0.0  # when the servers last answered, or were found down

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def post(
        self, path: str, body: bytes, read: Callable[[bytes], T], counts: Counts
    ) -> T | Unanswered:
        """What `read` makes of the response, or why there is none; every attempt is counted.

        Raises:
            EngineError: the servers answer nothing any more, or will not serve us.
        """
        async with self._slots:
            outcome = await self._tried(path, body, read, counts, self._config.retries)
            if isinstance(outcome, Unanswered) and outcome.reason in _OF_AN_OUTAGE:
                await self._check_answering(outcome, counts)
                again = await self._tried(path, body, read, counts, 0)
                return outcome if isinstance(again, Unanswered) else again
            return outcome

    async def _tried(
        self, path: str, body: bytes, read: Callable[[bytes], T], counts: Counts, retries: int
    ) -> T | Unanswered:
        deadline = time.monotonic() + self._config.deadline_s
        failures = unreadable = 0.0
        while True:
            counts.sent += 1
            try:
                answer = await self._attempt(path, body, read, deadline)
                self._heard = time.monotonic()
                return answer
            except Rejected as error:
                self._heard = time.monotonic()
                return Unanswered(error.reason, error.detail)
            except wire.BadResponse as error:
                unreadable += 1
                wait_s, last = 0.0, Unanswered(error.reason, error.detail)
            except Transient as error:
                failures += error.cost
                wait_s, last = error.wait_s, Unanswered(Reason.UNAVAILABLE, error.detail)
            if unreadable > _UNREADABLE_RETRIES or failures > retries:
                return last
            wait_s += _jitter(failures + unreadable)
            if time.monotonic() + wait_s >= deadline:
                return self._too_late(last)
            await asyncio.sleep(wait_s)

    async def _check_answering(self, last: Unanswered, counts: Counts) -> None:
        """Return once any call is answered; an error if none is for `grace_s`."""
        since, grace_s = time.monotonic(), self._config.grace_s
        async with self._looking:  # one looks for all
            while max(self._heard, self._found_down) < since:
                await self._tried(_CHAT, self._easy, wire.decode, counts, 0)
                if self._heard >= since:
                    return
                if time.monotonic() - since >= grace_s:
                    self._found_down = time.monotonic()
                else:
                    await asyncio.sleep(min(_EASY_EVERY_S, grace_s))
        if self._heard < since:
            raise EngineError(
                f"no model server has answered anything for {grace_s:g} s. "
                f"The last attempt of a call: {last.detail}",
                where=", ".join(server.url for server in self._pool.servers),
                remedy="fix the server, or raise engine.grace_s; then run again: "
                "finished calls are kept",
            )

    def _too_late(self, last: Unanswered) -> Unanswered:
        return Unanswered(
            Reason.CANCELLED,
            f"no answer within the deadline of {self._config.deadline_s:g} s; raise "
            f"engine.deadline_s or lower engine.max_in_flight. The last attempt: {last.detail}",
        )

    async def _attempt(
        self, path: str, body: bytes, read: Callable[[bytes], T], deadline: float
    ) -> T:
        server = self._pool.choose()
        url = server.url + path
        server.in_flight += 1
        left = max(deadline - time.monotonic(), 1e-3)  # to aiohttp, 0 is no limit
        patience = self._patience if left > self._config.timeout_s else self._within(left)
        try:
            async with self._session.post(
                self._parsed(url), data=body, timeout=patience
            ) as response:
                content = await response.read()
        except self._refusals as error:
            self._pool.refused(server, error)
            raise Transient(f"{url}: {error}", cost=0) from None
        except self._errors as error:
            self._pool.failed(server)
            raise Transient(f"{url}: {_named(error)}") from None
        finally:
            server.in_flight -= 1
        if response.status != 200:
            self._raise_for(response, server, url, content)
        try:
            answer = read(content)
        except wire.BadResponse as error:
            self._pool.failed(server)
            raise wire.BadResponse(error.reason, f"{url}: {error.detail}") from None
        self._pool.worked(server)
        return answer

    def _raise_for(
        self, response: aiohttp.ClientResponse, server: Server, url: str, content: bytes
    ) -> NoReturn:
        status = response.status
        detail = f"{url}: HTTP {status}: {wire.excerpt(content)}"
        if status >= 500 or status in (408, 425, 429):
            self._pool.failed(server)
            raise Transient(detail, _retry_after(response.headers.get("Retry-After")))
        self._pool.worked(server)
        if status == 403 and url.endswith(_CHAT):  # the key, or this one prompt at a gateway
            raise Transient(detail, cost=math.inf)
        if status in (401, 403, 404, 405):
            kind = EngineError if status == 401 else NotOffered
            raise kind(wire.excerpt(content), where=f"{url}: HTTP {status}", remedy=_fix(status))
        if status == 413 or any(mark in detail for mark in _TOO_LONG):
            raise Rejected(Reason.TOO_LONG, detail)
        raise Rejected(Reason.REFUSED, detail)


def _session(config: EngineConfig) -> aiohttp.ClientSession:
    import aiohttp

    headers = {"Content-Type": "application/json"}
    if key := config.api_key():
        headers["Authorization"] = f"Bearer {key}"
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=headers,
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept-Encoding"),
    )


def _jitter(failures: float) -> float:
    first, most = _BACKOFF_S
    return random.uniform(0, min(most, first * 2.0 ** (failures - 1)))


def _retry_after(header: str | None) -> float:
    """Seconds to wait; the form with a date is rare and treated as absent."""
    try:
        return min(max(float(header or 0), 0.0), 300.0)
    except ValueError:
        return 0.0


def _named(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no response in time; raise engine.timeout_s if the server is merely busy"
    return f"{type(error).__name__} {error}".strip()


def _fix(status: int) -> str:
    if status == 401:
        return "check the key in the variable that engine.api_key_env names"
    return "check engine.base_urls and engine.served_name against the server's /v1/models"
