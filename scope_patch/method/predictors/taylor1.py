"""Predictor `taylor1`: first order in the noise level (equation 6 of design §2)."""

from __future__ import annotations

from torch import Tensor

from .points import Points


class Taylor1:
    """First order, v0 + (h / h1)(v0 - v1): exact on lines, also with uneven gaps."""

    name = "taylor1"
    keeps = 2

    def weights(self, target: Tensor, points: Points) -> Tensor:
        return points.weigh(target - points.newest)
