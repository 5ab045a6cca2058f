"""Predictor `taylor2`: second order in Newton form (equation 7 of design §2)."""

from __future__ import annotations

from torch import Tensor

from .points import Points, curvature_weights, hold_weights, slope_weights, zero_where_missing


class Taylor2:
    """Second order in Newton form, v0 + h D1 + h (h + h1) C / 2: exact on parabolas; first order on two points."""

    name = "taylor2"
    keeps = 3

    def weights(self, target: Tensor, points: Points) -> Tensor:
        h = target - points.levels[0]
        bend = zero_where_missing(0.5 * h * (h + points.first_gap))
        return hold_weights(points) + slope_weights(points, h) + curvature_weights(points, bend)
