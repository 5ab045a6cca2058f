"""A report as text: the closing summary of the run, and its timelines in letters."""

from __future__ import annotations

from collections.abc import Iterator

from . import summary
from .load import Loaded
from .look import step
from .record import Generation, Segment
from .timeline import NOT_RUN, Timeline, timeline
from .verified import rows

WIDTH = 100
"""Iterations a line."""
WHY = {
    "growth": "g",
    "history": "h",
    "horizon": "m",
    "threshold": ".",
    "plan": ".",
    "forced": "f",
    "context": "c",
    "guard": "!",
    "verify": "v",
}
LEGEND = (
    "C cached, P predicted, R recomputed, F forced; + forwarded along, - left out (finished or given), . not started",
    "why: g growth, h history, m --max-skip, f forced, c context, v --verify, ! guard, . threshold or plan",
)


def text(loaded: Loaded) -> str:
    """Readable on a terminal; without a newline at the end."""
    out = summary.lines(loaded.run)
    drawn: dict[Timeline, str] = {}
    for k, generation in enumerate(loaded.run.generations, start=1):
        out += ["", _headline(k, generation)]
        for n, segment in enumerate(generation.segments, start=1):
            name, made = f"generation {k}, segment {n}", timeline(segment)
            out.append(f"  segment {n}: {made.iterations} iterations, {made.frames} latent frames")
            if made.ran < made.iterations:
                out[-1] += f"; ended after {made.ran}"
            if made.note:
                out.append(f"  as the host does it, because {made.note}")
            if made in drawn:
                out.append(f"  as {drawn[made]}")
            else:
                drawn[made] = name
                out += _picture(made)
            out += _verified(segment)
    return "\n".join([*out, "", *LEGEND] if drawn else out)


def _headline(number: int, generation: Generation) -> str:
    told = "" if generation.applied else ", unpatched: " + "; ".join(generation.reasons)
    if not generation.finished:
        told += f", not finished: {generation.error or 'still running'}"
    if not generation.segments:
        told += ", no denoise loop was entered"
    return f"generation {number}{told}"


def _picture(made: Timeline) -> Iterator[str]:
    """The last latent frames at the top."""
    rows = list(made.rows())[::-1]
    names = [f"{low}-{high - 1}" if high - low > 1 else str(low) for (low, high), _ in rows]
    margin = max(map(len, [*names, "why"]))
    why = "".join(WHY.get(reason, "?") for reason in made.reasons)
    for left in range(0, max(made.ran, 1), WIDTH):
        part = slice(left, left + WIDTH)
        for name, (_, row) in zip(names, rows, strict=True):
            yield f"  {name:>{margin}} {row[part].rstrip(NOT_RUN)}"
        yield f"  {'why':>{margin}} {why[part]}"
        yield f"  {'':>{margin}} {_scale(left, min(made.ran - left, WIDTH))}"


def _verified(segment: Segment) -> Iterator[str]:
    """The errors of predictions that were verified."""
    if segment.verified:
        yield f"  {'verified':>9} {'expected':>9} {'true':>9}"
    for iteration, expected, error, told in rows(segment):
        yield f"  {iteration:>9} {expected:>9} {error:>9}  {told}".rstrip()


def _scale(left: int, length: int) -> str:
    """Numbers of iterations, each below and right of its own."""
    by = max(10, step(length, 10))
    return "".join(f"{left + k:<{by}}" for k in range(0, max(length, 1), by)).rstrip()
