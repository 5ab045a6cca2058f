"""The runs of a folder as one page: the answer, the table, videos side by side, timelines. Nothing is loaded."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..compare.read import extra
from ..errors import UsageError
from ..report.figure import png
from ..report.read import read
from .harness import PREVIEW
from .log import Row
from .preview import FRAMES, GAIN
from .sums import Group
from .tables import PLACES, cells

MOST = 200e6
"""Bytes of a page: from there on runs are without pictures, which stay in their folders."""


def page(
    folder: Path, command: str, found: Sequence[Group], words: str, line: str, left: str, reading: str,
    answer: float | None,
) -> str:  # fmt: skip
    """The whole page, as UTF-8 text. Raises UsageError without jinja2.

    Args:
        words, line, answer: what is said of the search, the line to copy, the target; empty for a bench.
        left: what is not in the table, and why.
    """
    jinja2 = extra("jinja2", "jinja2")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(files(__package__).joinpath("page.html.jinja").read_text(encoding="utf-8"))
    shown, size = [], 0
    for group in found:
        row = _shown(group)
        picture = _picture(folder / row["folder"]) if size < MOST and row.get("folder") else None
        size += 0 if picture is None else len(picture["data"])
        drawn = _timeline(folder / row["folder"]) if size < MOST and row.get("folder") else ""
        size += len(drawn)
        chosen = answer is not None and row["x"] == answer and group.name[1] == "scope"
        shown.append({"group": group, "row": row, "picture": picture, "timeline": drawn, "chosen": chosen})
    rendered: str = template.render(
        command=command, words=words.removeprefix("scope_patch: "), line=line, left=left, reading=reading,
        tables=cells(found), shown=shown, gain=GAIN, frames=FRAMES, places=PLACES,
    )  # fmt: skip
    return rendered


def _shown(group: Group) -> Row:
    """Of a point's videos the one that came out worst."""
    rows = list(group.rows.values())
    for name, best in (("lpips", False), ("psnr", True)):
        if all(row.get(name) is not None for row in rows):
            return sorted(rows, key=lambda row: row[name], reverse=not best)[0]
    return rows[0]


def _picture(folder: Path) -> dict[str, Any] | None:
    for ending, kind in ((".mp4", "video/mp4"), (".png", "image/png")):
        path = folder / f"{PREVIEW}{ending}"
        if path.is_file():
            return {"kind": kind, "data": b64encode(path.read_bytes()).decode()}
    return None


def _timeline(folder: Path) -> str:
    """The decisions as a PNG; "" where there are none, or no matplotlib."""
    try:
        return b64encode(png(read(str(folder / "report.json")))).decode()
    except UsageError:
        return ""
