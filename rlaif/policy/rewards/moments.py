"""Running mean and standard deviation, merged over the processes of a training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")
Triple = Sequence[float]  # n, mean, sum of squared differences from the mean


class Moments:
    """Welford's updates, by batches (Chan, Golub and LeVeque 1979, equations 2.1)."""

    def __init__(self, n: float = 0, mean: float = 0.0, squares: float = 0.0) -> None:
        self.n, self.mean, self._squares = n, mean, squares

    def add(self, values: Iterable[float]) -> None:
        """A batch of this process, with those that the others add at the same time."""
        for triple in of_all_processes(_moments(list(values))):
            self._merge(*triple)

    def _merge(self, n: float, mean: float, squares: float) -> None:
        total = self.n + n
        if not n:
            return
        apart = mean - self.mean
        self._squares += squares + apart**2 * self.n * n / total
        self.mean += apart * n / total
        self.n = total

    @property
    def std(self) -> float:
        """The standard deviation of the population seen; 1 where nothing varies yet."""
        return self._varies or 1.0

    @property
    def _varies(self) -> float:
        """The deviation; 0 where it is of the size of rounding."""
        found = math.sqrt(self._squares / self.n) if self.n else 0.0
        return found if found > 1e-9 * abs(self.mean) else 0.0

    def standard(self, value: float) -> float:
        """The value with the mean taken off, in standard deviations."""
        return (value - self.mean) / self.std

    def state(self) -> list[float]:
        """The arguments that make it anew."""
        return [self.n, self.mean, self._squares]

    def json(self) -> dict[str, float]:
        """`n`, `mean` and `std`."""
        return {"n": self.n, "mean": self.mean, "std": self._varies}


def _moments(values: list[float]) -> Triple:
    if not values:
        return 0, 0.0, 0.0
    mean = math.fsum(values) / len(values)
    return len(values), mean, math.fsum((value - mean) ** 2 for value in values)


def of_all_processes(mine: T) -> list[T]:
    """What every process of the training has here, in the same order everywhere."""
    from accelerate import PartialState
    from accelerate.utils import gather_object

    return gather_object([mine]) if PartialState().num_processes > 1 else [mine]
