"""Panels one below the other over one axis, a line a method, named at its end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from .looks import INK, SOFT, Look, looks

WIDE, HEAD, FOOT, DOTS = 7.2, 0.5, 0.45, 180
"""Inches across, above and below the panels; dots per inch."""
HIGH = (2.6, 1.9)
"""Inches for each of one or two panels, of more."""
LEFT, RIGHT = 0.085, 0.80  # shares of the width; names stand to the right
GAP = 0.088
"""The least distance between two names, as a share of a panel's height."""

Dot = tuple[float, float, float]
"""x, y, standard error (nan: none is drawn)."""


@dataclass(frozen=True)
class Panel:
    """One quantity: the dots of every method."""

    label: str
    lines: dict[str, list[Dot]]


def png(title: str, below: str, axis: str, panels: list[Panel], ticks: list[float], log: bool = False) -> bytes:
    """The figure, with the same bytes from the same data."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    high = HEAD + HIGH[len(panels) > 2] * len(panels) + FOOT
    with matplotlib.rc_context():
        _style()
        figure = Figure(figsize=(WIDE, high), dpi=DOTS)
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
        drawn = looks(list(dict.fromkeys(name for panel in panels for name in panel.lines)))
        for one, panel in zip(axes, panels, strict=True):
            if log:
                one.set_xscale("log")
            _panel(one, panel, drawn)
        axes[-1].set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes[-1].set_xticks([], minor=True)
        axes[-1].set_xlabel(axis, labelpad=3)
        figure.align_ylabels(axes)
        figure.subplots_adjust(left=LEFT, right=RIGHT, top=1 - HEAD / high, bottom=FOOT / high, hspace=0.1)
        for one, panel in zip(axes, panels, strict=True):
            _names(one, panel, drawn)  # when the limits of the axes stand
        figure.text(0.012, 1 - 0.08 / high, title, fontsize=9.5, fontweight="bold", va="top", color=INK)
        figure.text(0.012, 1 - 0.27 / high, below, fontsize=7, va="top", color=SOFT)
        buffer = BytesIO()
        figure.savefig(buffer, format="png")
    return _small(buffer)


def _small(drawn: BytesIO) -> bytes:
    """The same picture in a palette, a third of the bytes."""
    from PIL import Image

    buffer = BytesIO()
    picture = Image.open(drawn).convert("RGB").quantize(96, dither=Image.Dither.NONE)
    picture.save(buffer, format="png", optimize=True, dpi=(DOTS, DOTS))
    return buffer.getvalue()


def _style() -> None:
    import matplotlib

    matplotlib.rcdefaults()
    matplotlib.rc("font", size=7.5)
    matplotlib.rc("axes", edgecolor=SOFT, linewidth=0.6)
    matplotlib.rc("text", parse_math=False)
    for side in ("xtick", "ytick"):
        matplotlib.rc(f"{side}.major", width=0.6, size=2.5)
        matplotlib.rc(f"{side}.minor", width=0.4, size=0)


def _panel(axis: Any, panel: Panel, drawn: dict[str, Look]) -> None:
    for order, (name, dots) in enumerate(panel.lines.items()):
        look = drawn[name]
        x, y, errors = zip(*dots, strict=True)
        layer = 3 + (len(panel.lines) - order) / 100  # what stands first lies on top
        bars = [0.0 if math.isnan(error) else error for error in errors]
        axis.errorbar(x, y, bars, fmt="none", ecolor=look.colour, elinewidth=0.6, alpha=0.55, zorder=2)
        axis.plot(
            x, y, color=look.colour, linestyle=look.line, linewidth=0.9 * look.wide, marker=look.marker, zorder=layer,
            markersize=6.5 if look.marker == "*" else 4.6, markeredgecolor="white", markeredgewidth=0.5,
        )  # fmt: skip
    axis.set_ylabel(panel.label, color=INK)
    axis.grid(True, color=SOFT, alpha=0.16, linewidth=0.5)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(colors=INK)


def _names(axis: Any, panel: Panel, drawn: dict[str, Look]) -> None:
    """The names in a column at the right, each as near to the height of its line's end as its neighbours allow."""
    ends = {name: max(dots, key=lambda dot: dot[0])[:2] for name, dots in panel.lines.items()}
    scale, inverse = axis.transData, axis.transAxes.inverted()
    heights = {name: inverse.transform(scale.transform(end))[1] for name, end in ends.items()}
    for name, height in spread(heights).items():
        look, (x, y) = drawn[name], ends[name]
        axis.annotate(
            name, (x, y), (1.045, height), xycoords="data", textcoords="axes fraction", va="center", color=INK,
            fontweight="bold" if look.wide > 1 else "normal", fontsize=7.2, annotation_clip=False,
            arrowprops={
                "arrowstyle": "-", "color": look.colour, "linewidth": 0.5,
                "relpos": (0, 0.5), "shrinkA": 10, "shrinkB": 3,
            },
        )  # fmt: skip
        axis.plot(
            [1.03], [height], marker=look.marker, color=look.colour, transform=axis.transAxes, clip_on=False,
            markersize=6.5 if look.marker == "*" else 4.6, markeredgecolor="white", markeredgewidth=0.5,
        )  # fmt: skip


def spread(heights: dict[str, float]) -> dict[str, float]:
    """Heights in 0..1 pushed apart to GAP, in their order, and none below 0 where they fit."""
    made: dict[str, float] = {}
    ceiling = 1.0
    for name in sorted(heights, key=lambda each: -heights[each]):
        made[name] = min(heights[name], ceiling)
        ceiling = made[name] - GAP
    floor = 0.0
    for name in reversed(made):
        made[name] = max(made[name], floor)
        floor = made[name] + GAP
    return made
