"""Rows of one point taken together, and the table of a folder, in Markdown: what points cost, how near they came."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .points import FAILED, OK, ORIGINAL, UNAVAILABLE, Case, Row

Name = tuple[str, str, str]  # (host, method, point)

PLACES = {"psnr": 2, "ssim": 4, "lpips": 4}
HEAD = (
    "method", "point", "n", "seconds", "times", "DiT s", "times", "DiT work", "forwards", "kept MB", "peak MB", "PSNR",
    "SSIM", "LPIPS", "worst", "failures",
)  # fmt: skip
READING = (
    "Seconds: of the pipeline's calls, {clock}; DiT s: of its forwards, by the clock; times: how many times less than "
    "the original, over all videos. DiT work: how many times less, {measured}. Kept MB: of velocities, the most at "
    "once; peak MB: of the device, or where there is none of the largest process. PSNR in dB ({cap:g} where all frames "
    "are equal), SSIM and LPIPS against the original of the same prompt and seed, means over videos ± standard error; "
    "worst: PSNR of the worst video, and its LPIPS or SSIM. Failures: black, frozen or non-finite output where the "
    "original is sound, or an error."
)


@dataclass(frozen=True)
class Mean:
    """A mean and its standard error (nan for one value)."""

    mean: float
    error: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Mean:
        """Of one value or more. Videos count as independent draws."""
        held = list(values)
        error = statistics.stdev(held) / math.sqrt(len(held)) if len(held) > 1 else math.nan
        return cls(statistics.fmean(held), error)

    def text(self, places: int) -> str:
        """`33.85 ± 4.05`."""
        return f"{self.mean:.{places}f}" + ("" if math.isnan(self.error) else f" ± {self.error:.{places}f}")


@dataclass(frozen=True)
class Group:
    """All rows of a point that went well, by video, and those of their originals; `failed`: why others did not."""

    name: Name
    rows: dict[Case, Row] = field(default_factory=dict)
    originals: dict[Case, Row] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    @property
    def ratio(self) -> float | None:
        """How many times less DiT work than the original, over all videos; None where it is not known."""
        return self.times("flops")

    def times(self, key: str) -> float | None:
        """How many times less than the original, over all videos (seconds, forwards, ...); None: not known."""
        originals = [self.originals[video][key] for video in self.rows]
        mine = [row[key] for row in self.rows.values()]
        if None in originals or None in mine or not sum(mine):
            return None
        return float(sum(originals) / sum(mine))

    def mean(self, key: str) -> Mean | None:
        """None where a row lacks the value (LPIPS without its weights)."""
        values: list[Any] = [row.get(key) for row in self.rows.values()]
        return None if None in values else Mean.of(values)


def groups(rows: Iterable[Row], order: Iterable[Name] = ()) -> list[Group]:
    """Points in the given order, then in that of the log; those where no run went well are left out."""
    rows = list(rows)
    originals = {_video(row): row for row in rows if row["method"] == ORIGINAL and row["status"] == OK}
    found = {name: Group(name) for name in order}
    for row in (row for row in rows if row["method"] != ORIGINAL):
        group = found.setdefault(_name(row), Group(_name(row)))
        if row["status"] == OK and _video(row) in originals:
            group.rows[row["prompt"], row["seed"]] = row
            group.originals[row["prompt"], row["seed"]] = originals[_video(row)]
        elif row["status"] == FAILED:
            group.failed.append(row["reason"])
    return [group for group in found.values() if group.rows]


def _name(row: Row) -> Name:
    return row["host"], row["method"], row["point"]


def _video(row: Row) -> tuple[str, str, str, int]:
    """What a row and its original have in common."""
    return row["host"], json.dumps(row["video"], sort_keys=True), row["prompt"], row["seed"]


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Cells padded to columns."""
    table = [list(head), *(list(row) for row in rows)]
    wide = [max(3, *(len(row[k]) for row in table)) for k in range(len(table[0]))]
    lines = [f"| {' | '.join(map(str.ljust, row, wide))} |" for row in table]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in wide) + "|", *lines[1:]])


def results(found: Sequence[Group]) -> str:
    """One table a host."""
    parts = [(host, markdown(head, rows)) for host, head, rows in cells(found)]
    return "\n\n".join(f"## {host}\n\n{table}" if len(parts) > 1 else table for host, table in parts)


def cells(found: Sequence[Group]) -> list[tuple[str, list[str], list[list[str]]]]:
    """(host, head, rows) of every host, the original first; columns in which nothing stands are left out."""
    tables = []
    for host in dict.fromkeys(group.name[0] for group in found):
        mine = [group for group in found if group.name[0] == host]
        rows = [*_originals(mine), *([*_cost(group), *_nearness(group)] for group in mine)]
        kept = [k for k in range(len(HEAD)) if k < 2 or any(row[k] for row in rows)]
        tables.append((host, [HEAD[k] for k in kept], [[row[k] for k in kept] for row in rows]))
    return tables


def _originals(found: Sequence[Group]) -> list[list[str]]:
    """The host alone; one line for every kind of video (a length)."""
    kinds: dict[str, Group] = {}
    for group in found:
        for video, row in group.originals.items():
            what = ", ".join(f"{value} {key.removeprefix('num_')}" for key, value in row["video"].items())
            kind = kinds.setdefault(what, Group((group.name[0], ORIGINAL, what)))
            kind.rows[video] = kind.originals[video] = row
    return [[*_cost(kind), "", "", "", "", ""] for kind in kinds.values()]


def _cost(group: Group) -> list[str]:
    def told(key: str, places: int, unit: float = 1.0) -> str:
        return "" if (mean := group.mean(key)) is None else f"{mean.mean / unit:.{places}f}"

    def times(key: str) -> str:
        return "" if (value := group.times(key)) is None else f"{value:.2f}"

    kept = "" if group.name[1] == ORIGINAL else told("bytes", 1, 1e6)
    peaks = [row.get("memory") or row.get("rss") or 0 for row in group.rows.values()]
    peak = f"{max(peaks) / 1e6:.0f}" if any(peaks) else ""
    costs = [told("seconds", 2), times("seconds"), told("dit", 2), times("dit"), times("flops"), told("forwards", 0)]
    return [*group.name[1:], str(len(group.rows)), *costs, kept, peak]


def _nearness(group: Group) -> list[str]:
    cells = ["" if (mean := group.mean(key)) is None else mean.text(places) for key, places in PLACES.items()]
    worst = []
    for key, ends in (("psnr", min), ("lpips", max), ("ssim", min)):
        values = [value for row in group.rows.values() for value in row["each"][key] if value is not None]
        worst += [f"{ends(values):.{PLACES[key]}f}"] if values else []
    faults = Counter(fault for row in group.rows.values() for fault in row["failures"])
    told = [f"{count} {fault}" for fault, count in faults.items()]
    told += [f"{len(group.failed)} with an error"] if group.failed else []
    return [*cells, " / ".join(worst[:2]), ", ".join(told) or "0"]


def made(command: str, found: Sequence[Group], rows: Sequence[Row]) -> str:
    """By which command, on how many videos, where, when, by which code."""
    videos = {video for group in found for video in group.rows}
    prompts = {prompt for prompt, _ in videos}
    what = f"{len(videos)} video{'s' if len(videos) > 1 else ''}"
    what += f" of {len(prompts)} prompt{'s' if len(prompts) > 1 else ''}" if prompts != {""} else ""
    dates = sorted({row["date"] for row in rows})
    span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    codes = sorted({row["code"] for row in rows})
    of_code = f"code {codes[0]}" if len(codes) == 1 else f"of {len(codes)} versions of the code: {', '.join(codes)}"
    return f"`{command}`: {what}; {'; '.join(sorted({row['machine'] for row in rows}))}; {span}; {of_code}."


def troubles(rows: Sequence[Row], found: Sequence[Group], broken: int = 0) -> str:
    """What is not in the tables, and why; "" where nothing is missing. `broken`: lines of the log that are none."""
    lines = []
    had = {_name(row) for row in rows if row["status"] == OK}
    strange = [row for row in rows if row["status"] == UNAVAILABLE and _name(row) not in had]
    failed = [row for row in rows if row["status"] == FAILED]
    for what, those in (("left out", strange), ("failed", failed)):
        for why in dict.fromkeys(row["reason"] for row in those):
            where = dict.fromkeys(f"{row['method']}, {row['point']}" for row in those if row["reason"] == why)
            lines.append(f"* {what}: {'; '.join(where)}: {why}")
    if len({len(group.rows) for group in found}) > 1:
        lines.append("* not all points have the same videos: it has not been run to its end")
    for remark in dict.fromkeys(remark for row in rows for remark in row.get("remarks", ())):
        those = [row for row in rows if remark in row.get("remarks", ())]
        where = dict.fromkeys(f"{row['method']} {row['point']}".strip() for row in those)
        lines.append(f"* {remark} ({', '.join(where)})")
    if found and all(group.mean("lpips") is None and group.mean("ssim") is not None for group in found):
        lines.append("* LPIPS is not given: its weights are not installed; docs/quality.md says how to get them")
    if broken:
        lines.append(f"* {broken} line{'s' if broken > 1 else ''} of the log could not be read and went unused")
    return "\n".join(lines)
