"""Predictor `last`: the last value and nothing else, for policies that only ever reuse."""

from __future__ import annotations

from torch import Tensor

from .points import Points


class Last:
    """Repeats the last velocity and keeps no other: half the memory of `hold`, but nothing to Predict from."""

    name = "last"
    keeps = 1

    def weights(self, target: Tensor, points: Points) -> Tensor:
        return points.holding[:1]
