"""Tables, as commands print them."""

from __future__ import annotations

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]], *, left: int | None = None) -> str:
    """Rows with aligned columns: the first `left` of them to the left and the rest to the right;
    without `left`, all to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligns = ["<" if left is None or n < left else ">" for n in range(len(widths))]
    return "\n".join("  ".join(map("{:{}{}}".format, row, aligns, widths)).rstrip() for row in rows)
