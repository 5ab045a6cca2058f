"""A report as one page: no script, nothing loaded, everything in the file. `page.html.jinja` says what stands on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.resources import files
from itertools import pairwise
from json import dumps
from typing import TYPE_CHECKING

from ..errors import UsageError
from .read import Report
from .record import Verified
from .summary import Totals, notes, outcome, places, verified, verified_rows
from .timeline import LOOKS, MARKS, REASONS, Timeline, ticks, timelines

if TYPE_CHECKING:
    from jinja2 import Template

WIDTH, LEFT, RIGHT = 1000, 62, 10
"""Of every picture, in its own units; the template knows them too."""
TOP, HIGH = 26, 110
"""Where a timeline's grid begins, below the strip of decisions; how high errors are drawn."""


def template(package: str) -> Template:
    """The page of a package of ours. Raises UsageError without jinja2."""
    try:
        import jinja2
    except ImportError:
        raise UsageError("a page needs jinja2: pip install jinja2; the plain text does without it") from None
    # Whatever a report says is escaped; besides, the page's own policy lets a browser load and run nothing.
    strict = jinja2.StrictUndefined
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=strict)
    return environment.from_string(files(package).joinpath("page.html.jinja").read_text(encoding="utf-8"))


def page(report: Report) -> str:
    """The whole page, as UTF-8 text. Raises UsageError without jinja2."""
    run, lines = report.run, timelines(report.run)
    drawn = {place: (line, alike[0]) for line, alike in lines.items() for place in alike}
    generations = [
        (generation, Totals.of([generation]), [(s, *drawn[k, n]) for n, s in enumerate(generation.segments, start=1)])
        for k, generation in enumerate(run.generations, start=1)
    ]
    totals = Totals.of(run.generations, run.omitted)
    return template(__package__).render(
        report=report,
        run=run,
        totals=totals,
        generations=generations,
        states={state for line in lines for state in (*line.boxes, *line.modes)},
        reasons={reason for line in lines for reason in line.reasons},
        notes=list(notes(run, totals)),
        places=places(run.generations),
        **{each.__name__: each for each in (Errors, Grid, dumps, outcome, ticks, verified, verified_rows)},
        LOOKS=LOOKS,
        MARKS=MARKS,
        REASONS=REASONS,
    )


class Across:
    """Iterations to the right; `longest` fill the width, so that all pictures of a generation have one scale."""

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self.wide = (WIDTH - LEFT - RIGHT) / max(longest, 1)

    def x(self, iteration: float) -> str:
        """Its left end."""
        return f"{LEFT + self.wide * iteration:.1f}"


class Grid(Across):
    """A timeline: latent frames upwards."""

    def __init__(self, longest: int, line: Timeline) -> None:
        super().__init__(longest)
        self.line = line
        self.high = min(max(8 * line.frames, 120), 300) / max(line.frames, 1)
        self.bottom = round(TOP + self.high * line.frames, 1)

    def y(self, frame: float, below: float = 0) -> str:
        """Its lower end."""
        return f"{self.bottom - self.high * frame + below:.1f}"

    def cells(self) -> dict[str, str]:
        """A path for every state."""
        return {
            state: "".join(self._box(left, right, self.y(high), self.y(low)) for left, right, low, high in boxes)
            for state, boxes in self.line.boxes.items()
        }

    def strip(self) -> dict[str, str]:
        """A path for every mode that iterations were decided for as a whole."""
        return {mode: "".join(self._box(i, i + 1, "5", "21") for i in at) for mode, at in self.line.strip.items()}

    def _box(self, left: int, right: int, top: str, bottom: str) -> str:
        """Absolute corners, rounded alike in neighbours, so that no gap opens between them."""
        return f"M{self.x(left)} {top}H{self.x(right)}V{bottom}H{self.x(left)}z"

    def stairs(self) -> str:
        """Both ends of the interval under way, as one path."""
        path = ""
        for heights in self.line.ends:
            path += f"M{LEFT} {self.y(heights[0])}"
            for i, (before, height) in enumerate(pairwise(heights), start=1):
                path += f"H{self.x(i)}V{self.y(height)}" if height != before else ""
            path += f"H{self.x(len(heights))}"
        return path


class Errors(Across):
    """Verified errors of a segment: upwards in powers of ten; `bound` is None where it lies far from all of them."""

    def __init__(self, longest: int, verified: Sequence[Verified], bound: float) -> None:
        super().__init__(longest)
        errors = [error for each in verified for error in (each.expected, each.error) if error]
        logarithms = [math.log10(min(max(error, 1e-300), 1e300)) for error in errors]  # 10.0 ** 309 is too much
        low, high = math.floor(min(logarithms, default=-2)), math.ceil(max(logarithms, default=-1))
        level = math.log10(bound) if bound > 0 else -math.inf
        near = low - 1 <= level <= high + 1
        if near:
            low, high = min(low, math.floor(level)), max(high, math.ceil(level))
        self.verified, self.bound = verified, bound if near else None
        self.powers = range(low, max(high, low + 1) + 1)

    def y(self, error: float | None, below: float = 0) -> str:
        """At the top where it is no number."""
        low, high = self.powers[0], self.powers[-1]
        share = 1.0 if error is None else (math.log10(min(max(error, 10.0**low), 10.0**high)) - low) / (high - low)
        return f"{8 + HIGH * (1 - share) + below:.1f}"
