"""How much a signal that is known beforehand changes between two iterations (d of equation 4 of design §2).

d = mean|f[i] - f[i-1]| / (mean|f[i-1]| + eps), over the slots that both iterations have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

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


class Discrepancy:
    """d between timesteps of the same slots.

    The feature of a slot depends on its timestep alone, and all slots' features have one size. So the means over slots
    are means of numbers that belong to pairs of timesteps, of which a schedule has few: each is worked out once.

    Args:
        feature: asked for each timestep once, in batches.
        timesteps: [iterations, slots] of a schedule; what its iterations will ask for is measured at once.
    """

    def __init__(self, feature: Feature, timesteps: Tensor | None = None) -> None:
        self.feature = feature
        self._features: dict[float, Tensor] = {}
        self._pairs: dict[tuple[float, float], tuple[float, float]] = {}
        if timesteps is not None and timesteps.shape[0] > 1:
            steps = torch.stack([timesteps[1:].flatten(), timesteps[:-1].flatten()], dim=1)
            self._measure([(now, before) for now, before in torch.unique(steps, dim=0).tolist()])

    def __call__(self, now: Sequence[float], before: Sequence[float]) -> float | None:
        """d between the timesteps of the same slots at this and the last iteration; None without a slot."""
        pairs = list(zip(now, before, strict=True))
        if not pairs:
            return None
        self._measure([pair for pair in dict.fromkeys(pairs) if pair not in self._pairs])
        change, size = (sum(self._pairs[pair][k] for pair in pairs) / len(pairs) for k in (0, 1))
        return change / (size + EPSILON)

    def _measure(self, pairs: list[tuple[float, float]]) -> None:
        if not pairs:
            return
        unknown = [t for t in dict.fromkeys(t for pair in pairs for t in pair) if t not in self._features]
        if unknown:
            features = self.feature(torch.tensor(unknown, dtype=torch.float64))
            self._features.update(zip(unknown, features.flatten(1).unbind(), strict=True))
        now, before = (torch.stack([self._features[pair[k]] for pair in pairs]) for k in (0, 1))
        change, size = (values.abs().mean(dim=1).tolist() for values in (now - before, before))
        self._pairs.update(zip(pairs, zip(change, size, strict=True), strict=True))


def of_feature(feature: Feature, schedule: Schedule) -> Changes:
    """Changes of a feature of the timesteps, asked for all of the schedule's timesteps at once."""
    discrepancy, timesteps = Discrepancy(feature, schedule.timesteps), schedule.timesteps.tolist()

    def change(iteration: int, slots: Interval) -> float | None:
        start, end = _shared(schedule, iteration, slots)
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
