"""What the history of one CFG branch says about the present iteration: usable or not, and the velocity it gives."""

from __future__ import annotations

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
    """A prediction not yet made; sizes and weights are worked out once, when first asked for.

    Args:
        history: of the branch; it must cover `interval` when a velocity is asked for.
        levels: present noise levels, float64 [slots of the interval].
        active: which of these slots are updated now, booleans [slots].
    """

    def __init__(
        self,
        history: BranchHistory,
        interval: Interval,
        levels: Tensor,
        active: Tensor,
        predictor: Predictor,
        limits: stability.Limits,
    ) -> None:
        self.history, self.interval, self.levels, self.active = history, interval, levels, active
        self.predictor, self.limits = predictor, limits

    @property
    def known(self) -> Points:
        return self.history.points(self.interval)

    @cached_property
    def weights(self) -> Tensor:
        """The predictor's, [points, slots]."""
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

    def hold(self) -> Tensor:
        """The newest velocity over the interval."""
        return self.history.combine(self.interval, torch.ones_like(self.known.levels[:1]))

    def predict(self) -> Tensor:
        """The predicted velocity over the interval."""
        return self.history.combine(self.interval, self.weights)
