"""Predictor `auto`: second order as far as the history itself says it can be trusted, slot by slot.

Second order alone is the best predictor where velocities are smooth and the horizon short, and worse than hold where
they are noisy (bf16) or the horizon long (its curvature was measured on a short gap). What tells the two apart is how
much the curvature would correct the first-order change: smooth velocities are corrected a little, noise a lot.
Measured with `examples/predictors.py`; see docs/demo.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .points import Points
from .taylor2 import newton

TRUSTED_CORRECTION = 0.3
"""A curvature term of this share of the first-order change is halved; a larger one is damped by its square."""
REACH = 3.0
"""A slope between the newest of three points is followed up to this many times the gap it was measured on."""


class Auto:
    """Second order with a curvature damped where it disagrees with the slope, and a bounded reach; best measured."""

    name = "auto"
    keeps = 3

    def weights(self, target: Tensor, points: Points) -> Tensor:
        h = target - points.levels[0]
        ratio = h * points.per_first_gap
        # With two points the slope is all there is: right after growth, at high noise, where velocities change little.
        far = (ratio.abs() > REACH) & (points.count >= 3)
        reach = torch.where(far, h * (REACH / ratio.abs()), h)
        if len(points) < 3 or points.drift is None or points.bend is None:
            return points.weigh(reach)
        curvature = newton(h, points)
        bend = curvature * trust(ratio.abs() * points.drift, curvature.abs() * points.bend) * points.per_both_gaps
        return points.weigh(reach + bend, -bend)


def trust(slope: Tensor, curvature: Tensor) -> Tensor:
    """1 / (1 + (q / q0)^2), q = curvature / slope, the sizes of two terms; 0 where there is nothing to compare with."""
    return (1 / (1 + (curvature / slope / TRUSTED_CORRECTION) ** 2)).nan_to_num(nan=0.0)
