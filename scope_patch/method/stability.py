"""When an extrapolation must not be used: the checks the paper calls stability checks and leaves unspecified.

They are arithmetic on sizes measured when the velocities were computed, so they are known *before* a branch is served
and cost no look at a tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    return points.finite is None or bool(points.finite[slots].all())


def is_stable(target: Tensor, points: Points, weights: Tensor, slots: Tensor, limits: Limits) -> bool:
    """Whether a prediction at `target` (noise levels, float64 [slots]) stays inside the limits.

    Args:
        weights: what the predictor made of it, [points, slots]; what it gave up (order, reach) is not counted.
        slots: booleans [slots]; only those that are updated now matter.
    """
    if not slots.any() or len(points) < 2:
        return True
    moved = weights[1].abs() > 0
    ratio = ((target - points.levels[0]) / points.first_gap).abs()
    if bool((ratio[slots & moved] > limits.step_ratio).any()):
        return False
    if points.drift is None:
        return True
    return bool((change(points, weights)[slots & moved] <= limits.magnitude).all())


def change(points: Points, weights: Tensor) -> Tensor:
    """An upper bound of ||v^ - v0|| / ||v0|| a slot, from the weights and the measured drift and bend."""
    drift = points.drift if points.drift is not None else weights[0] * 0
    if len(points) < 3:
        return weights[1].abs() * drift
    # v^ - v0 = -(w1 + w2)(v0 - v1) - w2 (v1 - v2), and v1 - v2 = (h2 / h1)(v0 - v1) - h2 (h1 + h2) C / 2.
    h1, h2 = points.first_gap, points.second_gap
    slope = (weights[1] + weights[2] * (1 + (h2 / h1).nan_to_num(0.0))).abs() * drift
    bend = points.bend if points.bend is not None else drift * 0
    return slope + ((weights[2] * h2 * (h1 + h2)).nan_to_num(0.0) / 2).abs() * bend.nan_to_num(0.0)
