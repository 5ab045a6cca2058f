"""The history as predictors see it: noise levels and sizes per slot, no velocities."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

SAME_LEVEL = 1e-9
"""Two noise levels nearer than this are one: the slot did not advance between the two anchors."""


@dataclass(frozen=True)
class Points:
    """Up to three history points a slot, newest first.

    Attributes:
        levels: noise levels, float64 [points, slots]; NaN where a slot has no such point.
        drift: ||v0 - v1|| / ||v0|| a slot, float64 [slots]; None where it was not measured.
        bend: ||C|| / ||v0|| a slot, C the curvature of equation 7, float64 [slots]; None likewise.
    """

    levels: Tensor
    drift: Tensor | None = None
    bend: Tensor | None = None

    def __len__(self) -> int:
        return int(self.levels.shape[0])

    def gap(self, newer: int) -> Tensor:
        """sigma[newer] - sigma[newer + 1] a slot; NaN where one is missing or the slot did not advance."""
        if newer + 1 >= len(self):
            return torch.full_like(self.levels[0], torch.nan)
        gap = self.levels[newer] - self.levels[newer + 1]
        return torch.where(gap.abs() > SAME_LEVEL, gap, torch.nan)

    @cached_property
    def first_gap(self) -> Tensor:
        """h1 = sigma0 - sigma1."""
        return self.gap(0)

    @cached_property
    def second_gap(self) -> Tensor:
        """h2 = sigma1 - sigma2; NaN also where h1 is (a second point without a first means nothing)."""
        return torch.where(self.first_gap.isnan(), torch.nan, self.gap(1))

    @cached_property
    def finite(self) -> Tensor | None:
        """Whether the measured sizes of a slot are numbers, booleans [slots]; None where they were not measured."""
        sizes = [size for size in (self.drift, self.bend) if size is not None]
        return torch.stack(sizes).isfinite().all(dim=0) if sizes else None

    @cached_property
    def count(self) -> Tensor:
        """Distinct usable points a slot, integers [slots]: 0, 1, 2 or 3."""
        present = ~self.levels[0].isnan()
        return present.long() + (present & ~self.first_gap.isnan()) + (present & ~self.second_gap.isnan())


def zero_where_missing(value: Tensor) -> Tensor:
    """NaN marks what a slot does not have; its term drops out of the sum."""
    return value.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def hold_weights(points: Points) -> Tensor:
    """All weight on the newest point."""
    weights = torch.zeros_like(points.levels)
    weights[0] = 1.0
    return weights


def slope_weights(points: Points, factor: Tensor, *, newer: int = 0) -> Tensor:
    """Weights of factor * D, with D the slope between two neighbouring points; 0 where it is not defined."""
    gap = points.first_gap if newer == 0 else points.second_gap
    weights = torch.zeros_like(points.levels)
    if newer + 1 < len(points):
        share = zero_where_missing(factor / gap)
        weights[newer] = share
        weights[newer + 1] = -share
    return weights


def curvature_weights(points: Points, factor: Tensor) -> Tensor:
    """Weights of factor * C with C = 2 (D1 - D2) / (h1 + h2); 0 where a slot has fewer than three points."""
    share = 2 * factor / (points.first_gap + points.second_gap)
    return slope_weights(points, share) * defined(points) - slope_weights(points, share, newer=1) * defined(points)


def defined(points: Points) -> Tensor:
    """1.0 for the slots that have three distinct points."""
    return (points.count >= 3).to(points.levels.dtype)
