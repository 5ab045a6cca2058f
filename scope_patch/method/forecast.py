"""What the histories say about the present iteration: the velocities they give.

Nothing here looks at a velocity or waits for its device.
"""

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
from .tally import Tally


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
        tally: told of the slots that are held because their prediction would leave the limits ("stability"), and of
            those whose measured sizes are not numbers ("finite").
    """

    def __init__(
        self,
        parts: Sequence[Part],
        known: Points,
        schedule: Schedule,
        iteration: int,
        predictor: Predictor,
        limits: stability.Limits,
        tally: Tally,
    ) -> None:
        self.parts, self.known = parts, known
        self.schedule, self.iteration = schedule, iteration
        self.predictor, self.limits = predictor, limits
        self._depths = [len(part.history.anchors) for part in parts]
        self._intervals, self._tally = [part.interval for part in parts], tally
        tally.note("finite", iteration, self._intervals, known.faulty)

    @cached_property
    def weights(self) -> Tensor:
        """The predictor's, [points, slots of all parts]; slots whose prediction leaves the limits are held."""
        device = self.known.levels.device
        wanted = {interval: self.schedule.levels(self.iteration, interval, device) for interval in self._intervals}
        levels = torch.cat([wanted[interval] for interval in self._intervals])
        weights = self.predictor.weights(levels, self.known)
        if len(weights) < 2:
            return weights
        inside = stability.fine(levels, self.known, weights, self.limits)
        self._tally.note("stability", self.iteration, self._intervals, ~inside)
        return torch.where(inside, weights, self.known.holding[: len(weights)])

    def hold(self, part: Part) -> Tensor:
        """The newest velocity of a part."""
        return part.history.hold(part.interval)

    def predict(self, part: Part) -> Tensor:
        """The predicted velocity of a part."""
        first = 0
        for other, depth in zip(self.parts, self._depths, strict=True):
            width = other.interval[1] - other.interval[0]
            if other.history is part.history:
                if len(part.history.anchors) < depth:
                    return self.hold(part)  # older points were dropped since (`Memory`): the weights count on them
                weights = self.weights[: len(part.history.anchors)]
                return part.history.combine(part.interval, weights.narrow(1, first, width))
            first += width
        raise KeyError(f"no forecast was made of slots {part.interval}")
