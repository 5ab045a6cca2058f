"""What the histories say about the present iteration: usable or not, and the velocities they give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from . import stability
from .history import BranchHistory
from .predictors import Predictor
from .predictors.points import Points
from .schedule import Interval, Schedule

MOST = 3
"""History points a slot can have at most."""


@dataclass(frozen=True)
class Part:
    """A history, and the slots that are asked of it."""

    history: BranchHistory
    interval: Interval


class Forecast:
    """Predictions not yet made, of all parts at once; weights are worked out when first asked for.

    Args:
        parts: histories that have a velocity; one can be asked for where the history covers the part's interval.
        known: what is known of them, joined (see `Points.join`).
        iteration: where in the schedule the velocities are wanted.
        clip: slots whose prediction leaves the limits repeat their last velocity.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        known: Points,
        schedule: Schedule,
        iteration: int,
        predictor: Predictor,
        limits: stability.Limits,
        clip: bool = False,
    ) -> None:
        self.parts, self.known, self.clip = parts, known, clip
        self.levels = torch.cat([schedule.levels(iteration, part.interval) for part in parts])
        self.active = torch.cat([schedule.mask[iteration, slice(*part.interval)] for part in parts])
        self.predictor, self.limits = predictor, limits

    @cached_property
    def weights(self) -> Tensor:
        """The predictor's, [points, slots of all parts]."""
        weights = self.predictor.weights(self.levels, self.known)
        if not self.clip or len(weights) < 2:
            return weights
        hold = torch.zeros_like(weights)
        hold[0] = 1.0
        return torch.where(stability.fine(self.levels, self.known, weights, self.limits), weights, hold)

    def covers(self, group: Interval) -> bool:
        """Whether there is a part for each of these slots."""
        return {*range(*group)} <= {slot for part in self.parts for slot in range(*part.interval)}

    def slots(self, group: Interval | None) -> Tensor:
        """The active slots of a group (all of them: None), booleans over the slots of all parts."""
        if group is None:
            return self.active
        numbers = torch.cat([torch.arange(*part.interval) for part in self.parts])
        return self.active & (group[0] <= numbers) & (numbers < group[1])

    def count(self, group: Interval | None = None) -> int:
        """Distinct history points, the least over the active slots; 3 where none is active."""
        if self.known.least == MOST:
            return MOST
        return int(torch.where(self.slots(group), self.known.count, MOST).min())

    def finite(self, group: Interval | None = None) -> bool:
        return stability.is_finite(self.known, self.slots(group))

    def stable(self, group: Interval | None = None) -> bool:
        return self.clip or stability.is_stable(self.levels, self.known, self.weights, self.slots(group), self.limits)

    def hold(self, part: Part) -> Tensor:
        """The newest velocity of a part."""
        return part.history.combine(part.interval, torch.ones(1, part.interval[1] - part.interval[0]))

    def predict(self, part: Part) -> Tensor:
        """The predicted velocity of a part."""
        first = 0
        for other in self.parts:
            width = other.interval[1] - other.interval[0]
            if other.history is part.history:
                return part.history.combine(
                    part.interval, self.weights[: len(part.history.anchors), first : first + width]
                )
            first += width
        raise KeyError(f"no forecast was made of slots {part.interval}")
