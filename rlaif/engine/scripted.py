"""`ScriptedEngine`: the engine's interface with answers from a function or a mapping.

    engine = ScriptedEngine(lambda call: "The reply." if not call.labels else (0.9, 0.1))
    engine = ScriptedEngine({"the last message": "its reply"})

For tests and examples: no model, no server, the same answers every time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from rlaif.engine.bulk import Bulk, Progress, Store
from rlaif.engine.counts import Counts
from rlaif.errors import ConfigError
from rlaif.records import Answer, Call, Outcome

Reply = Outcome | str | Sequence[float]
"""An outcome as it is; or a text; or, for a call with labels, the probability of each."""


class ScriptedEngine:
    """Answers every call from a script, and remembers the calls in `asked`."""

    def __init__(
        self, script: Callable[[Call], Reply] | Mapping[str, Reply], *, identity: str = "scripted"
    ) -> None:
        self._script = script
        self.identity = identity
        self.counts = Counts()
        self.asked: list[Call] = []

    def answers(
        self, calls: Iterable[Call], *, store: Store | None = None, progress: Progress | None = None
    ) -> Iterator[Outcome]:
        """The outcome of each call, in order."""
        bulk = Bulk(self.ask, lambda: self.identity, (self.counts,), store, progress)
        return bulk.answers(calls, self.aclose)

    async def aclose(self) -> None:
        """Nothing to close."""

    async def ask(self, call: Call, counts: Counts) -> Outcome:
        """The outcome of one call, counted in `counts`."""
        self.asked.append(call)
        counts.sent += 1
        outcome = _outcome(call, self._reply(call))
        counts.add(outcome)
        return outcome

    def _reply(self, call: Call) -> Reply:
        if callable(self._script):
            return self._script(call)
        last = call.messages[-1].content
        if last not in self._script:
            raise ConfigError(
                f"no answer in the script for {last[:80]!r}",
                where="ScriptedEngine",
                remedy="add the call's last message to the mapping",
            )
        return self._script[last]


def _outcome(call: Call, reply: Reply) -> Outcome:
    if isinstance(reply, str):
        return _answer(call, reply)
    if isinstance(reply, Sequence):
        return _labelled(call, reply)
    return reply


def _labelled(call: Call, probabilities: Sequence[float]) -> Answer:
    if len(probabilities) != len(call.labels) or not all(0 < p <= 1 for p in probabilities):
        raise ConfigError(
            f"{len(call.labels)} labels {call.labels} got the probabilities {probabilities}",
            where="ScriptedEngine",
            remedy="script one probability in (0, 1] for each label",
        )
    best = max(range(len(probabilities)), key=probabilities.__getitem__)
    return _answer(call, call.labels[best], tuple(map(math.log, probabilities)))


def _answer(call: Call, text: str, logprobs: tuple[float, ...] = ()) -> Answer:
    """Token counts are words, which is near enough for a script."""
    prompt = sum(len(message.content.split()) for message in call.messages)
    return Answer(text, "length" if call.labels else "stop", prompt, len(text.split()), logprobs)
