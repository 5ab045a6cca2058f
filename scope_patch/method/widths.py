"""Few interval widths: a compiled model is compiled once a width, and a CUDA graph is captured once a width.

Ends are rounded up, to widths that occur anyway: more latent frames are left in that have not started, as the host
itself leaves in all of them, and block-causal masks still get whole blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from math import inf


@dataclass
class Widths:
    """The widths of one generation: later segments take those of earlier ones where these are wide enough.

    Attributes:
        most: distinct widths a segment, at least 1; None: as many as there are.
        known: widths that earlier segments were given.
        limited: there would have been more.
    """

    most: int | None = None
    known: set[int] = field(default_factory=set)
    limited: bool = False

    def of_segment(self, counts: Mapping[int, int]) -> dict[int, int]:
        """Width -> the width that it is rounded up to.

        Args:
            counts: width -> iterations of the segment that need it.
        """
        if self.most is None or not counts:
            return {width: width for width in counts}
        widest = max(counts)  # never above: it may be all that the segment has
        targets = sorted({width for width in self.known if width < widest} | {widest})
        if not self.known or widest > max(self.known) or len(targets) > self.most:
            targets = fewest(counts, self.most)
        self.known.update(targets)
        rounded = {width: next(target for target in targets if target >= width) for width in counts}
        self.limited |= any(width != to for width, to in rounded.items())
        return rounded


def fewest(counts: Mapping[int, int], most: int) -> list[int]:
    """Of the widths in `counts`, at most `most` to round up to, ascending, with the fewest additional latent frames.

    Additional ones are counted over all iterations, also those that may be skipped later. Exact, by dynamic programming
    over the sorted widths.
    """
    widths = sorted(counts)
    iterations = [0, *accumulate(counts[width] for width in widths)]
    frames = [0, *accumulate(width * counts[width] for width in widths)]

    def additional(start: int, end: int) -> int:
        """Latent frames, where the widths [start, end) are rounded up to the last of them."""
        return widths[end - 1] * (iterations[end] - iterations[start]) - (frames[end] - frames[start])

    # Of the first so many widths: (additional latent frames, targets), with one more target allowed every time.
    best: list[tuple[float, tuple[int, ...]]] = [(0, ()), *[(inf, ())] * len(widths)]
    for _ in range(min(most, len(widths))):
        best = [best[0]] + [
            min((best[start][0] + additional(start, end), (*best[start][1], widths[end - 1])) for start in range(end))
            for end in range(1, len(best))
        ]
    return list(best[-1][1])
