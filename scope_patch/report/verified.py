"""What verifying found, in words: for the closing summary and for every kind of report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .record import Generation, Segment, Verified


def sentence(generations: Sequence[Generation], bound: float) -> list[str]:
    """All of it in one line; nothing where nothing was verified."""
    found = [
        (k, n, each)
        for k, generation in enumerate(generations, start=1)
        for n, segment in enumerate(generation.segments, start=1)
        for each in segment.verified
    ]
    if not found:
        return []
    every = [each for *_, each in found]
    errors = [each.error for each in every if each.error is not None]
    expected = [each.expected for each in every if each.expected is not None]
    told = f"verified {len(found)} skipped step{'s' if len(found) > 1 else ''}: "
    told += f"true error {_span(errors)}" if errors else "no true error is a number"
    told += f" (expected {_span(expected)})" if expected else ""
    above = [place for place in found if place[-1].tightened is not None]
    told += f", {len(above) or 'none'} above {bound:g}"
    if above:
        k, n, last = above[-1]
        told += f": in generation {k}, the last of {len({k for k, *_ in above})}," if len(generations) > 1 else ":"
        told += f" {limit(last)} from iteration {last.iteration + 1}"
        told += f" of segment {n} on" if len(generations[k - 1].segments) > 1 else " on"
    return [told]


def limit(verified: Verified) -> str:
    """What was allowed after an error above the bound."""
    most = verified.tightened
    return f"at most {most} skip{'' if most == 1 else 's'} in a row" if most else "nothing is skipped"


def rows(segment: Segment) -> Iterator[tuple[str, str, str, str]]:
    """(iteration, expected error, true error, what followed from it or ""), as text."""
    for each in segment.verified:
        expected = "-" if each.expected is None else number(each.expected)
        error = "no number" if each.error is None else number(each.error)
        told = "" if each.tightened is None else f"above the bound: {limit(each)} from here on"
        yield str(each.iteration), expected, error, told


def number(error: float) -> str:
    """Two digits that count."""
    return f"{error:.2g}" if error < 0.01 else f"{error:.3f}"


def _span(errors: Sequence[float]) -> str:
    low, high = number(min(errors)), number(max(errors))
    return low if low == high else f"{low} to {high}"
