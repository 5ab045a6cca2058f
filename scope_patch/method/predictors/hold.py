"""Predictor `hold`: the last velocity unchanged (what Cache does), for comparison at equal forwards."""

from __future__ import annotations

from torch import Tensor

from .points import Points


class Hold:
    """Repeats the last velocity: exact on constants."""

    name = "hold"
    keeps = 2  # it reads one; but Predict asks for two whatever the predictor, so that forwards can be compared

    def weights(self, target: Tensor, points: Points) -> Tensor:
        return points.holding[:1]
