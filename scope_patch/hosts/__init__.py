"""What is known of the hosts' families beside their code: shapes, FLOPs, and schedules from options. Imports no host.

FLOPs are counted as `torch.utils.flop_counter` counts: matrix products, convolutions and attention, two a multiply-add;
norms, activations, rotary embeddings and modulation are left out.
"""

from __future__ import annotations


def linear(rows: int, inputs: int, outputs: int) -> int:
    """A matrix of [rows, inputs] times [inputs, outputs]; a convolution whose patches do not overlap is one too."""
    return 2 * rows * inputs * outputs


def attention(queries: int, keys: int, width: int) -> int:
    """Scores and weighted sum, every query with every key; `width` = query heads times channels a head."""
    return linear(queries, width, keys) + linear(queries, keys, width)
