"""The built-in predictors: which weight each history point has, slot by slot (see `Predictor`)."""

from __future__ import annotations

import torch
from torch import Tensor

from .points import Points

TRUSTED_CORRECTION = 0.3
"""A curvature term of this share of the first-order change is halved; a larger one is damped by its square."""
REACH = 3.0
"""A slope between the newest of three points is followed up to this many times the gap it was measured on."""
OLD_SHARE = 0.3
"""Weight of momentum's older slope. The paper names a momentum predictor and gives no formula; this one is ours."""


class Auto:
    """Second order with a curvature damped where it disagrees with the slope, and a bounded reach; best measured.

    Second order alone is the best predictor where velocities are smooth and the horizon short, and worse than hold
    where they are noisy (bf16) or the horizon long (its curvature was measured on a short gap). What tells the two
    apart is how much the curvature would correct the first-order change: smooth velocities are corrected a little,
    noise a lot. Measured with `examples/studies/predictors.py`; see docs/demo.md.
    """

    name = "auto"
    keeps = 3

    def weights(self, target: Tensor, points: Points) -> Tensor:
        h = target - points.newest
        # With two points the slope is all there is: right after growth, at high noise, where velocities change little.
        ratio = (h * points.per_first_gap).abs()
        reach = torch.where((points.count >= 3) & (ratio > REACH), h * (REACH / ratio), h)
        if len(points) < 3:
            return points.weigh(reach)
        beyond = h + points.gaps[0]  # h + h1: the curvature term is h (h + h1) C / 2
        # Of the first-order term h D1, the curvature term is the share |h + h1| ||C|| / (2 ||D1||).
        share = beyond * points.disagreement * (0.5 / TRUSTED_CORRECTION)
        bend = h * beyond * points.per_both_gaps * (0.5 / (1 + share * share))
        return points.weigh(reach + bend, -bend)


class Hold:
    """Repeats the last velocity: exact on constants."""

    name = "hold"
    keeps = 2  # it reads one; but Predict asks for two whatever the predictor, so that forwards can be compared

    def weights(self, target: Tensor, points: Points) -> Tensor:
        return points.holding[:1]


class Last:
    """Repeats the last velocity and keeps no other: half the memory of `hold`, but nothing to Predict from."""

    name = "last"
    keeps = 1

    def weights(self, target: Tensor, points: Points) -> Tensor:
        return points.holding[:1]


class Momentum:
    """First order with a slope smoothed over two gaps: exact on lines, calmer than taylor1 on rough velocities."""

    name = "momentum"
    keeps = 3

    def weights(self, target: Tensor, points: Points) -> Tensor:
        h = target - points.newest
        old = torch.where(points.count >= 3, OLD_SHARE, 0.0)
        return points.weigh(h * (1 - old), h * old)


class Taylor1:
    """First order, v0 + (h / h1)(v0 - v1): exact on lines, also with uneven gaps."""

    name = "taylor1"
    keeps = 2

    def weights(self, target: Tensor, points: Points) -> Tensor:
        return points.weigh(target - points.newest)


class Taylor2:
    """Second order in Newton form, v0 + h D1 + h (h + h1) C / 2: exact on parabolas; first order on two points."""

    name = "taylor2"
    keeps = 3

    def weights(self, target: Tensor, points: Points) -> Tensor:
        h = target - points.newest
        bend = 0.5 * h * (h + points.gaps[0]) * points.per_both_gaps
        return points.weigh(h + bend, -bend)


class TaylorSeer2:
    """Second order by backward differences, v0 + h D1 + h h (D1 - D2) / (2 h1): TaylorSeer's, for policy taylorseer."""

    name = "taylorseer2"
    keeps = 3

    def weights(self, target: Tensor, points: Points) -> Tensor:
        h = target - points.newest
        bend = 0.5 * h * h * points.per_first_gap
        # Where a slot has no third point its D2 drops out, and its D1 must then not be bent either.
        bend = bend * (points.count >= 3)
        return points.weigh(h + bend, -bend)
