"""Predictor `auto`: the order, slot by slot, that the history itself says can be trusted."""

from __future__ import annotations

import torch
from torch import Tensor

from .points import Points, curvature_weights, hold_weights, slope_weights, zero_where_missing

DISAGREEMENT = 0.5
"""Second order is used where it corrects the first-order change by at most this share of it."""
SECOND_ORDER_REACH = 2.0
"""Second order is used up to this step ratio |h / h1|: beyond it, the curvature of a short gap is mostly noise."""
FIRST_ORDER_REACH = 3.0
"""First order extrapolates up to this step ratio; beyond it, the slope of a short gap is followed no further."""


class Auto:
    """Second order where it agrees with the first, first order otherwise, never far beyond the gap it was seen on."""

    name = "auto"
    keeps = 3

    def weights(self, target: Tensor, points: Points) -> Tensor:
        h = target - points.levels[0]
        h1 = points.first_gap
        ratio = h / h1
        reach = h1 * ratio.clamp(-FIRST_ORDER_REACH, FIRST_ORDER_REACH)
        second = self._trusts_curvature(h, points) & (ratio.abs() <= SECOND_ORDER_REACH)
        factor = torch.where(second, zero_where_missing(0.5 * h * (h + h1)), 0.0)
        return hold_weights(points) + slope_weights(points, reach) + curvature_weights(points, factor)

    def _trusts_curvature(self, h: Tensor, points: Points) -> Tensor:
        if points.drift is None or points.bend is None:
            return torch.zeros_like(h, dtype=torch.bool)
        first = (h / points.first_gap).abs() * points.drift
        correction = (0.5 * h * (h + points.first_gap)).abs() * points.bend
        return correction <= DISAGREEMENT * first  # False where a term is missing (NaN)
