"""`Engine`: calls in, outcomes out, in order, with as many requests open as the config allows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator

from rlaif.config.engine import EngineConfig
from rlaif.engine import wire
from rlaif.engine.bulk import Bulk, Progress, Store
from rlaif.engine.counts import Counts
from rlaif.engine.labels import Labels
from rlaif.engine.link import Link
from rlaif.engine.model import identity
from rlaif.engine.pool import Pool
from rlaif.errors import ConfigError
from rlaif.records import Call, Outcome, Unanswered


class Engine:
    """A client of one model, served at one or several URLs.

    Stages ask through a `Model`. The connections of `ask` belong to the event loop that it is
    called from; `aclose` closes them.
    """

    def __init__(
        self,
        config: EngineConfig,
        base_urls: tuple[str, ...] = (),
        *,
        check_alive: Callable[[], None] | None = None,
    ) -> None:
        self.config, self.base_urls = config, base_urls or config.base_urls
        if not self.base_urls:
            raise ConfigError(
                "no server to talk to",
                where="engine.base_urls",
                remedy="use `with serving(config) as engine`, which starts one",
            )
        self.counts = Counts()
        self._check_alive = check_alive
        self._name = config.served_name or config.model
        self._labels = Labels(self._name)
        self._identity: str | None = None
        self._links: dict[asyncio.AbstractEventLoop, Link] = {}

    @property
    def identity(self) -> str:
        """What the completions store knows the model by."""
        if self._identity is None:
            self._identity = identity(self.config)
        return self._identity

    def answers(
        self, calls: Iterable[Call], *, store: Store | None = None, progress: Progress | None = None
    ) -> Iterator[Outcome]:
        """The outcome of each call, in order: `zip(calls, engine.answers(calls))`.

        Takes any iterable and stays a bounded number of calls ahead. Raises EngineError if the
        servers are gone, ConfigError if a label cannot be read; a call that fails is Unanswered.
        """
        width, totals = self.config.max_in_flight, (self.counts,)
        bulk = Bulk(self.ask, lambda: self.identity, totals, store, progress, width=width)
        return bulk.answers(calls, self.aclose)

    async def aclose(self) -> None:
        """Close the connections that belong to the running event loop."""
        if link := self._links.pop(asyncio.get_running_loop(), None):
            await link.close()

    async def ask(self, call: Call, counts: Counts) -> Outcome:
        """The outcome of one call, counted in `counts`."""
        link = self._link()
        ids = await self._labels.resolve(link, call, counts) if call.labels else ()
        if isinstance(ids, Unanswered):
            outcome: Outcome = ids
        else:
            outcome = await link.post(
                "/v1/chat/completions",
                wire.encode(call, self._name, ids),
                lambda content: wire.decode(content, ids),
                counts,
            )
        counts.add(outcome)
        return outcome

    def _link(self) -> Link:
        loop = asyncio.get_running_loop()
        link = self._links.get(loop)
        if link is None:
            pool = Pool(self.base_urls, self.config.grace_s, self._check_alive)
            link = self._links[loop] = Link(self.config, pool)
        return link
