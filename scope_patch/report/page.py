"""A report as one page: no script, nothing loaded, everything in the file. `page.html.jinja` says what stands on it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from itertools import pairwise
from json import dumps

from ..errors import UsageError
from .read import Report
from .record import Run, Segment
from .summary import Totals, outcome, verified, verified_rows
from .timeline import LOOKS, REASONS, Timeline, step, timelines

WIDTH, LEFT, RIGHT = 1000, 62, 10
"""Of every picture, in its own units; the template knows them too."""
TOP, ERRORS_HIGH = 26, 110
"""Where a timeline's grid begins, below the strip of decisions; how high errors are drawn."""


def page(report: Report) -> str:
    """The whole page, as UTF-8 text. Raises UsageError without jinja2."""
    try:
        import jinja2
    except ImportError:
        raise UsageError("a page needs jinja2: pip install jinja2; the plain text does without it") from None
    # Whatever a report says is escaped; besides, the page's own policy lets a browser load and run nothing.
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files(__package__).joinpath("page.html.jinja").read_text(encoding="utf-8"))
    run, lines = report.run, timelines(report.run)
    places = {place: (line, alike[0]) for line, alike in lines.items() for place in alike}
    generations = [
        (generation, Totals.of([generation]), [(s, *places[k, n]) for n, s in enumerate(generation.segments, start=1)])
        for k, generation in enumerate(run.generations, start=1)
    ]
    return template.render(
        report=report,
        run=run,
        totals=Totals.of(run.generations, run.omitted),
        generations=generations,
        states={state for line in lines for state in line.states.union(line.modes)},
        reasons={reason for line in lines for reason in line.reasons},
        notes=_notes(run),
        **{each.__name__: each for each in (Errors, Grid, dumps, outcome, step, verified, verified_rows)},
        LOOKS=LOOKS,
        REASONS=REASONS,
    )


def _notes(run: Run) -> Iterable[str]:
    """What the reader must not miss, each once."""
    notes = [("" if run.applied else "nothing was patched in effect: ") + "; ".join(run.all_reasons)]
    notes += [remark for generation in run.generations for remark in generation.remarks]
    for k, generation in enumerate(run.generations, start=1):
        if not generation.finished:
            notes.append(f"generation {k} did not finish: {generation.error or 'still running'}")
    if run.omitted.generations:
        notes.append(f"{run.omitted.generations} generations more are in the sums alone")
    return dict.fromkeys(filter(None, notes))


@dataclass(frozen=True)
class Across:
    """Iterations to the right, to one scale in all pictures of a generation: `longest` fill the width."""

    longest: int

    @property
    def wide(self) -> float:
        """Of one iteration."""
        return (WIDTH - LEFT - RIGHT) / max(self.longest, 1)

    def x(self, iteration: float) -> str:
        """Its left end."""
        return f"{LEFT + self.wide * iteration:.1f}"


@dataclass(frozen=True)
class Grid(Across):
    """A timeline: latent frames upwards."""

    line: Timeline

    @property
    def high(self) -> float:
        """Of one latent frame."""
        return min(max(8 * self.line.frames, 120), 300) / max(self.line.frames, 1)

    @property
    def bottom(self) -> float:
        """Of the grid."""
        return round(TOP + self.high * self.line.frames, 1)

    def y(self, frame: float) -> float:
        """Its lower end."""
        return self.bottom - self.high * frame

    def cells(self) -> dict[str, str]:
        """A path for every state."""
        paths: dict[str, str] = defaultdict(str)
        for state, left, right, low, high in self.line.areas():
            paths[state] += self._box(left, right, self.y(high), self.y(low))
        return paths

    def strip(self, mode: str) -> str:
        """A path for the iterations that were decided so as a whole."""
        return "".join(self._box(i, i + 1, 5, 21) for i, each in enumerate(self.line.modes) if each == mode)

    def _box(self, left: int, right: int, top: float, bottom: float) -> str:
        """Absolute corners, rounded alike in neighbours, so that no gap opens between them."""
        return f"M{self.x(left)} {top:.1f}H{self.x(right)}V{bottom:.1f}H{self.x(left)}z"

    def stairs(self) -> str:
        """Both ends of the interval under way, as one path."""
        path = ""
        for heights in self.line.ends:
            path += f"M{LEFT} {self.y(heights[0]):.1f}"
            for i, (before, height) in enumerate(pairwise(heights), start=1):
                path += f"H{self.x(i)}V{self.y(height):.1f}" if height != before else ""
            path += f"H{self.x(len(heights))}"
        return path


@dataclass(frozen=True)
class Errors(Across):
    """Verified errors of a segment: upwards in powers of ten."""

    segment: Segment
    bound: float

    @cached_property
    def powers(self) -> range:
        """Those that have a line: all that errors and the bound lie between, at least two."""
        known = [each for pair in self.segment.verified for each in (pair.expected, pair.error) if each]
        low, high = _powers(known or [0.01, 0.1])
        if self.bound > 0 and low - 1 <= math.log10(self.bound) <= high + 1:
            low, high = _powers([10.0**low, self.bound, 10.0**high])
        return range(low, max(high, low + 1) + 1)

    def holds(self, error: float) -> bool:
        """Whether it lies between the lines."""
        return 10.0 ** self.powers[0] <= error <= 10.0 ** self.powers[-1]

    def y(self, error: float | None) -> float:
        """At the top where it is no number."""
        low, high = self.powers[0], self.powers[-1]
        share = 1.0 if error is None else (math.log10(max(error, 10.0**low)) - low) / (high - low)
        return 8 + ERRORS_HIGH * (1 - share)


def _powers(errors: Iterable[float]) -> tuple[int, int]:
    """The powers of ten around all of them."""
    logarithms = [math.log10(error) for error in errors]
    return math.floor(min(logarithms)), math.ceil(max(logarithms))
