"""One progress bar for each batch of model calls, with rate and time left; on a terminal only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(what: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """A bar that says `what`; the function it yields is told how many calls are done."""
    from tqdm import tqdm

    with tqdm(total=total, desc=what, unit=" calls", disable=None, leave=False) as shown:
        yield shown.update
