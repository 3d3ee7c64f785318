"""Several servers of the same model: who gets the next request, and who is down."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from rlaif.errors import EngineError

_PENALTY_S = (1.0, 30.0)  # a failing server is avoided for this long: first, at most


@dataclass(slots=True)
class Server:
    """One base URL and what is known of it."""

    url: str
    in_flight: int = 0
    failures: int = 0  # in a row
    avoid_until: float = 0.0
    refusing_since: float | None = None


class Pool:
    """Chooses the server with the fewest open requests among those that are not failing."""

    def __init__(
        self, urls: tuple[str, ...], grace_s: float, check_alive: Callable[[], None] | None = None
    ) -> None:
        self.servers = [Server(url) for url in urls]
        self.grace_s, self._check_alive = grace_s, check_alive

    def choose(self) -> Server:
        """The least busy healthy server, or the one that is avoided for the shortest time."""
        if len(self.servers) == 1:
            return self.servers[0]
        now = time.monotonic()
        healthy = [server for server in self.servers if server.avoid_until <= now]
        if healthy:
            return min(healthy, key=lambda server: server.in_flight)
        return min(self.servers, key=lambda server: server.avoid_until)

    def worked(self, server: Server) -> None:
        """The server answered; whatever the status was, it is there."""
        server.failures, server.avoid_until, server.refusing_since = 0, 0.0, None

    def failed(self, server: Server) -> None:
        """No answer that can be used: others are preferred for a while."""
        first, most = _PENALTY_S
        server.avoid_until = time.monotonic() + min(most, first * 2.0**server.failures)
        server.failures, server.refusing_since = min(server.failures + 1, 16), None

    def refused(self, server: Server, why: object) -> None:
        """Nobody listens there. Once that holds for all servers for too long, the run ends."""
        if self._check_alive:
            self._check_alive()
        now = time.monotonic()
        since = server.refusing_since or now
        self.failed(server)
        server.refusing_since = since
        down = [s.refusing_since for s in self.servers if s.refusing_since is not None]
        if len(down) == len(self.servers) and now - max(down) >= self.grace_s:
            raise EngineError(
                f"no model server has accepted a connection for {self.grace_s:g} s: {why}",
                where=", ".join(s.url for s in self.servers),
                remedy="start the server, or correct engine.base_urls; then run again: "
                "finished calls are kept",
            )
