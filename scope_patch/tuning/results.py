"""What a folder tells: its table, whether ours is below anything at equal DiT work, its page, and what is printed.

Others are compared with our own points to both sides of theirs, between which ours is interpolated linearly in the
logarithm of the work saved, video by video, so that differences are paired. The page loads nothing.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Iterable, Sequence
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..report.page import png, template
from ..report.read import read
from . import tables
from .harness import Harness
from .outputs import CAP, GAIN, PREVIEW
from .points import OURS, Case, Point, Row
from .tables import Group, Mean

TABLE, PAGE = "table.md", "index.html"
MOST = 200e6  # bytes of a page: from there on runs are without pictures, which stay in their folders
SLACK = 1.02  # a point up to 2 % outside our range is compared with our nearest
SURE = 2.0  # standard errors from which on a difference is told as one
METRICS = (("psnr", "PSNR", 2, " dB"), ("ssim", "SSIM", 4, ""))


def known(harness: Harness, points: Sequence[Point]) -> tuple[list[Row], list[Group], str]:
    """Rows of the points and of their originals; the points of which a run went well, as listed; why others are not."""
    rows = harness.log.of(points, harness.maker.fingerprint)
    found = tables.groups(rows, [(point.host, point.method, point.name) for point in points])
    return rows, found, tables.troubles(rows, found, harness.log.broken)


def text(command: str, harness: Harness, points: Sequence[Point], words: str = "", line: str = "") -> str:
    """All that is told, in Markdown."""
    rows, found, left = known(harness, points)
    below = against(found)
    parts = [
        tables.made(command, found, rows) if found else "No run has ended well yet.",
        words,
        line and f"    {line}",
        tables.results(found),
        _reading(harness) if found else "",
        below and f"## Against {OURS} at equal DiT work\n\n{below}",
        left and f"## Left out, and remarks\n\n{left}",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def write(
    folder: Path, harness: Harness, points: Sequence[Point], command: str, words: str = "", line: str = "",
    target: float | None = None,
) -> str:  # fmt: skip
    """Write the table and the page of a folder; what is to be printed. Raises UsageError without jinja2.

    `command`: how the folder was made; `words`, `line`, `target`: an answer, and the line to copy; none for a bench.
    """
    _, found, left = known(harness, points)
    (folder / TABLE).write_text(text(command, harness, points, words, line), encoding="utf-8")
    page = template(__package__).render(
        command=harness.maker.name, words=words, line=line, left=left, reading=_reading(harness), gain=GAIN,
        tables=tables.cells(found), shown=_shown(folder, found, target), places=tables.PLACES,
    )  # fmt: skip
    (folder / PAGE).write_text(page, encoding="utf-8")
    where = f"page: {folder / PAGE}, table: {folder / TABLE}"
    parts = [tables.results(found), left, where, words and f"scope_patch: {words}", line and f"    {line}"]
    return "\n\n".join(filter(None, parts))


def _reading(harness: Harness) -> str:
    return tables.READING.format(measured=harness.maker.measured, clock=harness.maker.clock, cap=CAP)


def _shown(folder: Path, found: Sequence[Group], target: float | None) -> list[dict[str, Any]]:
    """What the page shows of every point: of its videos the one that came out worst."""
    shown, size = [], 0
    for group in found:
        row = _worst(list(group.rows.values()))
        place = folder / row.get("folder", "")
        picture = _picture(place) if size < MOST else None
        size += 0 if picture is None else len(picture["data"])
        timeline = _timeline(place) if size < MOST else ""
        size += len(timeline)
        chosen = target is not None and row["x"] == target and group.name[1] == OURS
        shown.append({"group": group, "row": row, "picture": picture, "timeline": timeline, "chosen": chosen})
    return shown


def _worst(rows: list[Row]) -> Row:
    for name, worst in (("lpips", max), ("psnr", min)):
        if all(row.get(name) is not None for row in rows):
            return worst(rows, key=itemgetter(name))
    return rows[0]


def _picture(folder: Path) -> dict[str, str] | None:
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


def against(found: list[Group]) -> str:
    """Each other point beside ours, in Markdown; "" where ours is not among the points, or nothing else is."""
    lines: list[list[str]] = []
    below: dict[str, list[tuple[Group, Mean]]] = {metric: [] for metric, *_ in METRICS}
    compared = 0
    found = [group for group in found if group.ratio is not None and all(group.mean(key) for key, *_ in METRICS)]
    for host in dict.fromkeys(group.name[0] for group in found):
        ours = sorted((g for g in found if g.name[:2] == (host, OURS)), key=_ratio)
        for group in distinct(g for g in found if ours and g.name[0] == host and g.name[1] != OURS):
            cells = [*group.name[1:], f"{_ratio(group):.2f}"]
            differences = {metric: value for metric, *_ in METRICS if (value := difference(ours, group, metric))}
            if not differences:
                lines.append([*cells, "", *["no point of ours to both sides", ""] * len(METRICS)])
                continue
            rival = not group.name[1].startswith(OURS)  # not one of our own variants
            compared += rival
            videos = shared([*ours, group])
            cells.append(str(len(videos)))
            for metric, _, places, unit in METRICS:
                other = Mean.of(group.rows[video][metric] for video in videos)
                cells += [f"{other.mean:.{places}f}", verdict(differences[metric], places, unit)]
                if rival and differences[metric].mean < 0:
                    below[metric].append((group, differences[metric]))
            lines.append(cells)
    if not lines:
        return ""
    head = ["method", "point", "DiT FLOPs", "n", *(x for _, title, *_ in METRICS for x in (title, f"{OURS} is"))]
    told = [_summary(title, below[metric], compared) for metric, title, *_ in METRICS]
    return tables.markdown(head, lines) + "\n\n" + "\n".join(told)


def _ratio(group: Group) -> float:
    assert group.ratio is not None, "others were left out"
    return group.ratio


def distinct(found: Iterable[Group]) -> list[Group]:
    """Without points at which a method did just what it did at an earlier one: aims beyond its range count once."""
    kept: dict[tuple[Any, ...], Group] = {}
    for group in found:
        made = [(*video, row["flops"], row["psnr"]) for video, row in group.rows.items()]
        kept.setdefault((*group.name[:2], *made), group)
    return list(kept.values())


def difference(ours: list[Group], other: Group, metric: str) -> Mean | None:
    """Ours (by ascending ratio) minus the other's at its FLOPs; None without points to both sides or common videos."""
    weights = _weights([_ratio(group) for group in ours], _ratio(other))
    videos = shared([*ours, other])
    if weights is None or not videos:
        return None
    return Mean.of(
        sum(weight * ours[k].rows[video][metric] for k, weight in weights.items()) - other.rows[video][metric]
        for video in videos
    )


def shared(found: list[Group]) -> list[Case]:
    """The videos that all of them have."""
    return [video for video in found[0].rows if all(video in group.rows for group in found)]


def verdict(value: Mean, places: int, unit: str) -> str:
    """`above by 1.20 ± 0.31 dB`; what lies within two standard errors is marked as unsure."""
    size = Mean(abs(value.mean), value.error)
    if float(f"{size.mean:.{places}f}") == 0:
        return "equal"
    doubt = " (one video)" if math.isnan(size.error) else "" if size.mean >= SURE * size.error else " (unsure)"
    return f"{'above' if value.mean >= 0 else 'below'} by {size.text(places)}{unit}{doubt}"


def _weights(ratios: list[float], at: float) -> dict[int, float] | None:
    for k, (low, high) in enumerate(pairwise(ratios)):
        if low <= at <= high:
            share = math.log(at / low) / math.log(high / low) if high > low else 0.0
            return {k: 1 - share, k + 1: share}
    return next(({k: 1.0} for k in (0, -1) if ratios[k] / SLACK <= at <= ratios[k] * SLACK), None)


def _summary(title: str, below: list[tuple[Group, Mean]], compared: int) -> str:
    sure = [group for group, value in below if abs(value.mean) >= SURE * value.error]
    where = "; ".join(f"{group.name[1]}, {group.name[2]}" for group in sure)
    return (
        f"* {title}: {OURS} is not below in {compared - len(below)} of {compared} comparisons with other methods; "
        f"below by {SURE:g} standard errors or more in {len(sure)}" + (f": {where}" if where else "")
    )
