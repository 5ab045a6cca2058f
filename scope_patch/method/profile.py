"""How fast velocities change and bend at every noise level: added up while a host runs unaccelerated
(`calibrate`), or assumed. Imports no torch before velocities come."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .decision import LEAST_SHARE, SAME_LEVEL

if TYPE_CHECKING:
    from torch import Tensor

    from .memory import Anchor

KIND = "scope_patch profile"
SCHEMA = 1
ROUGHNESS = 6.0
"""What stands in for a measurement: the bend in units of the change squared (5 to 10 on the demo model at all noise
levels but the last)."""
Sums = defaultdict[float, list[tuple[float, float]]]
"""Noise level -> squares of a part and of the whole, one pair a latent frame."""


@dataclass(frozen=True)
class Profile:
    """Attributes:
    levels: noise levels sigma in 0..1, ascending.
    slope: ||dv / dsigma|| / ||v|| at each of them.
    curvature: ||d2v / dsigma2|| / ||v||.
    host: the architecture it was measured on; "" for none.
    """

    levels: tuple[float, ...]
    slope: tuple[float, ...]
    curvature: tuple[float, ...]
    host: str = ""

    def __post_init__(self) -> None:
        if not len(self.levels) == len(self.slope) == len(self.curvature) > 0:
            raise ValueError("levels, change and bend are not lists of one length, with at least one number")
        if any(not (math.isfinite(x) and x >= 0) for x in (*self.levels, *self.slope, *self.curvature)):
            raise ValueError("levels, change and bend hold something that is no number, or negative")
        if any(low >= high for low, high in pairwise(self.levels)):
            raise ValueError("levels do not ascend")

    def as_dict(self) -> dict[str, Any]:
        rows = {"levels": list(self.levels), "change": list(self.slope), "bend": list(self.curvature)}
        return {"kind": KIND, "schema": SCHEMA, "host": self.host, **rows}


def read(path: Path | str) -> Profile:
    """A profile from its file. Raises UsageError for a file that is none."""
    try:
        contents = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"the profile {path} cannot be read: {error}") from error
    if not isinstance(contents, dict) or contents.get("kind") != KIND or contents.get("schema") != SCHEMA:
        raise UsageError(f"{path} is no profile of schema {SCHEMA}; `python -m scope_patch calibrate` writes one")
    try:
        levels, change, bend = (tuple(map(float, contents[name])) for name in ("levels", "change", "bend"))
        return Profile(levels, change, bend, str(contents.get("host", "")))
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"the profile {path} is damaged ({error}); calibrate again") from error


def assumed() -> Profile:
    """What stands in for a measurement.

    A sample x = (1 - sigma) data + sigma noise tells as much of the data as its share 1 - sigma allows; so velocities
    are taken to change at the rate at which that share does, and to bend in proportion to the square of that.
    """
    levels = tuple(k / 100 for k in range(101))
    change = tuple(1 / (1 - sigma + LEAST_SHARE) for sigma in levels)
    return Profile(levels, change, tuple(ROUGHNESS * c * c for c in change))


class Calibration:
    """Sums of squares by noise level, over latent frames, CFG branches, segments and generations."""

    def __init__(self) -> None:
        self._first: Sums = defaultdict(list)
        self._second: Sums = defaultdict(list)

    def note(self, anchors: Sequence[Anchor], active: Tensor) -> None:
        """A velocity has been computed.

        Args: anchors, it and up to two before it, newest first; active, slots updated now, booleans [all slots].
        """
        import torch

        from .history import FRAME_AXIS
        from .schedule import overlap

        if len(anchors) < 2:
            return
        start, end = reduce(overlap, (anchor.interval for anchor in anchors))
        if start >= end:
            return
        levels, velocities = [], []
        for anchor in anchors:
            shared = start - anchor.interval[0], end - start
            levels.append(anchor.levels.narrow(0, *shared).to("cpu", torch.float64))
            velocities.append(anchor.velocity.narrow(FRAME_AXIS, *shared).double())
        gaps = [newer - older for newer, older in pairwise(levels)]
        # A slope between two equal noise levels is none; neither is a curvature beside one.
        usable = active[start:end] & (gaps[0].abs() > SAME_LEVEL)
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
        measured = [(level, _ratio(self._first[level]), _ratio(self._second[level])) for level in sorted(self._second)]
        rows = [row for row in measured if all(map(math.isfinite, row[1:]))]
        if not rows:
            return None
        levels, slopes, curvatures = zip(*rows, strict=True)
        return Profile(levels, slopes, curvatures, host)

    @staticmethod
    def _add(sums: Sums, levels: Tensor, usable: Tensor, part: Tensor, whole: Tensor) -> None:
        own, all_of_it = (values.square().sum(dim=(0, 1, 3, 4)).tolist() for values in (part, whole))
        for level, *squares, use in zip(levels.tolist(), own, all_of_it, usable.tolist(), strict=True):
            if use:
                sums[round(level, 6)].append(tuple(squares))  # levels that agree to so many places are one


def _row(values: Tensor, like: Tensor) -> Tensor:
    """[slots] as a factor of [batch, channels, slots, height, width], beside it."""
    return values.view(1, 1, -1, 1, 1).to(like.device)


def _ratio(sums: Sequence[tuple[float, float]]) -> float:
    own, whole = (sum(column) for column in zip(*sums, strict=True))
    return math.sqrt(own / whole) if whole else math.nan
