"""When an extrapolation must not be used: the checks the paper calls stability checks and leaves unspecified.

They are arithmetic on sizes measured from the velocities, on their device: no number is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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

    @classmethod
    def none(cls) -> Limits:
        """No bounds but finiteness: for a rival's forecast, which has none."""
        return cls(math.inf, math.inf)


def fine(target: Tensor, points: Points, weights: Tensor, limits: Limits) -> Tensor:
    """Slots whose prediction at `target` (noise levels, [slots]) stays inside the limits, booleans [slots].

    A slot whose sizes are not numbers does not, unless its weights repeat the last velocity anyway.

    Args:
        weights: what the predictor made of it, [points, slots]; what it gave up (order, reach) is not counted.
    """
    ratio = ((target - points.newest) * points.per_first_gap).abs()
    inside = ratio <= limits.step_ratio
    rows = weights.unbind()
    if points.drift is not None and points.bend is not None:
        inside &= change(points, rows) <= limits.magnitude
    return inside | (rows[1] == 0)


def change(points: Points, rows: Sequence[Tensor]) -> Tensor:
    """An upper bound of ||v^ - v0|| / ||v0|| a slot, from the measured drift and bend, which must be known.

    Args:
        rows: weights of the points, newest first, [slots] each.
    """
    assert points.drift is not None and points.bend is not None
    first = rows[0] - 1  # v^ - v0 = first (v0 - v1) + second (v1 - v2)
    if len(rows) < 3:
        return first.abs() * points.drift
    second = -rows[2]
    slope, curvature = points.older
    return (first + second * slope).abs() * points.drift + (second * curvature).abs() * points.bend
