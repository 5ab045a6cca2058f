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

    Attributes:
        clipped: some slot that is updated now is held, because its prediction would leave the limits.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        known: Points,
        schedule: Schedule,
        iteration: int,
        predictor: Predictor,
        limits: stability.Limits,
    ) -> None:
        self.parts, self.known, self.clipped = parts, known, False
        self.levels = torch.cat([schedule.levels(iteration, part.interval) for part in parts])
        self.active = torch.cat([schedule.mask[iteration, slice(*part.interval)] for part in parts])
        self.predictor, self.limits = predictor, limits

    @cached_property
    def weights(self) -> Tensor:
        """The predictor's, [points, slots of all parts]; slots whose prediction leaves the limits are held."""
        weights = self.predictor.weights(self.levels, self.known)
        if len(weights) < 2:
            return weights
        hold = torch.zeros_like(weights)
        hold[0] = 1.0
        inside = stability.fine(self.levels, self.known, weights, self.limits)
        self.clipped = bool((~inside & self.active).any())
        return torch.where(inside, weights, hold)

    @property
    def finite(self) -> bool:
        """Whether the velocities of all active slots are."""
        return stability.is_finite(self.known, self.active)

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
