"""The search of `tune`: what a user asks of a video, which target keeps these bounds in few runs, the answer in words.

Quality falls with the target, up to noise. Of a run only its slack matters: how far it is on the right side of the
bound, in powers of ten of the error (or of the seconds); negative on the wrong side. The crossing is bracketed, then
narrowed by the secant through the ends, kept away from them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from statistics import fmean
from typing import Any

from ..compare import lpips
from ..errors import UsageError
from .harness import Harness
from .points import OK, Case, Job, Point, Row, target

START, LEAST, MOST = 3.0, 1.2, 20.0  # the first target, and between which ones it is looked for
STRIDE = 1.5  # from one target to the next while there is no bracket
CLOSE = 1.05  # how many times the upper end is the lower one when a bracket is narrow enough
EDGE = 0.25  # of a bracket, in the logarithm: no step comes nearer to an end
DENT = 0.1  # powers of ten of the error; less is noise
FLOOR = 1e-6  # an error so small counts as this one
FAR = 3.0  # slack of what has no number: a run that failed
USUAL = {"lpips": 0.05, "ssim": 0.95, "psnr": 30.0}  # without a bound: that of the first metric which is defined
_SIGNS = {"psnr": "PSNR >= {:g} dB", "ssim": "SSIM >= {:g}", "lpips": "LPIPS <= {:g}", "seconds": "{:g} s at most"}
_VALUES = {"lpips": "LPIPS {:.4f}", "psnr": "PSNR {:.2f} dB", "ssim": "SSIM {:.4f}", "seconds": "{:.1f} s"}


@dataclass
class Search:
    """`next` gives the target of the next run, None at the end; `note` what came of it: `slacks`, by target.

    `ceiling`: the lowest target that a run with a higher one decided exactly like; nothing lies beyond.
    """

    slacks: dict[float, float] = field(default_factory=dict)
    ceiling: float | None = None
    _decisions: dict[str, float] = field(default_factory=dict)

    def note(self, target: float, slack: float, decisions: str = "") -> None:
        """A run has ended. `decisions`: what it decided, by any name: two targets with one name are the same."""
        self.slacks[target] = slack
        if decisions:
            before = self._decisions.setdefault(decisions, target)
            if before < target and slack >= 0 and self.high is None:
                self.ceiling = before

    @property
    def low(self) -> float | None:
        """The highest target within the bound below all those that are not."""
        end = self.high or math.inf
        return max((aim for aim, slack in self.slacks.items() if slack >= 0 and aim < end), default=None)

    @property
    def best(self) -> float | None:
        """The answer: `low`, or a lower target that decides the same."""
        return self.low if self.high is not None or self.ceiling is None else self.ceiling

    @property
    def high(self) -> float | None:
        """The lowest target that is not within the bound."""
        return min((aim for aim, slack in self.slacks.items() if slack < 0), default=None)

    @property
    def next(self) -> float | None:
        """None: the bracket is narrow enough, or there is nothing on one side."""
        low, high = self.low, self.high
        if high is None:
            if low is None:
                return START
            return None if self.ceiling is not None or low >= MOST else rung(min(MOST, low * STRIDE))
        if low is None:
            return None if high <= LEAST else rung(max(LEAST, high / STRIDE))
        if high / low <= CLOSE:
            return None
        share = self.slacks[low] / (self.slacks[low] - self.slacks[high])
        shares = min(max(share, EDGE), 1 - EDGE), 0.5
        between = (rung(low * (high / low) ** share) for share in shares)
        return next((aim for aim in between if low < aim < high), None)

    @property
    def dent(self) -> tuple[float, float] | None:
        """Two targets next to one another, of which the higher one is clearly the better."""
        steps = pairwise(sorted(self.slacks))
        return next(((low, high) for low, high in steps if self.slacks[high] - self.slacks[low] > DENT), None)

    @property
    def left(self) -> list[float]:
        """The targets that are still to be run, about: what time they take can be estimated by these."""
        low, high = self.low, self.high
        if self.next is None:
            return []
        if low is None or high is None:
            return [self.next] * 5
        return [self.next] * max(1, round(math.log(math.log(high / low) / math.log(CLOSE)) / math.log(2)))


def rung(target: float) -> float:
    """The nearest target that is worth a run of its own: they are 1 to 3 % apart."""
    step = 0.05 if target < 5 else 0.1 if target < 10 else 0.2
    return round(round(target / step) * step, 2)


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

    def __str__(self) -> str:
        return ", ".join(_SIGNS[name].format(value) for name, value in asdict(self).items() if value is not None)

    @property
    def by_time(self) -> bool:
        """Whether only seconds are bounded: wanted is the slowest target that is fast enough, not the fastest."""
        return self.seconds is not None and self.psnr is self.ssim is self.lpips is None

    def fast_enough(self, rows: Sequence[Row]) -> bool:
        """Whether a run took no longer than it may."""
        return self.seconds is None or _seconds(rows) <= self.seconds

    def slack(self, rows: Sequence[Row]) -> float:
        """How far a target lies on its side of the bound, in powers of ten; it falls while targets rise.

        Of quality: of the error that is allowed by the error there is. Of time alone: of the seconds by those allowed,
        so that targets that are too slow are on the right side, and the answer is the first that is not.
        """
        if any(row["status"] != OK for row in rows):
            return -FAR
        if self.seconds is not None and self.by_time:
            return math.log10(_seconds(rows) / self.seconds) or -1e-9
        slacks = []
        for name in ("psnr", "ssim", "lpips"):
            bound, values = getattr(self, name), [row[name] for row in rows]
            if bound is None:
                continue
            if None in values:
                why = "its frames are too small"
                if all(row["ssim"] is None for row in rows):
                    why = "it writes latents, and that is for pictures: use --psnr"
                raise UsageError(f"--{name} cannot be given for this command's output: {why}")
            value = fmean(values)
            if name == "psnr":
                slacks.append((value - bound) / 10)
            elif name == "ssim":
                slacks.append(math.log10(max(1 - bound, FLOOR) / max(1 - value, FLOOR)))
            else:
                slacks.append(math.log10(bound / max(value, FLOOR)))
        return min(slacks, default=FAR)


@dataclass
class Answer:
    """What was found: the `target` to be aimed at (None where none keeps the bounds, or none is needed), and by what.

    `rows` by target, a row a video, as in the log; `points` by rising target; `stopped`: the budget was over first.
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
            lines.append(
                f"nearness does not fall steadily on these videos (target {dent[1]:g} is nearer than {dent[0]:g}): a "
                "little more or less may tip one over, and more prompts or seeds say more"
            )
        if not self.bounds.fast_enough(rows):
            lines.append(f"no target keeps {self.bounds}: this one takes {_seconds(rows):.1f} s")
        if self.stopped:
            lines.append("the time budget was over: the same command with more time looks on from here")
        return "\n  ".join(lines)

    def _none(self) -> str:
        took = _seconds(self.originals)
        if self.bounds.by_time and self.bounds.fast_enough(self.originals):
            return f"the original already takes {took:.1f} s: nothing to do"
        over = "the time budget was over before a target"
        if not self.rows:
            return f"{over} was tried; the same command with more time goes on from here"
        if self.stopped:
            return f"{over} kept the bounds; the same command with more time looks on"
        aim = max(self.rows) if self.bounds.by_time else min(self.rows)
        there = values(self.rows[aim])
        if self.bounds.by_time:
            return f"{self.bounds} cannot be reached: the original takes {took:.1f} s, target {aim:g} {there}"
        return (
            f"{self.bounds} cannot be reached: at target {aim:g} there are {there}. Does the command make the same "
            "video twice? Give it a seed, or try a weaker bound"
        )


def find(harness: Harness, cases: Sequence[Case], bounds: Bounds, settings: dict[str, Any], until: float) -> Answer:
    """Search; without bounds, for the usual one. `until`: on the monotonic clock, no run begins after it.

    Raises UsageError where the original or the first target cannot be made.
    """
    found = Search()
    originals = [harness.original(Job(target(LEAST).under(settings), *case)) for case in cases]
    answer = Answer(None, bounds, found, originals)
    if bounds.by_time and bounds.fast_enough(originals):
        return answer
    wall, dit = (sum(row[key] for row in originals) for key in ("wall", "dit"))
    while (aim := found.next) is not None:
        if time.monotonic() > until:
            answer.stopped = True
            break
        # What is not the DiT's takes as long as ever.
        harness.progress.left = sum(wall - dit + dit / each for each in found.left)
        point = target(aim).under(settings)
        rows = answer.rows[aim] = [harness.run(Job(point, *case)) for case in cases]
        failed = [row["reason"] for row in rows if row["status"] != OK]
        if failed and len(answer.rows) == 1:
            raise UsageError(f"target {aim:g} failed where the original did not: {failed[0]}")
        if answer.bounds == Bounds():
            answer.bounds = _usual(rows)
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
    means = {name: [row[name] for row in rows] for name in _VALUES}
    return ", ".join(_VALUES[name].format(fmean(each)) for name, each in means.items() if None not in each)


def _usual(rows: Sequence[Row]) -> Bounds:
    for name, bound in USUAL.items():
        if all(row.get(name) is not None for row in rows):
            return Bounds(**{name: bound})
    raise UsageError("neither PSNR nor SSIM nor LPIPS is defined for what the command writes; give --seconds S")


def _seconds(rows: Sequence[Row]) -> float:
    return fmean(row["seconds"] for row in rows)
