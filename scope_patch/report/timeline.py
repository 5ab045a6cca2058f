"""What became of every latent frame at every iteration: the one model behind text, page and figure, and how it looks.

Colours are Okabe and Ito's, which colour-blind readers tell apart. A darker state costs more work, and each state that
matters has a pattern of its own, so that a grey print tells the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count, groupby
from typing import NamedTuple

from .record import PARTLY, WORDS, Run, Segment, Words

Interval = tuple[int, int]
NOT_RUN, UNPATCHED, WAITING, DONE, ALONG, FORCED = " u.-+F"
"""States beside the modes C, P and R, which are those of latent frames that are integrated."""


class Look(NamedTuple):
    """A state: its name, what it means, its class on the page, its colour on white, and matplotlib's hatch."""

    name: str
    meaning: str
    css: str
    colour: str
    hatch: str = ""


LOOKS = {
    "R": Look("recomputed", "the DiT ran", "R", "#0072B2"),
    "P": Look("predicted", "extrapolated from the last velocities", "P", "#F0B43C", "////"),
    "C": Look("cached", "the last velocity again", "C", "#A6DCC9", "...."),
    FORCED: Look("clean chunk", "finished; forced along, to cache its keys and values", "F", "#B3568F", "xxxx"),
    ALONG: Look(
        "forwarded along", "finished or not started; the DiT saw it, it was not integrated", "along", "#B9D3E6"
    ),
    DONE: Look("left out", "finished or given", "done", "#E2E4E7"),
    WAITING: Look("not started", "not under way yet", "wait", "#FFFFFF"),
    UNPATCHED: Look("unpatched", "the host's own from here on", "own", "#F3EAE3"),
    NOT_RUN: Look("did not run", "the generation ended before", "none", "#FFFFFF"),
}
REASONS = {
    "growth": ("g", "new latent frames came under way"),
    "history": ("h", "too few velocities known to predict from"),
    "horizon": ("m", "the limit of skipped steps in a row was reached"),
    "threshold": (".", "the accumulated change, against the thresholds"),
    "plan": (".", "placed where skipping errs least"),
    "forced": ("f", "the host needs this forward for more than its velocity"),
    "context": ("c", "a younger chunk is recomputed, and sees this one"),
    "guard": ("!", "the history could not be used"),
    "verify": ("v", "run to verify its prediction, or because another erred too much"),
}
"""Why an iteration was decided so: a letter, and what it means."""
MARKS = {
    "growth": ("^", "m0-4l4 8h-8z"),
    "horizon": ("o", "m-3.2 0a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0-6.4 0z"),
    "forced": ("D", "m0-4l4 4-4 4-4-4z"),
    "guard": ("x", "m-3.2-3.2l6.4 6.4m0-6.4l-6.4 6.4"),
    "verify": ("s", "m-3.2-3.2h6.4v6.4h-6.4z"),
}
"""Reasons that are marked below a timeline, by matplotlib's letter and a path around a point; others are ordinary."""


@dataclass(frozen=True)
class Timeline:
    """One segment; equal to another's where the same was decided.

    Attributes:
        frames: latent frames.
        iterations: those the host had in mind; fewer have run under us where a generation failed, or we did.
        columns: for every iteration a text with the state of each latent frame.
        stairs: for every iteration that ran, the interval [start, end) of latent frames under way.
        forwarded: the same, as far as it was forwarded (where it was).
        modes, reasons: of every iteration that ran.
        steps: what iterations are, see `Segment`.
    """

    frames: int
    iterations: int
    columns: tuple[str, ...]
    stairs: tuple[Interval, ...]
    forwarded: tuple[Interval, ...]
    modes: str
    reasons: tuple[str, ...]
    steps: str = ""

    @property
    def words(self) -> Words:
        return WORDS[self.steps]

    @property
    def ran(self) -> int:
        """Iterations that were decided."""
        return len(self.modes)

    @property
    def rest(self) -> str:
        """What became of the iterations that were not decided; "" where there are none."""
        return "" if self.ran == self.iterations else "unpatched" if self.columns[-1].startswith(UNPATCHED) else "ended"

    @property
    def ends(self) -> list[list[int]]:
        """Start and end of the interval under way, where they are no line along the bottom."""
        return [heights for heights in ([each[side] for each in self.stairs] for side in (0, 1)) if any(heights)]

    def places(self, reason: str) -> list[int]:
        return [i for i, each in enumerate(self.reasons) if each == reason]

    def rows(self) -> Iterator[tuple[Interval, str]]:
        """Latent frames [low, high) that went the same way, and the state of each iteration; lowest frames first."""
        each = ("".join(row) for row in zip(*self.columns, strict=True))
        for row, group in groupby(enumerate(each), key=lambda pair: pair[1]):
            frames = [frame for frame, _ in group]
            yield (frames[0], frames[-1] + 1), row

    @cached_property
    def boxes(self) -> dict[str, list[tuple[int, int, int, int]]]:
        """By state, rectangles that cover each cell once: iterations [left, right), latent frames [low, high)."""
        boxes: dict[str, list[tuple[int, int, int, int]]] = {}
        for (low, high), row in self.rows():
            for state, group in groupby(range(len(row)), key=row.__getitem__):
                iterations = list(group)
                boxes.setdefault(state, []).append((iterations[0], iterations[-1] + 1, low, high))
        return boxes

    @property
    def strip(self) -> dict[str, list[int]]:
        """By mode, the iterations that were decided so as a whole."""
        return {mode: [i for i, each in enumerate(self.modes) if each == mode] for mode in sorted(set(self.modes))}


def timeline(segment: Segment, rest: str = NOT_RUN) -> Timeline:
    """Of a segment that `read` has checked, or a run has made. `rest`: the state of iterations that are not decided."""
    frames = segment.frames or max((end for _, end in segment.intervals), default=0)
    ranges = [zip(bounds[::2], bounds[1::2], strict=True) for bounds in segment.active or segment.intervals]
    active = [{frame for low, high in row for frame in range(low, high)} for row in ranges]
    # The iteration at which each latent frame starts; 0 for those that never do: they are given.
    first = {frame: i for i in reversed(range(len(segment.active))) for frame in active[i]}
    stairs, columns = [], []
    for i, (start, end) in enumerate(segment.intervals):
        column = [WAITING if i < first.get(frame, 0) else DONE for frame in range(frames)]
        if not segment.active:  # an old report: its intervals are all that it says
            column[end:] = WAITING * (frames - end)
        chunks, width = (segment.slots[i], segment.chunk) if segment.slots else (segment.modes[i], end - start)
        letters = "".join(letter * width for letter in chunks)
        for frame, letter in enumerate(letters, start):
            if frame in active[i] or letter == FORCED:
                column[frame] = letter
            elif letter == "R":
                column[frame] = ALONG
        # Where a part of the window was forwarded, the interval ends behind that part, but the letters do not.
        stairs.append((start, start + len(letters)))
        columns.append("".join(column))
    columns += [rest * frames] * (segment.iterations - len(columns))
    rows = tuple(columns), tuple(stairs), tuple(segment.intervals), "".join(segment.modes), tuple(segment.reasons)
    return Timeline(frames, segment.iterations, *rows, segment.steps)


def timelines(run: Run) -> dict[Timeline, list[tuple[int, int]]]:
    """Those that differ, each with the (generation, segment) pairs that went so, counted from 1."""
    alike: dict[Timeline, list[tuple[int, int]]] = {}
    for k, generation in enumerate(run.generations, start=1):
        for n, segment in enumerate(generation.segments, start=1):
            rest = UNPATCHED if generation.status == PARTLY and generation.finished else NOT_RUN
            alike.setdefault(timeline(segment, rest), []).append((k, n))
    return alike


def ticks(end: int, most: int, scale: int) -> range:
    """From 0 on and below `end`, so that `scale` has at most `most` of them."""
    return range(0, end, step(scale, most))


def step(length: float, most: int) -> int:
    """The distance of ticks, 1, 2 or 5 times a power of ten, so that there are at most `most` of them (at least 1)."""
    sizes: Iterator[int] = (factor * 10**power for power in count() for factor in (1, 2, 5))
    return next(size for size in sizes if length / size <= most)
