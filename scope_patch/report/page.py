"""A report as one page (no script, nothing loaded, everything in the file), and its timelines as one figure for print.

`page.html.jinja` says what stands on the page; the figure is drawn by matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.resources import files
from io import BytesIO
from itertools import pairwise
from json import dumps
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .read import Report
from .record import Verified
from .summary import Totals, notes, outcome, places, verified, verified_rows
from .timeline import LOOKS, MARKS, NOT_RUN, REASONS, Timeline, ticks, timelines

if TYPE_CHECKING:
    from jinja2 import Template
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, LEFT, RIGHT = 1000, 62, 10  # of every picture of a page, in its own units; the template knows them too
INK, SOFT = "#1A1D21", "#5A616B"
STROKES = {"P": "#7A5200", "C": "#0B6B50", "F": "#FFFFFF"}  # of the hatches
WIDE, EACH, HEAD, FOOT, DOTS = 7.2, 1.65, 0.72, 0.62, 200
"""Of a figure: inches across, for each timeline, above and below them; dots per inch."""


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
        report=report, run=run, totals=totals, generations=generations, places=places(run.generations),
        states={state for line in lines for state in (*line.boxes, *line.modes)},
        reasons={reason for line in lines for reason in line.reasons}, notes=list(notes(run, totals)),
        **{each.__name__: each for each in (Errors, Grid, dumps, outcome, ticks, verified, verified_rows)},
        LOOKS=LOOKS, MARKS=MARKS, REASONS=REASONS,
    )  # fmt: skip


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
        self.bottom = round(26 + self.high * line.frames, 1)  # the grid begins below the strip of decisions

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
        return f"{8 + 110 * (1 - share) + below:.1f}"


def png(report: Report) -> bytes:
    """The figure. Raises UsageError without matplotlib, or where there is nothing to draw."""
    try:
        import matplotlib
    except ImportError:
        raise UsageError(
            "a PNG needs matplotlib: pip install 'scope-patch[report]'; --html and the plain text do without it"
        ) from None
    from matplotlib.figure import Figure

    lines = {line: places for line, places in timelines(report.run).items() if line.modes}
    if not lines:
        raise UsageError("there is no timeline to draw: no denoise loop was entered; the plain text says why")
    shown = list(lines.items())[:12]  # the title says how many more there are
    several = sum(map(len, lines.values())) > 1
    longest = max(line.iterations for line, _ in shown)
    head = HEAD if several else HEAD - 0.1  # a single timeline has no title of its own
    high = head + EACH * len(shown) + FOOT
    # A reader's own settings (usetex, other hatches) are not ours to follow; a dollar in a name is a dollar.
    ours: Any = {"font.size": 7.5, "axes.edgecolor": SOFT, "axes.linewidth": 0.6, "hatch.linewidth": 0.5}
    ours |= {f"{axis}tick.major.{name}": size for axis in "xy" for name, size in (("width", 0.6), ("size", 2.5))}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**ours, "text.parse_math": False})
        figure = Figure(figsize=(WIDE, high), dpi=DOTS)
        axes = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
        for axis, (line, places) in zip(axes, shown, strict=True):
            generation, segment = places[0]
            alike = f", and {len(places) - 1} more alike" if len(places) > 1 else ""
            _draw(axis, line, longest, f"generation {generation}, segment {segment}{alike}" if several else "")
        axes[-1].set_xlabel(shown[-1][0].words.step, labelpad=1)
        _title(figure, report, high, len(lines) - len(shown))
        _legend(figure, [line for line, _ in shown])
        figure.subplots_adjust(left=0.08, right=0.99, top=1 - head / high, bottom=(FOOT + 0.2) / high, hspace=0.5)
        buffer = BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})  # the same bytes from the same report
    return buffer.getvalue()


def _draw(axis: Axes, line: Timeline, longest: int, name: str) -> None:
    """One timeline; all of a figure have one scale along the iterations."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    across = axis.get_xaxis_transform()  # x counts iterations, y is a share of the height
    for state, boxes in sorted(line.boxes.items()):
        if state != NOT_RUN:
            shapes = [Rectangle((left, low), right - left, high - low) for left, right, low, high in boxes]
            axis.add_collection(PatchCollection(shapes, **_paint(state)))
    for mode, at in line.strip.items():
        shapes = [Rectangle((i, 1.03), 1, 0.09) for i in at]
        axis.add_collection(PatchCollection(shapes, **_paint(mode), transform=across, clip_on=False), autolim=False)
    for heights in reversed(line.ends):
        for colour, width in (("white", 2.4), (INK, 1.0)):
            axis.step(range(line.ran + 1), [*heights, heights[-1]], where="post", color=colour, linewidth=width)
    for reason, (mark, _) in MARKS.items():
        middles = [i + 0.5 for i in line.places(reason)]
        axis.plot(middles, [-0.055] * len(middles), mark, color=INK, markersize=2.2, transform=across, clip_on=False)
    if line.ran < line.iterations:
        axis.axvline(line.ran, color=SOFT, linewidth=0.7, linestyle=(0, (4, 3)))
        if line.iterations - line.ran > 0.12 * longest:
            words, middle = LOOKS[NOT_RUN].name if line.rest == "ended" else line.rest, (line.ran + line.iterations) / 2
            axis.text(middle, line.frames / 2, words, ha="center", va="center", color=SOFT)
    axis.set(xlim=(0, longest), ylim=(0, line.frames), ylabel="image" if line.steps else "latent frame")
    iterations, frames = ticks(line.iterations, 14, longest), ticks(line.frames, 6, line.frames)
    axis.set_xticks([i + 0.5 for i in iterations], [str(i) for i in iterations])
    axis.set_yticks([frame + 0.5 for frame in frames], [str(frame) for frame in frames])
    axis.tick_params(axis="x", length=0, pad=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines["bottom"].set_bounds(0, line.iterations)
    axis.text(-0.007, 1.075, "decision", transform=axis.transAxes, ha="right", va="center", color=SOFT, fontsize=6.5)
    axis.set_title(name, loc="left", fontsize=7.5, color=SOFT, pad=15)


def _paint(state: str) -> dict[str, Any]:
    look = LOOKS[state]
    edge, hatch = STROKES.get(state, look.colour), look.hatch or None
    return {"facecolor": look.colour, "edgecolor": edge, "hatch": hatch, "linewidth": 0, "antialiased": False}


def _title(figure: Figure, report: Report, high: float, left_out: int) -> None:
    totals = Totals.of(report.run.generations, report.run.omitted)
    words = totals.words
    title = ": ".join(filter(None, [", ".join(report.run.hosts) or "no host", totals.less_work]))
    below = f"{words.forwards} {totals.forwards}, {words.slots} {totals.slots}; {words.steps}: "
    below += ", ".join(f"{totals.modes[mode]} {LOOKS[mode].name}" for mode in "CPR")
    below += f"; {left_out} more timelines are not shown" if left_out else ""
    figure.text(0.01, 1 - 0.07 / high, title, fontsize=9.5, fontweight="bold", va="top", color=INK)
    figure.text(0.01, 1 - 0.25 / high, below, color=SOFT, va="top")


def _legend(figure: Figure, lines: Sequence[Timeline]) -> None:
    """States first, row by row; then the staircase and the marks that occur."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    keys: list[Any] = [
        Patch(**{**_paint(state), "linewidth": 0.4, "edgecolor": STROKES.get(state, SOFT)}, label=look.name)
        for state, look in LOOKS.items()
        if state != NOT_RUN and any(state in line.boxes for line in lines)
    ]
    keys.append(Line2D([], [], color=INK, linewidth=1.0, label="interval under way"))
    for reason, (mark, _) in MARKS.items():
        if any(reason in line.reasons for line in lines):
            keys.append(Line2D([], [], color=INK, marker=mark, markersize=3, linewidth=0, label=reason))
    layout: Any = {"bbox_to_anchor": (0.5, 0), "ncols": -(-len(keys) // 2), "handlelength": 2.2, "columnspacing": 1.4}
    figure.legend(handles=keys, loc="lower center", frameon=False, **layout)
