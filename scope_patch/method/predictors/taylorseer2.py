"""Predictor `taylorseer2`: second order as TaylorSeer (arXiv 2503.06923) takes its finite differences."""

from __future__ import annotations

from torch import Tensor

from .points import Points


class TaylorSeer2:
    """Second order by backward differences, v0 + h D1 + h h (D1 - D2) / (2 h1): TaylorSeer's, for policy taylorseer."""

    name = "taylorseer2"
    keeps = 3

    def weights(self, target: Tensor, points: Points) -> Tensor:
        h = target - points.newest
        bend = 0.5 * h * h * points.per_first_gap
        # Where a slot has no third point its D2 drops out, and its D1 must then not be bent either.
        bend = bend * points.complete
        return points.weigh(h + bend, -bend)
