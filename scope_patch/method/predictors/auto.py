"""Predictor `auto`: second order as far as the history itself says it can be trusted, slot by slot.

Second order alone is the best predictor where velocities are smooth and the horizon short, and worse than hold where
they are noisy (bf16) or the horizon long (its curvature was measured on a short gap). What tells the two apart is how
much the curvature would correct the first-order change: smooth velocities are corrected a little, noise a lot.
Measured with `examples/predictors.py`; see docs/demo.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .points import Points, curvature_weights, hold_weights, slope_weights, zero_where_missing

TRUSTED_CORRECTION = 0.3
"""A curvature term of this share of the first-order change is halved; a larger one is damped by its square."""
REACH = 3.0
"""A slope between the newest of three points is followed up to this many times the gap it was measured on."""


class Auto:
    """Second order with a curvature damped where it disagrees with the slope, and a bounded reach; best measured."""

    name = "auto"
    keeps = 3

    def weights(self, target: Tensor, points: Points) -> Tensor:
        h, h1 = target - points.levels[0], points.first_gap
        bounded = h1 * (h / h1).clamp(-REACH, REACH)
        # With two points the slope is all there is: right after growth, at high noise, where velocities change little.
        slope = slope_weights(points, torch.where(points.count >= 3, bounded, h))
        bend = 0.5 * h * (h + h1)
        return hold_weights(points) + slope + curvature_weights(points, zero_where_missing(bend * trust(h, points)))


def trust(h: Tensor, points: Points) -> Tensor:
    """1 / (1 + (q / q0)^2), with q = ||curvature term|| / ||first-order term|| at distance h; 0 where it is unknown."""
    if points.drift is None or points.bend is None:
        return torch.zeros_like(h)
    first = (h / points.first_gap).abs() * points.drift
    correction = (0.5 * h * (h + points.first_gap)).abs() * points.bend
    return 1 / (1 + (correction / first / TRUSTED_CORRECTION) ** 2)
