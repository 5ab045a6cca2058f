"""Rows of one point taken together: means with their standard errors, what failed."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from .log import FAILED, OK, UNAVAILABLE, Row
from .points import ORIGINAL

Name = tuple[str, str, str]
"""(host, method, point)."""
Video = tuple[str, int]
"""(prompt, seed)."""


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
    rows: dict[Video, Row]
    originals: dict[Video, Row]
    failed: list[str]

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

    @property
    def x(self) -> float | None:
        """Where it stands on an axis."""
        found: float | None = next(iter(self.rows.values()))["x"]
        return found

    def mean(self, key: str) -> Mean | None:
        """None where a row lacks the value (LPIPS without its weights)."""
        values = [row.get(key) for row in self.rows.values()]
        known = [value for value in values if value is not None]
        return Mean.of(known) if len(known) == len(values) else None

    @property
    def worst(self) -> dict[str, float]:
        """By metric, that of the worst video."""
        made = {}
        for name, ends in (("psnr", min), ("ssim", min), ("lpips", max)):
            values = [value for row in self.rows.values() for value in row["each"][name] if value is not None]
            if values:
                made[name] = ends(values)
        return made

    @property
    def faults(self) -> Counter[str]:
        """How many videos have which fault that their original has not."""
        return Counter(fault for row in self.rows.values() for fault in row["failures"])


def groups(rows: Iterable[Row], order: Iterable[Name] = ()) -> list[Group]:
    """Points in the given order, then in that of the log; those where no run went well are left out."""
    rows = list(rows)
    originals = {_video(row): row for row in rows if row["method"] == ORIGINAL and row["status"] == OK}
    found: dict[Name, Group] = {}
    for row in rows:
        name = (row["host"], row["method"], row["point"])
        if row["method"] == ORIGINAL:
            continue
        group = found.setdefault(name, Group(name, {}, {}, []))
        if row["status"] == OK and _video(row) in originals:
            group.rows[row["prompt"], row["seed"]] = row
            group.originals[row["prompt"], row["seed"]] = originals[_video(row)]
        elif row["status"] == FAILED:
            group.failed.append(row["reason"])
    listed = [*(name for name in order if name in found), *found]
    return [found[name] for name in dict.fromkeys(listed) if found[name].rows]


def unavailable(rows: Iterable[Row]) -> dict[str, list[str]]:
    """{reason: points} of what cannot be had here and has no run from elsewhere."""
    rows = list(rows)
    had = {(row["host"], row["method"], row["point"]) for row in rows if row["status"] == OK}
    found: dict[str, list[str]] = {}
    for row in rows:
        name = (row["host"], row["method"], row["point"])
        if row["status"] == UNAVAILABLE and name not in had:
            found.setdefault(row["reason"], []).append(f"{row['method']}, {row['point']}")
    return {reason: list(dict.fromkeys(points)) for reason, points in found.items()}


def _video(row: Row) -> tuple[str, str, str, int]:
    """What a row and its original have in common."""
    return row["host"], json.dumps(row["video"], sort_keys=True), row["prompt"], row["seed"]
