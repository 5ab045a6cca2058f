"""Predictor `momentum`: first order with a slope averaged over the last two gaps."""

from __future__ import annotations

import torch
from torch import Tensor

from .points import Points

OLD_SHARE = 0.3
"""Weight of the older slope. The paper names a momentum predictor and gives no formula; this one is ours."""


class Momentum:
    """First order with a slope smoothed over two gaps: exact on lines, calmer than taylor1 on rough velocities."""

    name = "momentum"
    keeps = 3

    def weights(self, target: Tensor, points: Points) -> Tensor:
        h = target - points.newest
        old = torch.where(points.count >= 3, OLD_SHARE, 0.0)
        return points.weigh(h * (1 - old), h * old)
