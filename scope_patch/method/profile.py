"""How fast velocities change and bend at every noise level: measured by `calibrate`, or assumed. Imports no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError

KIND = "scope_patch profile"
SCHEMA = 1
FLOOR, ROUGHNESS = 0.1, 7.0
"""What stands in for measurements: the least share of the signal, and the bend in units of the change squared (5 to 10
on the demo model at all noise levels but the last)."""


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
        if any(low >= high for low, high in zip(self.levels, self.levels[1:], strict=False)):
            raise ValueError("levels do not ascend")

    def as_dict(self) -> dict[str, Any]:
        """For the file."""
        return {
            "kind": KIND,
            "schema": SCHEMA,
            "host": self.host,
            "levels": list(self.levels),
            "change": list(self.slope),
            "bend": list(self.curvature),
        }


def read(path: Path | str) -> Profile:
    """A profile from its file. Raises UsageError for a file that is none."""
    try:
        contents = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"the profile {path} cannot be read: {error}") from error
    if not isinstance(contents, dict) or contents.get("kind") != KIND or contents.get("schema") != SCHEMA:
        raise UsageError(f"{path} is no profile of schema {SCHEMA}; `python -m scope_patch calibrate` writes one")
    try:
        levels, change, bend = (_numbers(contents[name]) for name in ("levels", "change", "bend"))
        return Profile(levels, change, bend, str(contents.get("host", "")))
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"the profile {path} is damaged ({error}); calibrate again") from error


def assumed() -> Profile:
    """What stands in for a measurement.

    A sample x = (1 - sigma) data + sigma noise tells as much of the data as its share 1 - sigma allows; so velocities
    are taken to change at the rate at which that share does, and to bend in proportion to the square of that.
    """
    levels = tuple(k / 100 for k in range(101))
    change = tuple(1 / (1 - sigma + FLOOR) for sigma in levels)
    return Profile(levels, change, tuple(ROUGHNESS * c * c for c in change))


def _numbers(values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
