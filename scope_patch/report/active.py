"""Which latent frames are integrated at every iteration, short enough for a report of a long video."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def active_ranges(mask: Sequence[Sequence[bool]], frames: int = 1) -> list[list[int]]:
    """The bounds [start, end, start, end, ...] of what is set in each row, usually one pair.

    Args:
        mask: update mask, [iterations][slots].
        frames: latent frames a slot; the bounds count latent frames.
    """
    known: dict[tuple[bool, ...], list[int]] = {}  # rows repeat: a window stands still for most of its steps
    made = []
    for row in map(tuple, mask):
        if row not in known:
            padded = (False, *row, False)
            known[row] = [slot * frames for slot, (one, other) in enumerate(pairwise(padded)) if one != other]
        made.append(known[row])
    return made
