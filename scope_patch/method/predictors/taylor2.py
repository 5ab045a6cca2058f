"""Predictor `taylor2`: second order in Newton form (equation 7 of design §2)."""

from __future__ import annotations

from torch import Tensor

from .points import Points


class Taylor2:
    """Second order in Newton form, v0 + h D1 + h (h + h1) C / 2: exact on parabolas; first order on two points."""

    name = "taylor2"
    keeps = 3

    def weights(self, target: Tensor, points: Points) -> Tensor:
        h = target - points.newest
        bend = 0.5 * h * (h + points.gaps[0]) * points.per_both_gaps
        return points.weigh(h + bend, -bend)
