"""Predictor `auto`: second order as far as the history itself says it can be trusted, slot by slot.

Second order alone is the best predictor where velocities are smooth and the horizon short, and worse than hold where
they are noisy (bf16) or the horizon long (its curvature was measured on a short gap). What tells the two apart is how
much the curvature would correct the first-order change: smooth velocities are corrected a little, noise a lot.
Measured with `examples/studies/predictors.py`; see docs/measurements.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .points import Points

TRUSTED_CORRECTION = 0.3
"""A curvature term of this share of the first-order change is halved; a larger one is damped by its square."""
REACH = 3.0
"""A slope between the newest of three points is followed up to this many times the gap it was measured on."""


class Auto:
    """Second order with a curvature damped where it disagrees with the slope, and a bounded reach; best measured."""

    name = "auto"
    keeps = 3

    def weights(self, target: Tensor, points: Points) -> Tensor:
        h = target - points.newest
        # With two points the slope is all there is: right after growth, at high noise, where velocities change little.
        ratio = (h * points.per_first_gap).abs()
        reach = torch.where(points.complete & (ratio > REACH), h * (REACH / ratio), h)
        if len(points) < 3:
            return points.weigh(reach)
        beyond = h + points.gaps[0]  # h + h1: the curvature term is h (h + h1) C / 2
        # Of the first-order term h D1, the curvature term is the share |h + h1| ||C|| / (2 ||D1||).
        share = beyond * points.disagreement * (0.5 / TRUSTED_CORRECTION)
        bend = h * beyond * points.per_both_gaps * (0.5 / (1 + share * share))
        return points.weigh(reach + bend, -bend)
