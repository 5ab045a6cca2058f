"""Verified errors of a segment as inline SVG below its timeline, to the same scale, and as a table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape

from .record import Segment, Verified
from .svg import LEFT, RIGHT, WIDTH
from .verified import number, rows

TOP, HIGH, BELOW = 8, 110, 12
RADIUS = 3.4


def section(segment: Segment, longest: int, bound: float, name: str) -> Iterator[str]:
    """Picture, key and table; nothing where nothing was verified.

    Args:
        longest: iterations of the longest timeline on the page.
        bound: the error from which on skipping was cut back.
    """
    if not segment.verified:
        return
    yield f"<figure><figcaption>Verified steps: relative error of the prediction. {_key()}</figcaption>"
    yield f'<div class="scroll">{_plot(segment.verified, longest, bound, name)}</div>'
    yield "<details><summary>as a table</summary>"
    head = '<tr><th class="n">iteration</th><th class="n">expected</th><th class="n">true</th><th></th></tr>'
    body = "".join(
        f'<tr><td class="n">{iteration}</td><td class="n">{expected}</td><td class="n">{error}</td>'
        f'<td class="soft">{escape(told)}</td></tr>'
        for iteration, expected, error, told in rows(segment)
    )
    yield f'<div class="wide"><table class="errors">{head}{body}</table></div></details></figure>'


def _key() -> str:
    drawn = "".join(
        f'<svg class="key" width="13" height="13" aria-hidden="true">'
        f'<circle class="{name}" cx="6.5" cy="6.5" r="{RADIUS}"/></svg>{told} '
        for name, told in (
            ("expected", "expected by the error bound,"),
            ("true", "true,"),
            ("above", "above the bound"),
        )
    )
    return drawn.rstrip()


def _plot(verified: list[Verified], longest: int, bound: float, name: str) -> str:
    """Errors upwards in powers of ten, iterations to the right."""
    known = [each for pair in verified for each in (pair.expected, pair.error) if each]
    low = math.floor(math.log10(min(known, default=0.01)))
    high = math.ceil(math.log10(max(known, default=0.1)))
    if bound > 0 and low - 1 <= math.log10(bound) <= high + 1:
        low, high = min(low, math.floor(math.log10(bound))), max(high, math.ceil(math.log10(bound)))
    high = max(high, low + 1)
    wide = (WIDTH - LEFT - RIGHT) / max(longest, 1)

    def across(iteration: int) -> float:
        return LEFT + wide * (iteration + 0.5)

    def up(error: float | None) -> float:
        share = 1.0 if error is None else (math.log10(max(error, 10.0**low)) - low) / (high - low)
        return TOP + HIGH * (1 - share)

    out = [f'<svg class="plot" viewBox="0 0 {WIDTH} {TOP + HIGH + BELOW}" role="img" aria-label="{escape(name)}">']
    for power in range(low, high + 1):
        y = up(10.0**power)
        out.append(f'<path class="rule" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        out.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g}</text>')
    if bound > 0 and low <= math.log10(bound) <= high:
        y = up(bound)
        out.append(f'<path class="bound" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        out.append(f'<text x="{WIDTH - RIGHT}" y="{y - 4:.1f}" text-anchor="end">bound {bound:g}</text>')
    for each in verified:
        x = f"{across(each.iteration):.1f}"
        expected = "-" if each.expected is None else number(each.expected)
        told = f"iteration {each.iteration}: expected {expected}, true "
        told += "no number" if each.error is None else number(each.error)
        out.append(f"<g><title>{escape(told)}</title>")
        if each.expected is not None:
            out.append(f'<path class="tick" d="M{x} {up(each.expected):.1f}V{up(each.error):.1f}"/>')
            out.append(f'<circle class="expected" cx="{x}" cy="{up(each.expected):.1f}" r="{RADIUS}"/>')
        kind = "true" if each.tightened is None else "above"
        out.append(f'<circle class="{kind}" cx="{x}" cy="{up(each.error):.1f}" r="{RADIUS}"/></g>')
    return "".join([*out, "</svg>"])
