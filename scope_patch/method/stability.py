"""When an extrapolation must not be used: the checks the paper calls stability checks and leaves unspecified.

They are arithmetic on sizes measured when the velocities were computed, so they are known *before* a branch is served
and cost no look at a tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .predictors.points import Points


@dataclass(frozen=True)
class Limits:
    """Bounds of a usable prediction.

    Attributes:
        step_ratio: largest |h / h1|, the distance to be bridged over the gap the slope was measured on.
        magnitude: largest ||v^ - v0|| / ||v0||, by the triangle inequality over slope and curvature terms.
    """

    step_ratio: float = 8.0
    magnitude: float = 1.0


def is_finite(points: Points, slots: Tensor) -> bool:
    """Whether the measured sizes of these slots (booleans [slots]) are all finite."""
    return points.faulty is None or not bool((points.faulty & slots).any())


def fine(target: Tensor, points: Points, weights: Tensor, limits: Limits) -> Tensor:
    """Slots whose prediction at `target` (noise levels, float64 [slots]) stays inside the limits, booleans [slots].

    Args:
        weights: what the predictor made of it, [points, slots]; what it gave up (order, reach) is not counted.
    """
    ratio = ((target - points.levels[0]) * points.per_first_gap).abs()
    inside = ratio <= limits.step_ratio
    if points.drift is not None:
        inside &= change(points, weights) <= limits.magnitude
    return inside | (weights[1] == 0)


def change(points: Points, weights: Tensor) -> Tensor:
    """An upper bound of ||v^ - v0|| / ||v0|| a slot, from the weights and the measured drift and bend."""
    drift = points.drift if points.drift is not None else torch.zeros_like(weights[0])
    first = weights[0] - 1  # v^ - v0 = first (v0 - v1) + second (v1 - v2), and
    if len(weights) < 3 or points.bend is None:
        return first.abs() * drift
    second = -weights[2]  # v1 - v2 = (h2 / h1)(v0 - v1) - h2 (h1 + h2) C / 2
    h1, h2 = points.first_gap.nan_to_num(nan=0.0), points.second_gap.nan_to_num(nan=0.0)
    slope = (first + second * h2 * points.per_first_gap).abs() * drift
    return slope + (second * h2 * (h1 + h2) / 2).abs() * points.bend
