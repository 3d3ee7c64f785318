"""Which pairs a policy is trained on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlaif.training.examples import Encoder, LeftOut
from rlaif.training.pairs import encoded


def labelled(
    pairs: Path, encode: Encoder, min_margin: float, *, ties: bool
) -> Iterator[dict[str, Any] | LeftOut]:
    """The encoded pairs whose label is at least `min_margin` away from 0.5.

    Hard labels have no place for a tie: without `ties` a label of 0.5 is left out.
    """
    for row in encoded(pairs, encode):
        if isinstance(row, LeftOut):
            yield row
        elif row["target"] - 0.5 < min_margin:
            yield LeftOut("below_min_margin")
        elif row["target"] == 0.5 and not ties:
            yield LeftOut("tie")
        else:
            yield row
