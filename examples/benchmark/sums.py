"""Rows of one point taken together: means with their standard errors, medians, what failed."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from .log import FAILED, OK, UNAVAILABLE, Row

Name = tuple[str, str, str]
"""(host, method, point)."""
Video = tuple[str, int]
"""(prompt, seed)."""


@dataclass(frozen=True)
class Mean:
    """A mean, its standard error (nan for one value) and the median."""

    mean: float
    error: float
    median: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Mean:
        """Of one value or more. Videos count as independent draws."""
        held = list(values)
        error = statistics.stdev(held) / math.sqrt(len(held)) if len(held) > 1 else math.nan
        return cls(statistics.fmean(held), error, statistics.median(held))


@dataclass(frozen=True)
class Group:
    """All rows of a point that went well, by video; `failed`: the reasons of those that did not."""

    name: Name
    rows: dict[Video, Row]
    failed: list[str]

    @property
    def ratio(self) -> float:
        """How many times fewer DiT FLOPs than the original, over all videos."""
        return sum(row["reference"]["flops"] for row in self.rows.values()) / sum(self.values("flops"))

    @property
    def speedup(self) -> float:
        """How many times less CPU time: what else runs on the machine moves it less than it moves the clock's."""
        return sum(row["reference"]["cpu"] for row in self.rows.values()) / sum(self.values("cpu"))

    @property
    def x(self) -> float | None:
        return next(iter(self.rows.values()))["x"]

    def values(self, key: str) -> list[float]:
        return [row[key] for row in self.rows.values()]

    def mean(self, key: str) -> Mean | None:
        """None where a row lacks the value (LPIPS without its weights)."""
        values = self.values(key)
        return None if None in values else Mean.of(values)

    @property
    def faults(self) -> Counter[str]:
        """How many videos have which fault that their reference has not."""
        return Counter(
            fault
            for row in self.rows.values()
            for fault in row["failures"]
            if fault not in row["reference"]["failures"]
        )


def groups(rows: Iterable[Row], order: Iterable[Name] = ()) -> list[Group]:
    """Points in the given order, then in that of the log; those where no run went well are left out."""
    found: dict[Name, Group] = {}
    for row in rows:
        name = (row["host"], row["method"], row["point"])
        group = found.setdefault(name, Group(name, {}, []))
        if row["status"] == OK:
            group.rows[row["prompt"], row["seed"]] = row
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
    return found
