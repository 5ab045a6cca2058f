"""What a user asks of a video: how near it must come to the original, or in how many seconds it must be made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

from ..compare import lpips
from ..errors import UsageError
from .log import OK, Row

FLOOR = 1e-6
"""An error so small counts as this one."""
FAR = 3.0
"""Slack of what has no number: a run that failed."""
DEFAULT_LPIPS, DEFAULT_SSIM, DEFAULT_PSNR = 0.05, 0.95, 30.0


@dataclass(frozen=True)
class Bounds:
    """Over all videos of a target, in the mean: PSNR (dB) and SSIM at least, LPIPS and seconds a command at most."""

    psnr: float | None = None
    ssim: float | None = None
    lpips: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name, low, high in (("psnr", 0, 100), ("ssim", 0, 1), ("lpips", 0, math.inf), ("seconds", 0, math.inf)):
            value = getattr(self, name)
            if value is not None and not low < value < high:
                raise UsageError(f"--{name} {value:g} can never be a bound; it lies between {low} and {high:g}")
        if self.lpips is not None and lpips.load() is None:
            raise UsageError(f"--lpips needs weights that are not installed; to get them: {lpips.INSTALL}")

    @property
    def of_quality(self) -> list[str]:
        """The metrics that are bounded."""
        return [name for name in ("psnr", "ssim", "lpips") if getattr(self, name) is not None]

    @property
    def by_time(self) -> bool:
        """Whether only seconds are bounded: wanted is the slowest target that is fast enough, not the fastest."""
        return self.seconds is not None and not self.of_quality

    def __str__(self) -> str:
        signs = {
            "psnr": "PSNR >= {:g} dB",
            "ssim": "SSIM >= {:g}",
            "lpips": "LPIPS <= {:g}",
            "seconds": "{:g} s at most",
        }
        return ", ".join(signs[name].format(value) for name, value in asdict(self).items() if value is not None)

    def within(self, rows: Sequence[Row]) -> bool:
        """Whether the videos of a target keep all bounds."""
        return all(row["status"] == OK for row in rows) and self._quality(rows) >= 0 and self.fast_enough(rows)

    def fast_enough(self, rows: Sequence[Row]) -> bool:
        """Whether a run took no longer than it may."""
        return self.seconds is None or fmean(row["seconds"] for row in rows) <= self.seconds

    def slack(self, rows: Sequence[Row]) -> float:
        """How far a target lies on its side of the bound, in powers of ten; it falls while targets rise.

        Of quality: of the error that is allowed by the error there is. Of time alone: of the seconds by those allowed,
        so that targets that are too slow are `within`, and the answer is the first that is not.
        """
        if any(row["status"] != OK for row in rows):
            return -FAR
        if self.by_time:
            assert self.seconds is not None
            return math.log10(fmean(row["seconds"] for row in rows) / self.seconds) or -1e-9
        return self._quality(rows)

    def _quality(self, rows: Sequence[Row]) -> float:
        slacks = []
        for name in self.of_quality:
            values = [row[name] for row in rows]
            if None in values:
                raise UsageError(_undefined(name, rows))
            value, bound = fmean(values), getattr(self, name)
            if name == "psnr":
                slacks.append((value - bound) / 10)
            elif name == "ssim":
                slacks.append(math.log10(max(1 - bound, FLOOR) / max(1 - value, FLOOR)))
            else:
                slacks.append(math.log10(bound / max(value, FLOOR)))
        return min(slacks, default=FAR)


def usual(rows: Sequence[Row]) -> Bounds:
    """The bound where none was given: of the first metric that the rows have."""
    for name, bound in (("lpips", DEFAULT_LPIPS), ("ssim", DEFAULT_SSIM), ("psnr", DEFAULT_PSNR)):
        if all(row.get(name) is not None for row in rows):
            return Bounds(**{name: bound})
    raise UsageError("neither PSNR nor SSIM nor LPIPS is defined for what the command writes; give --seconds S")


def _undefined(name: str, rows: Sequence[Row]) -> str:
    latents = all(row["ssim"] is None for row in rows)
    why = "it writes latents, and that is for pictures: use --psnr" if latents else "its frames are too small"
    return f"--{name} cannot be given for this command's output: {why}"
