"""How fast velocities change and bend at every noise level, added up while a host runs unaccelerated."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .history import FRAME_AXIS
from .memory import Anchor
from .predictors.points import SAME_LEVEL
from .profile import Profile
from .schedule import overlap

DIGITS = 6
"""Noise levels that agree to so many places are one."""


class Calibration:
    """Sums of squares by noise level, over latent frames, CFG branches, segments and generations."""

    def __init__(self) -> None:
        self._first: defaultdict[float, list[tuple[float, float]]] = defaultdict(list)
        self._second: defaultdict[float, list[tuple[float, float]]] = defaultdict(list)

    def note(self, anchors: Sequence[Anchor], active: Tensor) -> None:
        """A velocity has been computed.

        Args:
            anchors: it and up to two before it, newest first.
            active: slots that are updated now, booleans [all slots].
        """
        if len(anchors) < 2:
            return
        common = anchors[0].interval
        for anchor in anchors[1:]:
            common = overlap(common, anchor.interval)
        if common[0] >= common[1]:
            return
        shared = [(common[0] - anchor.interval[0], common[1] - common[0]) for anchor in anchors]
        levels = [
            anchor.levels.narrow(0, *at).to("cpu", torch.float64) for anchor, at in zip(anchors, shared, strict=True)
        ]
        velocities = [
            anchor.velocity.narrow(FRAME_AXIS, *at).double() for anchor, at in zip(anchors, shared, strict=True)
        ]
        gaps = [newer - older for newer, older in pairwise(levels)]
        # A slope between two equal noise levels is none; neither is a curvature beside one.
        usable = active[common[0] : common[1]] & (gaps[0].abs() > SAME_LEVEL)
        slopes = [
            (newer - older) / _row(torch.where(gap.abs() > SAME_LEVEL, gap, 1.0), newer)
            for (newer, older), gap in zip(pairwise(velocities), gaps, strict=True)
        ]
        self._add(self._first, levels[0], usable, slopes[0], velocities[0])
        if len(slopes) > 1:
            usable &= gaps[1].abs() > SAME_LEVEL
            curvature = 2 * (slopes[0] - slopes[1]) / _row(gaps[0] + gaps[1], slopes[0])
            self._add(self._second, levels[0], usable, curvature, velocities[0])

    def profile(self, host: str) -> Profile | None:
        """What was measured; None where there is too little: no noise level with two velocities before it."""
        rows = []
        for level in sorted(self._second):
            slope, curvature = (_ratio(sums[level]) for sums in (self._first, self._second))
            if math.isfinite(slope) and math.isfinite(curvature):
                rows.append((level, slope, curvature))
        if not rows:
            return None
        levels, slopes, curvatures = zip(*rows, strict=True)
        return Profile(levels, slopes, curvatures, host)

    @staticmethod
    def _add(
        sums: defaultdict[float, list[tuple[float, float]]], levels: Tensor, usable: Tensor, part: Tensor, whole: Tensor
    ) -> None:
        rows = torch.stack([_squares(part), _squares(whole)], dim=1).cpu().tolist()
        for level, (own, all_of_it), use in zip(levels.tolist(), rows, usable.tolist(), strict=True):
            if use:
                sums[round(level, DIGITS)].append((own, all_of_it))


def _row(values: Tensor, like: Tensor) -> Tensor:
    """[slots] as a factor of [batch, channels, slots, height, width], beside it."""
    return values.view(1, 1, -1, 1, 1).to(like.device)


def _squares(values: Tensor) -> Tensor:
    """Sum of squares a slot, [slots]."""
    return values.square().sum(dim=[axis for axis in range(values.dim()) if axis != FRAME_AXIS])


def _ratio(sums: Sequence[tuple[float, float]]) -> float:
    """Root of what the parts make of the whole."""
    whole = sum(each for _, each in sums)
    return math.sqrt(sum(own for own, _ in sums) / whole) if whole else math.nan
