"""One timeline as inline SVG: latent frames upwards, iterations to the right; every iteration has a tooltip."""

from __future__ import annotations

from collections import defaultdict
from html import escape

from .look import LOOKS, MARKS, step
from .style import CLASSES
from .timeline import NOT_RUN, Interval, Timeline

WIDTH, LEFT, RIGHT = 1000, 62, 10
TOP, STRIP = 26, (5, 16)
"""Where the grid begins, and the strip of decisions above it: (from, height)."""
BELOW = 36
SHAPES = {
    "triangle": ("M{x:.1f} {y:.1f}", "m0-{r}l{r} {d}h-{d}z"),
    "disc": ("M{x:.1f} {y:.1f}", "m-{s} 0a{s} {s} 0 1 0 {d2} 0a{s} {s} 0 1 0-{d2} 0z"),
    "diamond": ("M{x:.1f} {y:.1f}", "m0-{r}l{r} {r}-{r} {r}-{r}-{r}z"),
    "square": ("M{x:.1f} {y:.1f}", "m-{s}-{s}h{d2}v{d2}h-{d2}z"),
    "cross": ("M{x:.1f} {y:.1f}", "m-{s}-{s}l{d2} {d2}m0-{d2}l-{d2} {d2}"),
}


def shape(name: str, x: float, y: float, radius: float) -> str:
    """The path of a mark around a point."""
    at, path = SHAPES[name]
    numbers = {"r": radius, "d": 2 * radius, "s": 0.8 * radius, "d2": 1.6 * radius}
    return at.format(x=x, y=y) + path.format(**{key: f"{number:g}" for key, number in numbers.items()})


def plot(made: Timeline, longest: int, name: str) -> str:
    """A picture as wide as the page.

    Args:
        longest: iterations of the longest timeline beside it: all of them are drawn to one scale.
        name: what it is called for those who cannot see it.
    """
    wide = (WIDTH - LEFT - RIGHT) / max(longest, 1)
    high = min(max(8 * made.frames, 120), 300) / max(made.frames, 1)
    bottom = TOP + high * made.frames
    right = LEFT + wide * made.iterations
    parts = [
        f'<svg class="plot" viewBox="0 0 {WIDTH} {bottom + BELOW:.0f}" role="img" aria-label="{escape(name)}">',
        *_cells(made, wide, high, bottom),
        *_strip(made, wide),
        *_ended(made, wide, bottom),
        f'<path class="frame" d="M{LEFT} {TOP}H{right:.1f}V{bottom:.1f}H{LEFT}z"/>',
        *_stairs(made, wide, high, bottom),
        *_axes(made, wide, high, bottom),
        *_marks(made, wide, bottom),
        *_tooltips(made, wide, bottom),
        "</svg>",
    ]
    return "".join(parts)


def _cells(made: Timeline, wide: float, high: float, bottom: float) -> list[str]:
    """One path a state."""
    paths: dict[str, list[str]] = defaultdict(list)
    for area in made.areas():
        x, y = LEFT + wide * area.left, bottom - high * area.high
        paths[area.state].append(_box(x, y, LEFT + wide * area.right, bottom - high * area.low))
    return [f'<path class="cells {CLASSES[state]}" d="{"".join(d)}"/>' for state, d in paths.items()]


def _box(left: float, top: float, right: float, bottom: float) -> str:
    """Absolute corners, rounded alike in neighbours, so that no gap opens between them."""
    return f"M{left:.1f} {top:.1f}H{right:.1f}V{bottom:.1f}H{left:.1f}z"


def _strip(made: Timeline, wide: float) -> list[str]:
    """What each iteration was as a whole; letters where there is room."""
    y, height = STRIP
    out = [f'<text x="{LEFT - 7}" y="{y + 12}" text-anchor="end">decision</text>']
    for mode in dict.fromkeys(made.modes):
        at = [i for i, each in enumerate(made.modes) if each == mode]
        d = "".join(_box(LEFT + wide * i, y, LEFT + wide * (i + 1), y + height) for i in at)
        # Letters are read more easily on the plain colour than on the pattern.
        out.append(f'<path class="cells {"ground-" if wide >= 9 and mode != "R" else ""}{mode}" d="{d}"/>')
        if wide >= 9:
            out += [
                f'<text class="letter on-{mode}" x="{LEFT + wide * (i + 0.5):.1f}" y="{y + 12}" text-anchor="middle">'
                f"{mode}</text>"
                for i in at
            ]
    return out


def _ended(made: Timeline, wide: float, bottom: float) -> list[str]:
    """The part that did not run."""
    if made.ran == made.iterations:
        return []
    x, room = LEFT + wide * made.ran, wide * (made.iterations - made.ran)
    told = LOOKS[NOT_RUN].name
    return [
        f'<path class="rule" stroke-dasharray="4 3" d="M{x:.1f} {STRIP[0]}V{bottom:.1f}"/>',
        f'<text x="{x + room / 2:.1f}" y="{(TOP + bottom) / 2 + 4:.1f}" text-anchor="middle">{told}</text>'
        if room > 80
        else "",
    ]


def _stairs(made: Timeline, wide: float, high: float, bottom: float) -> list[str]:
    """Both ends of the interval under way, with a halo so that it stands out from any colour."""
    lines = []
    for side in (0, 1):
        heights = [interval[side] for interval in made.stairs]
        if any(heights):
            lines.append(_steps(heights, wide, high, bottom))
    d = "".join(lines)
    return [f'<path class="halo" d="{d}"/><path class="stairs" d="{d}"/>'] if d else []


def _steps(heights: list[int], wide: float, high: float, bottom: float) -> str:
    d = f"M{LEFT} {bottom - high * heights[0]:.1f}"
    for i, height in enumerate(heights):
        if i and height != heights[i - 1]:
            d += f"H{LEFT + wide * i:.1f}V{bottom - high * height:.1f}"
    return d + f"H{LEFT + wide * len(heights):.1f}"


def _axes(made: Timeline, wide: float, high: float, bottom: float) -> list[str]:
    middle = (TOP + bottom) / 2
    out = [
        f'<text transform="rotate(-90 14 {middle:.1f})" x="14" y="{middle:.1f}" text-anchor="middle">'
        "latent frame</text>"
    ]
    for frame in range(0, made.frames, step(made.frames, 6)):
        y = bottom - high * (frame + 0.5)
        out.append(f'<path class="tick" d="M{LEFT} {y:.1f}h-4"/>')
        out.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{frame}</text>')
    out.append(f'<text x="{LEFT - 7}" y="{bottom + 29:.1f}" text-anchor="end">iteration</text>')
    for i in range(0, made.iterations, step((WIDTH - LEFT - RIGHT) / wide, 14)):
        x = LEFT + wide * (i + 0.5)
        out.append(f'<path class="tick" d="M{x:.1f} {bottom + 13:.1f}v4"/>')
        out.append(f'<text x="{x:.1f}" y="{bottom + 29:.1f}" text-anchor="middle">{i}</text>')
    return out


def _marks(made: Timeline, wide: float, bottom: float) -> list[str]:
    """Why a step was recomputed, where that is out of the ordinary."""
    radius = round(min(max(wide / 2, 3), 4), 1)
    out = []
    for reason, name in MARKS.items():
        at = [i for i, each in enumerate(made.reasons) if each == reason]
        d = "".join(shape(name, LEFT + wide * (i + 0.5), bottom + 7, radius) for i in at)
        if d:
            out.append(f'<path class="why {name}" d="{d}"/>')
    return out


def _tooltips(made: Timeline, wide: float, bottom: float) -> list[str]:
    out = ['<g class="hit">']
    for i in range(made.ran):
        told = f"iteration {i}: {LOOKS[made.modes[i]].name} ({made.reasons[i]})\nunder way: {_range(made.stairs[i])}"
        if made.modes[i] == "R":
            told += f"\nforwarded: {_range(made.forwarded[i])}"
        out.append(
            f'<rect x="{LEFT + wide * i:.1f}" y="{STRIP[0]}" width="{wide:.2f}" height="{bottom - STRIP[0]:.0f}">'
            f"<title>{escape(told)}</title></rect>"
        )
    return [*out, "</g>"]


def _range(interval: Interval) -> str:
    start, end = interval
    return f"latent frames {start} to {end - 1}" if end > start else "nothing"
