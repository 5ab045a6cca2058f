"""How much a signal that is known beforehand changes between two iterations (d of equation 4 of design §2).

d = mean|f[i] - f[i-1]| / (mean|f[i-1]| + eps), over the slots that both iterations have.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .schedule import Interval, Schedule, overlap

SQRT2 = math.sqrt(2)
EPSILON = 1e-8
EXPECTED = "expected change of the latents"
Changes = Callable[[int, Interval], float | None]
"""(iteration, slots) -> d against the iteration before, over those of the slots that it had too."""
Feature = Callable[[Tensor], Tensor]
"""Timesteps [n] -> features [n, ...]."""


def placed_by(profile: str | None) -> str:
    """What placed recomputes hang on, for people."""
    return "noise levels" if profile is None else f"noise levels, {profile}"


def unasked(iteration: int, slots: Interval) -> float:
    """Where decisions do not hang on changes."""
    return 0.0


def of_feature(feature: Feature, schedule: Schedule) -> Changes:
    """Changes of a feature of the timesteps.

    The feature of a slot depends on its timestep alone, and all slots' features have one size. So the means over slots
    are means of numbers that belong to pairs of timesteps, of which a schedule has few: each is worked out once.

    Args:
        feature: asked once, for all timesteps of the schedule.
    """
    times = schedule.timesteps.double()
    changes: list[list[float]] = []
    sizes: list[list[float]] = []
    if len(times) > 1:
        steps = torch.stack([times[1:].flatten(), times[:-1].flatten()])
        pairs, which = torch.unique(steps, dim=1, return_inverse=True)
        known, rows = torch.unique(pairs, return_inverse=True)
        now, before = feature(known).flatten(1)[rows]
        changes, sizes = (
            values.abs().mean(dim=1)[which].view_as(times[1:]).tolist() for values in (now - before, before)
        )

    def change(iteration: int, slots: Interval) -> float | None:
        start, end = _shared(schedule, iteration, slots)
        if start >= end:
            return None
        moved, whole = (sum(means[iteration - 1][start:end]) / (end - start) for means in (changes, sizes))
        return moved / (whole + EPSILON)

    return change


def expected(schedule: Schedule) -> Changes:
    """How much latents are expected to change on the straight way from noise to data, both of unit variance.

    x = (1 - sigma) data + sigma noise changes by |d sigma| sqrt(2) and has the size sqrt((1 - sigma)^2 + sigma^2): what
    the latents themselves would show on average, known beforehand and to every rank alike.
    """
    levels: list[list[float]] = schedule.noise_levels.tolist()
    sizes: list[list[float]] = ((1 - schedule.noise_levels).square() + schedule.noise_levels.square()).sqrt().tolist()

    def change(iteration: int, slots: Interval) -> float | None:
        start, end = _shared(schedule, iteration, slots)
        if start >= end:
            return None
        moved = sum(abs(levels[iteration][slot] - levels[iteration - 1][slot]) for slot in range(start, end))
        size: float = sum(sizes[iteration - 1][start:end])
        return moved * SQRT2 / size

    return change


def _shared(schedule: Schedule, iteration: int, slots: Interval) -> Interval:
    """The slots that the iteration before had too; an empty interval at the first."""
    if iteration == 0:
        return slots[0], slots[0]
    return overlap(slots, schedule.intervals[iteration - 1])
