"""What the histories say about the present iteration: usable or not, and the velocities they give."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from . import stability
from .history import BranchHistory
from .predictors import Predictor
from .predictors.points import Points
from .schedule import Interval

MOST = 3
"""History points a slot can have at most."""


class Forecast:
    """Predictions not yet made, of all CFG branches at once; weights are worked out when first asked for.

    Args:
        histories: of the branches that have one; a velocity can be asked for where one covers `interval`.
        known: what is known of them, joined (see `Points.join`).
        levels: present noise levels, float64 [slots of the interval].
        active: which of these slots are updated now, booleans [slots].
    """

    def __init__(
        self,
        histories: Sequence[BranchHistory],
        known: Points,
        interval: Interval,
        levels: Tensor,
        active: Tensor,
        predictor: Predictor,
        limits: stability.Limits,
    ) -> None:
        self.histories, self.known, self.interval = histories, known, interval
        self.levels, self.active = torch.cat([levels] * len(histories)), torch.cat([active] * len(histories))
        self.predictor, self.limits = predictor, limits

    @cached_property
    def weights(self) -> Tensor:
        """The predictor's, [points, branches * slots]."""
        return self.predictor.weights(self.levels, self.known)

    @property
    def count(self) -> int:
        """Distinct history points, the least over the active slots; 3 where none is active."""
        if self.known.least == MOST:
            return MOST
        return int(torch.where(self.active, self.known.count, MOST).min())

    @property
    def finite(self) -> bool:
        return stability.is_finite(self.known, self.active)

    @property
    def stable(self) -> bool:
        return stability.is_stable(self.levels, self.known, self.weights, self.active, self.limits)

    def hold(self, history: BranchHistory) -> Tensor:
        """The newest velocity of a branch over the interval."""
        return history.combine(self.interval, torch.ones(1, self.interval[1] - self.interval[0]))

    def predict(self, history: BranchHistory) -> Tensor:
        """The predicted velocity of a branch over the interval."""
        width = self.interval[1] - self.interval[0]
        first = width * next(k for k, other in enumerate(self.histories) if other is history)
        return history.combine(self.interval, self.weights[: len(history.anchors), first : first + width])
