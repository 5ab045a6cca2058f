"""How much a signal that is known beforehand changes between two iterations (d of equation 4)."""

from __future__ import annotations

import math
from collections.abc import Callable

from .discrepancy import Discrepancy, Feature
from .schedule import Interval, Schedule, overlap

SQRT2 = math.sqrt(2)
EXPECTED = "expected change of the latents"
Changes = Callable[[int, Interval], float | None]
"""(iteration, slots) -> d against the iteration before, over those of the slots that it had too."""


def placed_by(profile: str | None) -> str:
    """What placed recomputes hang on, for people."""
    return "noise levels" if profile is None else f"noise levels, {profile}"


def unasked(iteration: int, slots: Interval) -> float:
    """Where decisions do not hang on changes."""
    return 0.0


def of_feature(feature: Feature, schedule: Schedule) -> Changes:
    """Changes of a feature of the timesteps, asked for all of the schedule's timesteps at once."""
    discrepancy = Discrepancy(feature, schedule.timesteps)
    timesteps = schedule.timesteps.tolist()

    def change(iteration: int, slots: Interval) -> float | None:
        start, end = shared(schedule, iteration, slots)
        return discrepancy(timesteps[iteration][start:end], timesteps[iteration - 1][start:end])

    return change


def expected(schedule: Schedule) -> Changes:
    """How much latents are expected to change on the straight way from noise to data, both of unit variance.

    x = (1 - sigma) data + sigma noise changes by |d sigma| sqrt(2) and has the size sqrt((1 - sigma)^2 + sigma^2): what
    the latents themselves would show on average, known beforehand and to every rank alike.
    """
    levels: list[list[float]] = schedule.noise_levels.tolist()
    sizes: list[list[float]] = ((1 - schedule.noise_levels).square() + schedule.noise_levels.square()).sqrt().tolist()

    def change(iteration: int, slots: Interval) -> float | None:
        start, end = shared(schedule, iteration, slots)
        if start >= end:
            return None
        moved = sum(abs(levels[iteration][slot] - levels[iteration - 1][slot]) for slot in range(start, end))
        size: float = sum(sizes[iteration - 1][start:end])
        return moved * SQRT2 / size

    return change


def shared(schedule: Schedule, iteration: int, slots: Interval) -> Interval:
    """The slots that the iteration before had too; an empty interval at the first."""
    if iteration == 0:
        return slots[0], slots[0]
    return overlap(slots, schedule.intervals[iteration - 1])
