"""What a suite is made of: points, each a method at one of its operating points."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

CALIBRATED = "(calibrated here)"
"""Stands for the path of the profile that the bench makes, in a point's settings."""
OURS = "scope"
"""The method that the others are compared with: this package at its defaults."""

Key = tuple[str, str, str, str, int, str]


@dataclass(frozen=True, eq=False)
class Point:
    """One line of a table.

    Attributes:
        settings: for scope_patch.patched; None leaves the host unpatched.
        instead: pipeline options of this run alone (fewer steps); its reference is made without them.
        video: pipeline options of the run and of its reference (a length).
        x: where it stands on the axis of a figure over a setting (K, frames).
    """

    method: str
    name: str
    settings: dict[str, Any] | None
    instead: dict[str, Any] = field(default_factory=dict)
    video: dict[str, Any] = field(default_factory=dict)
    host: str = "demo"
    x: float | None = None


@dataclass(frozen=True, eq=False)
class Suite:
    """Points, with how many prompts and seeds are filmed unless asked otherwise, and what the tables are headed with.

    Attributes: figure, "plane" (speed against quality), "lines" (over each point's `x`) or "" for none.
    """

    about: str
    points: tuple[Point, ...]
    prompts: int = 8
    seeds: int = 1
    figure: str = ""
    axis: str = ""
    notes: str = ""


@dataclass(frozen=True, eq=False)
class Job:
    """One video to be made."""

    point: Point
    prompt: str
    seed: int

    def key(self, weights: str) -> Key:
        """What tells a run from all others. `weights`: the fingerprint of the host's."""
        host, method, name, options = self.kind(weights)
        return host, method, name, self.prompt, self.seed, options

    def kind(self, weights: str) -> tuple[str, str, str, str]:
        """What all videos of the point share."""
        point = self.point
        options = digest(weights, point.settings, point.instead, point.video)
        return point.host, point.method, point.name, options


def digest(*values: Any) -> str:
    """Ten letters that differ wherever the values do."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]
