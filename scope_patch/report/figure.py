"""The timelines as one figure for print, by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .read import Report
from .summary import MODES, Totals
from .timeline import LOOKS, MARKS, NOT_RUN, Timeline, ticks, timelines

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 12
"""Timelines in one figure; the title says how many more there are."""
INK, SOFT = "#1A1D21", "#5A616B"
STROKES = {"P": "#7A5200", "C": "#0B6B50", "F": "#FFFFFF"}
"""Colours of the hatches."""
WIDE, HIGH, HEAD, FOOT, DOTS = 7.2, 1.65, 0.72, 0.62, 200
"""Inches across, for each timeline, above and below them; dots per inch."""


def png(report: Report) -> bytes:
    """The figure. Raises UsageError without matplotlib, or where there is nothing to draw."""
    try:
        import matplotlib
    except ImportError:
        raise UsageError(
            "a PNG needs matplotlib: pip install 'scope-patch[report]'; --html and the plain text do without it"
        ) from None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = {line: places for line, places in timelines(report.run).items() if line.modes}
    if not lines:
        raise UsageError("there is no timeline to draw: no denoise loop was entered; the plain text says why")
    shown = list(lines.items())[:MOST]
    several = sum(map(len, lines.values())) > 1
    longest = max(line.iterations for line, _ in shown)
    head = HEAD if several else HEAD - 0.1  # a single timeline has no title of its own
    high = head + HIGH * len(shown) + FOOT
    # A reader's own settings (usetex, other hatches) are not ours to follow; a dollar in a name is a dollar.
    ours: Any = {"font.size": 7.5, "axes.edgecolor": SOFT, "axes.linewidth": 0.6, "hatch.linewidth": 0.5}
    ours |= {f"{axis}tick.major.{name}": size for axis in "xy" for name, size in (("width", 0.6), ("size", 2.5))}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**ours, "text.parse_math": False})
        figure = Figure(figsize=(WIDE, high), dpi=DOTS)
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
        for axis, (line, places) in zip(axes, shown, strict=True):
            _draw(axis, line, longest, _name(places) if several else "")
        axes[-1].set_xlabel(shown[-1][0].words.step, labelpad=1)
        _title(figure, report, high, len(lines) - len(shown))
        _legend(figure, [line for line, _ in shown])
        figure.subplots_adjust(left=0.08, right=0.99, top=1 - head / high, bottom=(FOOT + 0.2) / high, hspace=0.5)
        buffer = BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})  # the same bytes from the same report
    return buffer.getvalue()


def _name(places: Sequence[tuple[int, int]]) -> str:
    generation, segment = places[0]
    alike = f", and {len(places) - 1} more alike" if len(places) > 1 else ""
    return f"generation {generation}, segment {segment}{alike}"


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
        strip = PatchCollection(shapes, **_paint(mode), transform=across, clip_on=False)
        axis.add_collection(strip, autolim=False)
    for heights in reversed(line.ends):
        for colour, width in (("white", 2.4), (INK, 1.0)):
            axis.step(range(line.ran + 1), [*heights, heights[-1]], where="post", color=colour, linewidth=width)
    for reason, (mark, _) in MARKS.items():
        middles = [i + 0.5 for i in line.places(reason)]
        axis.plot(middles, [-0.055] * len(middles), mark, color=INK, markersize=2.2, transform=across, clip_on=False)
    if line.ran < line.iterations:
        axis.axvline(line.ran, color=SOFT, linewidth=0.7, linestyle=(0, (4, 3)))
        if line.iterations - line.ran > 0.12 * longest:
            middle = ((line.ran + line.iterations) / 2, line.frames / 2)
            axis.text(
                *middle,
                LOOKS[NOT_RUN].name if line.rest == "ended" else line.rest,
                ha="center",
                va="center",
                color=SOFT,
            )
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
    below += ", ".join(f"{totals.modes[mode]} {word}" for mode, word in MODES.items())
    below += f"; {left_out} more timelines are not shown" if left_out else ""
    figure.text(0.01, 1 - 0.07 / high, title, fontsize=9.5, fontweight="bold", va="top", color=INK)
    figure.text(0.01, 1 - 0.25 / high, below, color=SOFT, va="top")


def _legend(figure: Figure, lines: Sequence[Timeline]) -> None:
    """States first, row by row; then the staircase and the marks that occur."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    states = {state for line in lines for state in line.boxes} - {NOT_RUN}
    keys: list[Artist] = [
        Patch(**{**_paint(state), "linewidth": 0.4, "edgecolor": STROKES.get(state, SOFT)}, label=look.name)
        for state, look in LOOKS.items()
        if state in states
    ]
    keys.append(Line2D([], [], color=INK, linewidth=1.0, label="interval under way"))
    for reason, (mark, _) in MARKS.items():
        if any(reason in line.reasons for line in lines):
            keys.append(Line2D([], [], color=INK, marker=mark, markersize=3, linewidth=0, label=reason))
    layout: Any = {"bbox_to_anchor": (0.5, 0), "ncols": -(-len(keys) // 2), "handlelength": 2.2, "columnspacing": 1.4}
    figure.legend(handles=keys, loc="lower center", frameon=False, **layout)
