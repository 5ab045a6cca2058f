"""FLOPs of the layers that networks are made of; two a multiply-add."""

from __future__ import annotations


def linear(rows: int, inputs: int, outputs: int) -> int:
    """A matrix of [rows, inputs] times [inputs, outputs]; a convolution whose patches do not overlap is one too."""
    return 2 * rows * inputs * outputs


def attention(queries: int, keys: int, width: int) -> int:
    """Scores and weighted sum, every query with every key; `width` = query heads times channels a head."""
    return linear(queries, width, keys) + linear(queries, keys, width)
