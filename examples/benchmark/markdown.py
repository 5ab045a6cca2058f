"""Tables and numbers in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable

from .sums import Mean


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def plus_minus(value: Mean | None, places: int) -> str:
    """`33.85 ± 4.05`; "" for no value."""
    if value is None:
        return ""
    return f"{value.mean:.{places}f}" + ("" if math.isnan(value.error) else f" ± {value.error:.{places}f}")
