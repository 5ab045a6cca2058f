"""The history as predictors see it, noise levels and sizes per slot, no velocities; and the built-in predictors.

All tensors are on the velocities' device, and none is read: arithmetic on them makes the host wait for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..decision import LEAST_SHARE, SAME_LEVEL

BENT, STRAIGHT = 0.45, 0.7
"""Distances in `log_share` at which half of a slope is followed, in general, and from a slot's first two velocities,
where it bends less. Measured with `examples/studies/extrapolation.py`."""
FARTHEST = 2.0
"""In units of those: from here on a slope tells nothing, and a little of it every step adds up."""
TRAINED = 1.3
"""Share of the slope that is bent away, by distance: hardly ever less on the demo model (2 % of its velocities)."""
OLD_SHARE = 0.3
"""Weight of momentum's older slope. The paper names a momentum predictor and gives no formula; this one is ours."""


@dataclass(frozen=True)
class Points:
    """Up to three history points a slot, newest first.

    Attributes:
        levels: noise levels, float64 [points, slots] (float32 on MPS); NaN where a slot has no such point.
        drift: ||v0 - v1|| / ||v0|| a slot, of the dtype of `levels`, [slots]; None where it was not measured.
        curvature: ||C|| / ||v0|| a slot, C the curvature of equation 7, likewise.
    """

    levels: Tensor
    drift: Tensor | None = None
    curvature: Tensor | None = None

    def __len__(self) -> int:
        return int(self.levels.shape[0])

    @cached_property
    def first_gap(self) -> Tensor:
        """h1 = sigma0 - sigma1; NaN where one is missing or the slot did not advance."""
        return self._gap(0)

    @cached_property
    def second_gap(self) -> Tensor:
        """h2 = sigma1 - sigma2; NaN also where h1 is (a second point without a first means nothing)."""
        return torch.where(self.first_gap.isnan(), torch.nan, self._gap(1))

    @cached_property
    def per_first_gap(self) -> Tensor:
        """1 / h1; 0 where a slot has no second point, so that its slope drops out of every sum."""
        return (1 / self.first_gap).nan_to_num(nan=0.0)

    @cached_property
    def per_both_gaps(self) -> Tensor:
        """2 / (h1 + h2), by which a difference of slopes is a curvature; 0 where a slot has no third point."""
        return (2 / (self.first_gap + self.second_gap)).nan_to_num(nan=0.0)

    @cached_property
    def disagreement(self) -> Tensor:
        """||C|| / ||D1|| a slot, by which a curvature term outgrows a first-order one; 0 where one is not known."""
        if self.drift is None or self.curvature is None:
            return torch.zeros_like(self.newest)
        return (self.curvature * self.first_gap.abs() / self.drift).nan_to_num(nan=0.0)

    @cached_property
    def newest(self) -> Tensor:
        """sigma0 a slot."""
        return self.levels[0]

    @cached_property
    def gaps(self) -> tuple[Tensor, Tensor]:
        """(h1, h2); 0 where a slot has no such point."""
        return self.first_gap.nan_to_num(nan=0.0), self.second_gap.nan_to_num(nan=0.0)

    @cached_property
    def faulty(self) -> Tensor:
        """Slots whose measured sizes are not numbers, booleans [slots]."""
        if self.drift is None or self.curvature is None:
            return torch.zeros_like(self.newest, dtype=torch.bool)
        return ~(self.drift + self.curvature).isfinite()

    @cached_property
    def holding(self) -> Tensor:
        """Weights [points, slots] that repeat v0."""
        none = torch.zeros_like(self.newest)
        return torch.stack([torch.ones_like(none), *[none] * (len(self) - 1)])

    @cached_property
    def count(self) -> Tensor:
        """Distinct usable points a slot, integers [slots]: 0, 1, 2 or 3."""
        present = ~self.levels[0].isnan()
        return present.long() + (present & ~self.first_gap.isnan()) + (present & ~self.second_gap.isnan())

    @staticmethod
    def join(parts: Sequence[Points]) -> Points:
        """Several histories as one, slots behind slots: what is asked of each is asked of all at once."""
        if len(parts) == 1:
            return parts[0]
        rows = max(len(part) for part in parts)
        levels = [
            torch.nn.functional.pad(part.levels, (0, 0, 0, rows - len(part)), value=torch.nan)
            if len(part) < rows
            else part.levels
            for part in parts
        ]
        drift = [part.drift for part in parts if part.drift is not None]
        curvature = [part.curvature for part in parts if part.curvature is not None]
        known = len(drift) == len(curvature) == len(parts)
        return Points(
            torch.cat(levels, dim=1), torch.cat(drift) if known else None, torch.cat(curvature) if known else None
        )

    def weigh(self, first: Tensor, second: Tensor | None = None) -> Tensor:
        """Weights [points, slots] of v0 + first * D1 + second * D2; a slope that a slot does not have drops out.

        Args:
            first, second: factors of D1 = (v0 - v1) / h1 and D2 = (v1 - v2) / h2, finite, [slots].
        """
        if len(self) < 2:
            return self.holding[:1]
        p = first * self.per_first_gap
        if len(self) < 3 or second is None:
            rows = [1 + p, -p]
        else:
            q = second * (1 / self.second_gap).nan_to_num(nan=0.0)
            rows = [1 + p, q - p, -q]
        return torch.stack(rows)

    def _gap(self, newer: int) -> Tensor:
        if newer + 1 >= len(self):
            return torch.full_like(self.newest, torch.nan)
        gap = self.levels[newer] - self.levels[newer + 1]
        return torch.where(gap.abs() > SAME_LEVEL, gap, torch.nan)


def log_share(level: Tensor) -> Tensor:
    """Of a noise level sigma: -log(1 - sigma + LEAST_SHARE), in which velocities change at about one rate everywhere.

    A sample x = (1 - sigma) data + sigma noise tells of the data what its share 1 - sigma allows.
    """
    return -torch.log((1 - level).clamp(min=0) + LEAST_SHARE)


class Auto:
    """Second order, shrunk to what the distance leaves of it: v0 + a h D1 + a b h (h + h1) C / 2.

    How much of the slope is followed hangs on the distance x from the second point in `log_share`, whatever the number
    of steps: a = 1 / (1 + (x / BENT)^6), nearly all near by, nothing from FARTHEST on; so all CFG branches are alike in
    it, and guidance has no difference to enlarge. Three points tell s = ||C|| |h + h1| / (2 ||D1||), the share of the
    slope that is bent away over that distance. Where s / x is less than on the demo, the curve is straighter than
    those of trained models, and x is cut by the square of that. Of the curvature s leaves b = 1 / (1 + s^2): nearly
    all where velocities are smooth, nothing where they are noise. Measured with `examples/studies/extrapolation.py`.
    """

    name = "auto"
    keeps = 3

    def weights(self, target: Tensor, points: Points) -> Tensor:
        if len(points) < 2:
            return points.holding
        h = target - points.newest
        beyond = h + points.gaps[0]  # h + h1
        bent = (beyond * points.disagreement / 2).abs()
        x = (log_share(target) - log_share(points.levels[1])).abs().nan_to_num(nan=0.0)
        straight = (bent / (TRAINED * x + SAME_LEVEL)).clamp(max=1)
        reach = torch.where(points.count >= 3, x * straight.square() / BENT, x / STRAIGHT)
        share = torch.where(reach < FARTHEST, 1 / (1 + reach**6), 0.0)
        if len(points) < 3:
            return points.weigh(h * share)
        second = h * beyond * points.per_both_gaps * share / (2 + 2 * bent.square())
        return points.weigh(h * share + second, -second)


class Hold:
    """Repeats the last velocity: exact on constants."""

    name = "hold"
    keeps = 2  # it reads one; but Predict asks for two whatever the predictor, so that forwards can be compared

    def weights(self, target: Tensor, points: Points) -> Tensor:
        return points.holding[:1]


class Last(Hold):
    """Repeats the last velocity and keeps no other: half the memory of `hold`, but nothing to Predict from."""

    name = "last"
    keeps = 1


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
