"""A report as text: the closing summary of the run, and its timelines in letters."""

from __future__ import annotations

from collections.abc import Iterator

from . import summary
from .read import Report
from .record import Segment
from .timeline import NOT_RUN, REASONS, Timeline, step, timelines

WIDTH = 100
"""Iterations a line."""
LEGEND = (
    "C cached, P predicted, R recomputed, F forced; + forwarded along, - left out (finished or given), . not started",
    "why: g growth, h history, m --max-skip, f forced, c context, v --verify, ! guard, . threshold or plan",
)


def text(report: Report) -> str:
    """Readable on a terminal; without a newline at the end."""
    out = summary.lines(report.run)
    places = {place: (line, alike[0]) for line, alike in timelines(report.run).items() for place in alike}
    for k, generation in enumerate(report.run.generations, start=1):
        out += ["", ", ".join([f"generation {k}", *summary.outcome(generation)])]
        for n, segment in enumerate(generation.segments, start=1):
            line, first = places[k, n]
            ended = f"; ended after {line.ran}" if line.ran < line.iterations else ""
            out.append(f"  segment {n}: {line.iterations} iterations, {line.frames} latent frames{ended}")
            if segment.note:
                out.append(f"  as the host does it, because {segment.note}")
            out += _picture(line) if first == (k, n) else ["  as generation {}, segment {}".format(*first)]
            out += _verified(segment)
    return "\n".join([*out, "", *LEGEND] if places else out)


def _picture(line: Timeline) -> Iterator[str]:
    """The last latent frames at the top."""
    rows = list(line.rows())[::-1]
    names = [f"{low}-{high - 1}" if high - low > 1 else str(low) for (low, high), _ in rows]
    margin = max(map(len, [*names, "why"]))
    why = "".join(REASONS.get(reason, "?")[0] for reason in line.reasons)
    for left in range(0, max(line.ran, 1), WIDTH):
        part = slice(left, left + WIDTH)
        for name, (_, row) in zip(names, rows, strict=True):
            yield f"  {name:>{margin}} {row[part].rstrip(NOT_RUN)}"
        yield f"  {'why':>{margin}} {why[part]}"
        yield f"  {'':>{margin}} {_scale(left, min(line.ran - left, WIDTH))}"


def _verified(segment: Segment) -> Iterator[str]:
    """The errors of predictions that were verified."""
    if segment.verified:
        yield f"  {'verified':>9} {'expected':>9} {'true':>9}"
    for iteration, expected, error, followed in summary.verified_rows(segment):
        yield f"  {iteration:>9} {expected:>9} {error:>9}  {followed}".rstrip()


def _scale(left: int, length: int) -> str:
    """Numbers of iterations, each below and right of its own."""
    by = max(10, step(length, 10))
    return "".join(f"{left + k:<{by}}" for k in range(0, max(length, 1), by)).rstrip()
