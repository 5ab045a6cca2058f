"""What a folder tells: its table, its page, and what is printed at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import check, tables
from .harness import Harness
from .outputs import CAP
from .page import page
from .points import OURS, Point
from .sums import Group, groups

TABLE, PAGE = "table.md", "index.html"


def found_in(harness: Harness, points: Sequence[Point]) -> list[Group]:
    """The points of which a run went well, as they are listed."""
    rows = harness.log.of(points, harness.maker.fingerprint)
    return groups(rows, [(point.host, point.method, point.name) for point in points])


def text(command: str, harness: Harness, points: Sequence[Point], words: str = "", line: str = "") -> str:
    """All that is told, in Markdown."""
    rows = harness.log.of(points, harness.maker.fingerprint)
    found = found_in(harness, points)
    against, left = check.table(found), left_out(harness, points)
    parts = [
        tables.made(command, found, rows) if found else "No run has ended well yet.",
        words,
        line and f"    {line}",
        tables.results(found),
        _reading(harness) if found else "",
        against and f"## Against {OURS} at equal DiT work\n\n{against}",
        left and f"## Left out, and remarks\n\n{left}",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def left_out(harness: Harness, points: Sequence[Point]) -> str:
    """What is not in the tables, and why."""
    rows = harness.log.of(points, harness.maker.fingerprint)
    return tables.troubles(rows, found_in(harness, points), harness.log.broken)


def write(
    folder: Path,
    harness: Harness,
    points: Sequence[Point],
    command: str,
    words: str = "",
    line: str = "",
    target: float | None = None,
) -> str:
    """Write the table and the page of a folder; what is to be printed.

    Args:
        command: how the folder was made.
        words, line, target: an answer, and the line to copy.
    """
    found, left = found_in(harness, points), left_out(harness, points)
    (folder / TABLE).write_text(text(command, harness, points, words, line), encoding="utf-8")
    told = page(folder, harness.maker.name, found, words, line, left, _reading(harness), target)
    (folder / PAGE).write_text(told, encoding="utf-8")
    parts = [
        tables.results(found),
        left,
        f"page: {folder / PAGE}, table: {folder / TABLE}",
        words and f"scope_patch: {words}",
        line and f"    {line}",
    ]
    return "\n\n".join(filter(None, parts))


def _reading(harness: Harness) -> str:
    """What stands in the columns."""
    return tables.READING.format(measured=harness.maker.measured, clock=harness.maker.clock, cap=CAP)
