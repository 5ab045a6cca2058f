"""What became of every latent frame at every iteration: the one model behind text, page and figure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from .record import Segment

Interval = tuple[int, int]
NOT_RUN, WAITING, DONE, ALONG, FORCED = " .-+F"
"""States beside the modes C, P and R, which are those of latent frames that are integrated.

The iteration never came; not started yet; finished or given, and left out; forwarded along for the others to see, not
integrated; a clean chunk that must be forwarded, since this writes its keys and values.
"""


class Area(NamedTuple):
    """Cells of one state: iterations [left, right) x latent frames [low, high)."""

    state: str
    left: int
    right: int
    low: int
    high: int


@dataclass(frozen=True)
class Timeline:
    """One segment.

    Attributes:
        frames: latent frames.
        iterations: those the host had in mind; fewer have run where a generation failed.
        columns: for every iteration a text with the state of each latent frame.
        stairs: for every iteration that ran, the interval [start, end) of latent frames under way.
        forwarded: the same, as far as it was forwarded (where it was).
        modes, reasons: of every iteration that ran.
        active: of every iteration, the bounds of the latent frames that are integrated; empty in old reports, whose
            columns show intervals instead.
        note: why intervals are the host's, though ours were asked for.
    """

    frames: int
    iterations: int
    columns: tuple[str, ...]
    stairs: tuple[Interval, ...]
    forwarded: tuple[Interval, ...]
    modes: str
    reasons: tuple[str, ...]
    active: tuple[tuple[int, ...], ...]
    note: str

    @property
    def ran(self) -> int:
        """Iterations that were decided."""
        return len(self.modes)

    @property
    def states(self) -> set[str]:
        """Every state that occurs."""
        return set().union(*self.columns)

    def rows(self) -> Iterator[tuple[Interval, str]]:
        """Latent frames [low, high) that went the same way, and the state of each iteration; lowest frames first."""
        each = ("".join(row) for row in zip(*self.columns, strict=True))
        for row, group in groupby(enumerate(each), key=lambda pair: pair[1]):
            frames = [frame for frame, _ in group]
            yield (frames[0], frames[-1] + 1), row

    def areas(self) -> Iterator[Area]:
        """The grid in rectangles that do not overlap and cover it."""
        for (low, high), row in self.rows():
            left = 0
            for state, group in groupby(row):
                right = left + len(list(group))
                yield Area(state, left, right, low, high)
                left = right


def timeline(segment: Segment) -> Timeline:
    """The timeline of a segment that `load` has checked, or that a run has made."""
    frames = segment.frames or max((end for _, end in segment.intervals), default=0)
    stairs = [_under_way(segment, i) for i in range(len(segment.modes))]
    first = _starts(segment, frames)
    columns = []
    for i in range(segment.iterations):
        if i >= len(segment.modes):
            columns.append(NOT_RUN * frames)
            continue
        column = [WAITING if i < first[frame] else DONE for frame in range(frames)]
        start, end = segment.intervals[i]
        if not segment.active:  # an old report: all that it says
            column[end:] = WAITING * (frames - end)
        letters = segment.slots[i] if segment.slots else segment.modes[i]
        width = segment.chunk if segment.slots else frames
        active = _covered(segment.active[i] if segment.active else segment.intervals[i])
        for frame in range(*stairs[i]):
            letter = letters[(frame - start) // width]
            if frame in active or letter == FORCED:
                column[frame] = letter
            elif letter == "R":
                column[frame] = ALONG
        columns.append("".join(column))
    return Timeline(
        frames,
        segment.iterations,
        tuple(columns),
        tuple(stairs),
        tuple(segment.intervals),
        "".join(segment.modes),
        tuple(segment.reasons),
        tuple(map(tuple, segment.active)),
        segment.note,
    )


def _under_way(segment: Segment, iteration: int) -> Interval:
    """Where a part of the window was forwarded, the interval ends behind that part, but the letters do not."""
    start, end = segment.intervals[iteration]
    return (start, start + len(segment.slots[iteration]) * segment.chunk) if segment.slots else (start, end)


def _covered(bounds: list[int] | Interval) -> set[int]:
    """The latent frames inside bounds [start, end, start, end, ...]."""
    return {frame for k in range(0, len(bounds), 2) for frame in range(bounds[k], bounds[k + 1])}


def _starts(segment: Segment, frames: int) -> list[int]:
    """For every latent frame the iteration at which it starts; 0 for those that never do (they are given)."""
    first = [0] * frames
    for i in reversed(range(len(segment.active))):
        for frame in _covered(segment.active[i]):
            first[frame] = i
    return first
