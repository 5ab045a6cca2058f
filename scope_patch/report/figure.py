"""The timelines as one figure for print, by matplotlib."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .load import Loaded
from .look import LOOKS, MARKS, step
from .timeline import NOT_RUN, Timeline, timeline
from .totals import MODES, patched, totals

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 12
"""Timelines in one figure; the title says how many more there are."""
INK, SOFT = "#1A1D21", "#5A616B"
STROKES = {"P": "#7A5200", "C": "#0B6B50", "F": "#FFFFFF"}
"""Colours of the hatches."""
MARKERS = {"triangle": "^", "disc": "o", "diamond": "D", "cross": "x", "square": "s"}
WIDE, HIGH, HEAD, FOOT, DOTS = 7.2, 1.65, 0.72, 0.62, 200
"""Inches across, for each timeline, above and below them; dots per inch."""


def png(loaded: Loaded) -> bytes:
    """The figure. Raises UsageError without matplotlib, or where there is nothing to draw."""
    try:
        import matplotlib
    except ImportError:
        raise UsageError(
            "a PNG needs matplotlib: pip install 'scope-patch[report]'; --html and the plain text do without it"
        ) from None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = _distinct(loaded)
    if not drawn:
        raise UsageError("there is no timeline to draw: no denoise loop was entered; the plain text says why")
    shown = list(drawn.items())[:MOST]
    several = sum(map(len, drawn.values())) > 1
    longest = max(made.iterations for made, _ in shown)
    head = HEAD if several else HEAD - 0.1  # a single timeline has no title of its own
    high = head + HIGH * len(shown) + FOOT
    # A reader's own settings (usetex, other hatches) are not ours to follow.
    with matplotlib.rc_context():
        _style()
        figure = Figure(figsize=(WIDE, high), dpi=DOTS)
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
        for axis, (made, names) in zip(axes, shown, strict=True):
            _draw(axis, made, longest, _name(names) if several else "")
        axes[-1].set_xlabel("iteration", labelpad=1)
        _title(figure, loaded, high, len(drawn) - len(shown))
        _legend(figure, [made for made, _ in shown], high)
        figure.subplots_adjust(left=0.08, right=0.99, top=1 - head / high, bottom=(FOOT + 0.2) / high, hspace=0.5)
        buffer = BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})  # the same bytes from the same report
    return buffer.getvalue()


def _style() -> None:
    import matplotlib

    matplotlib.rcdefaults()
    matplotlib.rc("font", size=7.5)
    matplotlib.rc("axes", edgecolor=SOFT, linewidth=0.6)
    matplotlib.rc("hatch", linewidth=0.5)
    matplotlib.rc("text", parse_math=False)  # a dollar in a name is a dollar
    matplotlib.rc("xtick.major", width=0.6, size=2.5)
    matplotlib.rc("ytick.major", width=0.6, size=2.5)


def _distinct(loaded: Loaded) -> dict[Timeline, list[tuple[int, int]]]:
    """Timelines that differ, each with the (generation, segment) pairs that went so, counted from 1."""
    drawn: dict[Timeline, list[tuple[int, int]]] = {}
    for k, generation in enumerate(loaded.run.generations, start=1):
        for n, segment in enumerate(generation.segments, start=1):
            if segment.modes:
                drawn.setdefault(timeline(segment), []).append((k, n))
    return drawn


def _name(places: list[tuple[int, int]]) -> str:
    generation, segment = places[0]
    alike = f", and {len(places) - 1} more alike" if len(places) > 1 else ""
    return f"generation {generation}, segment {segment}{alike}"


def _draw(axis: Axes, made: Timeline, longest: int, name: str) -> None:
    """One timeline; all of a figure have one scale along the iterations."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    across = axis.get_xaxis_transform()  # x counts iterations, y is a share of the height
    for state in sorted(made.states - {NOT_RUN}):
        boxes = [
            Rectangle((left, low), right - left, high - low)
            for each, left, right, low, high in made.areas()
            if each == state
        ]
        axis.add_collection(PatchCollection(boxes, **_paint(state)))
    for mode in sorted(set(made.modes)):
        boxes = [Rectangle((i, 1.03), 1, 0.09) for i, each in enumerate(made.modes) if each == mode]
        strip = PatchCollection(boxes, **_paint(mode), transform=across, clip_on=False)
        axis.add_collection(strip, autolim=False)
    steps = range(made.ran + 1)
    for side in (1, 0):
        heights = [interval[side] for interval in made.stairs]
        if any(heights):
            for colour, width in (("white", 2.4), (INK, 1.0)):
                axis.step(steps, [*heights, heights[-1]], where="post", color=colour, linewidth=width)
    for reason, mark in MARKS.items():
        at = [i + 0.5 for i, each in enumerate(made.reasons) if each == reason]
        axis.plot(at, [-0.055] * len(at), MARKERS[mark], color=INK, markersize=2.2, transform=across, clip_on=False)
    if made.ran < made.iterations:
        axis.axvline(made.ran, color=SOFT, linewidth=0.7, linestyle=(0, (4, 3)))
        if made.iterations - made.ran > 0.12 * longest:
            middle = ((made.ran + made.iterations) / 2, made.frames / 2)
            axis.text(*middle, LOOKS[NOT_RUN].name, ha="center", va="center", color=SOFT)
    axis.set(xlim=(0, longest), ylim=(0, made.frames), ylabel="latent frame")
    ticks = range(0, made.iterations, step(longest, 14))
    axis.set_xticks([i + 0.5 for i in ticks], [str(i) for i in ticks])
    frames = range(0, made.frames, step(made.frames, 6))
    axis.set_yticks([frame + 0.5 for frame in frames], [str(frame) for frame in frames])
    axis.tick_params(axis="x", length=0, pad=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines["bottom"].set_bounds(0, made.iterations)
    axis.text(-0.007, 1.075, "decision", transform=axis.transAxes, ha="right", va="center", color=SOFT, fontsize=6.5)
    axis.set_title(name, loc="left", fontsize=7.5, color=SOFT, pad=15)


def _paint(state: str) -> dict[str, Any]:
    look = LOOKS[state]
    return {
        "facecolor": look.colour,
        "edgecolor": STROKES.get(state, look.colour),
        "hatch": look.hatch or None,
        "linewidth": 0,
        "antialiased": False,
    }


def _title(figure: Figure, loaded: Loaded, high: float, left_out: int) -> None:
    run, sums = loaded.run, totals(patched(loaded.run.generations))
    told = ", ".join(run.hosts) or "no host"
    if sums.speedup:
        told += f": {sums.speedup:.2f}x less work for the DiT"
    below = f"DiT forwards {sums.before} → {sums.after}, latent frames {sums.frames_before} → {sums.frames_after}"
    below += "; iterations: " + ", ".join(f"{sums.modes[mode]} {word}" for mode, word in MODES.items())
    if left_out:
        below += f"; {left_out} more timelines are not shown"
    figure.text(0.01, 1 - 0.07 / high, told, fontsize=9.5, fontweight="bold", va="top", color=INK)
    figure.text(0.01, 1 - 0.25 / high, below, color=SOFT, va="top")


def _legend(figure: Figure, drawn: list[Timeline], high: float) -> None:
    """States first, row by row; then the staircase and the marks that occur."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    states = set().union(*(made.states for made in drawn)) - {NOT_RUN}
    keys: list[Artist] = [
        Patch(**{**_paint(state), "linewidth": 0.4, "edgecolor": STROKES.get(state, SOFT)}, label=look.name)
        for state, look in LOOKS.items()
        if state in states
    ]
    keys.append(Line2D([], [], color=INK, linewidth=1.0, label="interval under way"))
    seen = {reason for made in drawn for reason in made.reasons}
    for reason, mark in MARKS.items():
        if reason in seen:
            keys.append(Line2D([], [], color=INK, marker=MARKERS[mark], markersize=3, linewidth=0, label=reason))
    figure.legend(
        handles=keys,
        loc="lower center",
        bbox_to_anchor=(0.5, 0),
        ncols=-(-len(keys) // 2),
        frameon=False,
        handlelength=2.2,
        columnspacing=1.4,
    )
