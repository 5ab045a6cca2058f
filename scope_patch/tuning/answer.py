"""The question of `tune`: what a user asks of a video, and which target keeps these bounds; and its answer in words."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from ..compare import lpips
from ..errors import UsageError
from .harness import Harness
from .log import OK, Row
from .points import Job, Point, target
from .progress import Progress
from .search import LEAST, Search

Case = tuple[str, int]
"""(prompt, seed) of a video."""
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

    def fast_enough(self, rows: Sequence[Row]) -> bool:
        """Whether a run took no longer than it may."""
        return self.seconds is None or fmean(row["seconds"] for row in rows) <= self.seconds

    def slack(self, rows: Sequence[Row]) -> float:
        """How far a target lies on its side of the bound, in powers of ten; it falls while targets rise.

        Of quality: of the error that is allowed by the error there is. Of time alone: of the seconds by those allowed,
        so that targets that are too slow are on the right side, and the answer is the first that is not.
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


@dataclass
class Answer:
    """What was found.

    Attributes:
        target: the speed-up to be aimed at; None where no target keeps the bounds, or none is needed.
        bounds: those that were searched for.
        rows: by target, a row a video, as in the log.
        originals: the rows of the originals.
        points: what was tried, by rising target.
        stopped: the time budget was over first.
    """

    target: float | None
    bounds: Bounds
    found: Search
    originals: list[Row]
    rows: dict[float, list[Row]] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    stopped: bool = False

    def times(self, aim: float, key: str = "seconds") -> float:
        """How many times faster than the originals a target was."""
        return float(sum(row[key] for row in self.originals) / sum(row[key] for row in self.rows[aim]))

    @property
    def words(self) -> str:
        """The answer: a sentence, and lines of what speaks for it."""
        if self.target is None:
            return self._none()
        aim, rows = self.target, self.rows[self.target]
        speed = f"{self.times(aim):.1f} times faster ({self.times(aim, 'dit'):.1f} in the DiT)"
        lines = [f"{speed}, {values(rows)}: use `--target-speedup {aim:g}`"]
        beyond = self.found.low if self.bounds.by_time else self.found.high
        if beyond is not None:
            what = "too slow" if self.bounds.by_time else "beyond the bound"
            lines.append(f"target {beyond:g} is {what} ({values(self.rows[beyond])})")
        elif self.found.ceiling is not None:
            lines.append(f"from target {self.found.ceiling:g} on nothing more is skipped")
        if dent := self.found.dent:
            low, high = dent
            lines.append(
                f"nearness does not fall steadily on these videos (target {high:g} is nearer than {low:g}): a little "
                "more or less may tip one over, and more prompts or seeds say more"
            )
        if not self.bounds.fast_enough(rows):
            lines.append(f"no target keeps {self.bounds}: this one takes {fmean(row['seconds'] for row in rows):.1f} s")
        if self.stopped:
            lines.append("the time budget was over: the same command with more time looks on from here")
        return "\n  ".join(lines)

    def _none(self) -> str:
        took = fmean(row["seconds"] for row in self.originals)
        if self.bounds.by_time and took <= (self.bounds.seconds or 0):
            return f"the original already takes {took:.1f} s: nothing to do"
        if not self.rows:
            return (
                "the time budget was over before a target was tried; the same command with more time goes on from here"
            )
        if self.stopped:
            return "the time budget was over before a target kept the bounds; the same command with more time looks on"
        if self.bounds.by_time:
            aim = max(self.rows)
            return (
                f"{self.bounds} cannot be reached: the original takes {took:.1f} s, target {aim:g} "
                f"{values(self.rows[aim])}"
            )
        aim = min(self.rows)
        return (
            f"{self.bounds} cannot be reached: at target {aim:g} there are {values(self.rows[aim])}. Does the command "
            "make the same video twice? Give it a seed, or try a weaker bound"
        )


def find(
    harness: Harness, cases: list[Case], bounds: Bounds, settings: dict[str, Any], until: float, progress: Progress
) -> Answer:
    """Search. Raises UsageError where the original or the first target cannot be made.

    Args:
        bounds: without any, the usual one is taken.
        settings: of every run.
        until: on the monotonic clock; no run begins after it.
    """
    found = Search()
    originals = [harness.original(Job(target(LEAST).under(settings), *case)) for case in cases]
    answer = Answer(None, bounds, found, originals)
    wall, seconds, dit = (sum(row[key] for row in originals) for key in ("wall", "seconds", "dit"))
    if bounds.by_time and seconds / len(cases) <= (bounds.seconds or 0):
        return answer
    # What is not the DiT's takes as long as ever.
    progress.left = lambda: sum(wall - dit + dit / aim for aim in found.left)
    while (aim := found.next) is not None:
        if time.monotonic() > until:
            answer.stopped = True
            break
        point = target(aim).under(settings)
        rows = answer.rows[aim] = [harness.run(Job(point, *case)) for case in cases]
        failed = [row["reason"] for row in rows if row["status"] != OK]
        if failed and len(answer.rows) == 1:
            raise UsageError(f"target {aim:g} failed where the original did not: {failed[0]}")
        if answer.bounds == Bounds():
            answer.bounds = usual(rows)
        decisions = [row.get("decisions") for row in rows]
        found.note(aim, answer.bounds.slack(rows), "" if None in decisions else str(decisions))
    answer.target = found.high if answer.bounds.by_time else found.best
    answer.points = [target(aim).under(settings) for aim in sorted(answer.rows)]
    return answer


def values(rows: Sequence[Row]) -> str:
    """`LPIPS 0.0480, PSNR 31.20 dB, 3.1 s`, or why there are none."""
    failed = [row["reason"] for row in rows if row["status"] != OK]
    if failed:
        return str(failed[0]).partition("\n")[0]
    forms = {"lpips": "LPIPS {:.4f}", "psnr": "PSNR {:.2f} dB", "ssim": "SSIM {:.4f}", "seconds": "{:.1f} s"}
    means = {name: [row[name] for row in rows] for name in forms}
    return ", ".join(forms[name].format(fmean(each)) for name, each in means.items() if None not in each)


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
