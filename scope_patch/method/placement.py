"""Which iterations are recomputed: the least error bound under a budget of work, by dynamic programming.

The bound is that of equations 10 to 12 (design §2): the error that skipping an iteration adds to the video.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .profile import Profile
from .schedule import Schedule

SHARE_FLOOR = 0.02
AMPLIFICATION = 2.0
"""How an error of the latents at sigma grows until they are clean: as (1 - sigma + SHARE_FLOOR) ** -AMPLIFICATION.

An error of x = (1 - sigma) data + sigma noise is one of the data larger by 1 / (1 - sigma), if nothing mends it; that
decisions are made early, and guidance enlarges them, adds to it. Measured with `examples/studies/sensitivity.py`.
"""
GENTLE_AMPLIFICATION, GENTLE_SPEEDUP, GENTLE_BOUND = 1.5, 2.0, 0.5
"""The power without guidance, and in a staircase up to that speed-up and below that bound; see
`examples/studies/amplification.py`."""
UNITS = 1000
"""Budgets are counted in so many parts, or in up to twice as many where a long plan's single costs are few of them."""
ROUNDING, ATTEMPTS = 0.01, 3
"""By how much the parts of a plan may miss what it costs, and how often the budget is put right for that."""
FURTHEST = 16
"""Skips in a row that are looked at: what lies further is no prediction, and the table grows with the square."""
FUTILE = 4.0
"""A bound, of the mean latent frame, from which on fewer steps do as well; see `examples/studies/few_steps.py`."""
TOLERANCE = 1.05
"""A speed-up within this factor of what was asked is what was asked."""


class Errors(NamedTuple):
    """What skips add to the error of the finished latents, and recomputes behind them take off, summed over slots.

    All float64, infinite where a slot that is updated has no velocity.

    Attributes:
        skipped: [iterations, most, most + 2]: entry [i, k - 1, g] for the k-th skip in a row (the newest recompute was
            k iterations ago), g iterations between the last two recomputes, 0 where there is no second.
        again: [iterations, most, most + 2]: entry [i, k - 1, g] for a recompute k skips behind the newest, whose
            velocity corrects them.
    """

    skipped: Tensor
    again: Tensor


def amplification(schedule: Schedule, target: float, bound: float, guided: bool = True) -> float:
    """The power for a plan whose error, under AMPLIFICATION, is `bound`.

    Without guidance nothing enlarges early errors further. With it, where little is skipped and latent frames see
    cleaner ones, no early decision is flipped: they may be weighed less.
    """
    gentle = target <= GENTLE_SPEEDUP and bound < GENTLE_BOUND and not schedule.in_step
    return AMPLIFICATION if guided and not gentle else GENTLE_AMPLIFICATION


def skip_errors(
    schedule: Schedule, profile: Profile, most: int, *, replay: bool = True, power: float = AMPLIFICATION
) -> Errors:
    """The errors of all plans of a schedule.

    epsilon[i+1] <= epsilon[i] + |d sigma| ||delta[i]||, amplified; delta is what `Distances.miss` says. Where skipped
    steps are taken again (`replay`), once the next velocity is known, it is what `Distances.between` says.

    Args: most, skips in a row at the most, at least 1; power, of the amplification.
    """
    levels, mask = schedule.noise_levels, schedule.mask
    iterations, slots = mask.shape
    following = torch.cat([mask[1:] & mask[:-1], mask.new_zeros(1, slots)])
    to = torch.where(following, torch.cat([levels[1:], levels[-1:]]), 0.0)
    distances = Distances(profile, levels)
    grows = (1 - levels + SHARE_FLOOR).clamp(min=SHARE_FLOOR) ** -power
    weight = grows * (levels - to).abs() * mask
    entry = _entries(schedule)
    skipped = torch.full((iterations, most, most + 2), torch.inf, dtype=torch.float64)
    again = torch.zeros_like(skipped)
    row, gap, slot = torch.arange(iterations).view(-1, 1, 1), torch.arange(most + 2).view(1, -1, 1), torch.arange(slots)
    total = torch.zeros(iterations, most + 2, slots, dtype=torch.float64)  # of all skips up to here
    for skips in range(1, most + 1):
        newest = row - skips
        usable = ((newest >= entry) | ~mask[:, None]).all(dim=2) & (newest[:, :, 0] >= 0)
        second = newest - gap
        two = (second >= entry) & (gap > 0)
        each = weight[:, None] * distances.miss(slot, row, newest.clamp(min=0), second.clamp(min=0), two)
        skipped[:, skips - 1] = torch.where(usable, each.sum(dim=2), torch.inf)
        total = torch.cat([torch.zeros_like(total[:1]), total[:-1]]) + each
        if not replay or skips + 1 >= iterations:
            continue
        at, start = torch.arange(skips + 1, iterations), torch.arange(iterations - skips - 1)
        between = torch.zeros(len(at), slots, dtype=torch.float64)
        for k in range(1, skips + 1):
            between += weight[start + k] * distances.between(slot, (start + k)[:, None], start[:, None], at[:, None])
        known = mask[at] & mask[start] & (start[:, None] >= entry)
        again[at, skips - 1] = torch.where(known[:, None], between[:, None] - total[at - 1], 0.0).sum(dim=2)
    return Errors(skipped, again)


class Distances:
    """What predictions over a table of noise levels [iterations, slots] miss, relative to the velocity.

    From sigma_0 to sigma a velocity changes by g = integral of the profile's slope; where that is much it cannot go on
    at that rate, so what holding it misses is taken to be g / (1 + g / 2). Of following it from two points, sigma_1 the
    older, the miss is larger by s = integral of curvature / (2 slope) from sigma_1 on: curvature h (h + h1) / 2 over
    slope h, on a short way. What predictors make of the two (`predictors.Auto`) misses g s / sqrt(1 + s^2) of them.
    """

    def __init__(self, profile: Profile, levels: Tensor) -> None:
        grid = torch.tensor(profile.levels, dtype=torch.float64)
        slope, curvature = (torch.tensor(row, dtype=torch.float64) for row in (profile.slope, profile.curvature))
        bending = curvature / (2 * slope).clamp(min=SHARE_FLOOR)
        self._levels = levels
        self._change, self._bend = (_integral(grid, rate, levels) for rate in (slope, bending))

    def miss(self, slots: Tensor, at: Tensor, newest: Tensor, second: Tensor, two: Tensor) -> Tensor:
        """Of the slots, at the iterations `at`, from velocities of the iterations `newest` and, where `two`, `second`.

        All of them broadcast against each other. A slot that did not advance between the two has one velocity.
        """
        change = (self._change[at, slots] - self._change[newest, slots]).abs()
        held = change / (1 + change / 2)
        bend = (self._bend[at, slots] - self._bend[second, slots]).abs()
        two = two & (self._levels[newest, slots] != self._levels[second, slots])
        return torch.where(two, held * bend / (1 + bend.square()).sqrt(), held)

    def between(self, slots: Tensor, at: Tensor, first: Tensor, last: Tensor) -> Tensor:
        """What interpolating between the velocities of two iterations misses, likewise."""
        change = (self._change[at, slots] - self._change[first, slots]).abs()
        bend = (self._bend[last, slots] - self._bend[at, slots]).abs()
        return change / (1 + change / 2) * bend / (1 + bend.square()).sqrt()


def _integral(grid: Tensor, rate: Tensor, at: Tensor) -> Tensor:
    """Of a rate, linear between the levels of a grid and constant beyond, from a common level up to each of `at`."""
    if len(grid) == 1:
        return rate * at
    whole = torch.cat([rate.new_zeros(1), ((grid[1:] - grid[:-1]) * (rate[1:] + rate[:-1]) / 2).cumsum(0)])
    upper = torch.searchsorted(grid, at.contiguous()).clamp(1, len(grid) - 1)
    first, last = grid[upper - 1], grid[upper]
    inside = at.clamp(grid[0], grid[-1])
    local = torch.lerp(rate[upper - 1], rate[upper], (inside - first) / (last - first))
    beyond = torch.where(at < inside, rate[0], rate[-1]) * (at - inside)
    return whole[upper - 1] + (inside - first) * (rate[upper - 1] + local) / 2 + beyond


def _entries(schedule: Schedule) -> Tensor:
    """For every slot, the first iteration that can compute it, [slots]."""
    slot = torch.arange(schedule.mask.shape[1])
    start, end = torch.tensor(schedule.intervals).reshape(-1, 2, 1).unbind(dim=1)
    inside = (start <= slot) & (slot < end)
    return torch.where(inside.any(dim=0), inside.long().argmax(dim=0), len(schedule))


def place(
    schedule: Schedule, work: Callable[[int, int], float], budget: float, errors: Errors, *, max_skip: int
) -> tuple[list[bool], float]:
    """Which iterations are recomputed: those that cost at most `budget`, with the least error of all such sets.

    Where no set is that cheap, the cheapest. Where the next dearer set comes much nearer to the budget than the best
    one below (few steps make a coarse choice), that one.

    Args:
        work: (iteration, the recompute before it or -1) -> what recomputing it costs, in the unit of `budget`.
        errors: `skip_errors` of the schedule.
        max_skip: skips in a row at the most; beyond those that the errors are of it changes nothing.

    Returns one boolean an iteration, and the error of that set, of the mean latent frame.
    """
    reach = min(max_skip, errors.skipped.shape[1])
    changed = [i > 0 and schedule.context_changed(i, i - 1) for i in range(len(schedule))]
    must = [schedule.grew(i) or schedule.clean_prefix(i) > 0 or changed[i] for i in range(len(schedule))]
    costs = [
        [work(i, before) for before in range(i - 1, max(i - reach - 2, -1), -1)] or [work(i, -1)]
        for i in range(len(must))
    ]
    spend, units, allowed = max(budget, _cheapest(costs, must, reach)), UNITS, 1.0
    for attempt in range(ATTEMPTS):
        unit = spend / units
        parts = [[round(each / unit) for each in row] for row in costs]
        room = max(round(units * allowed), int(_cheapest(parts, must, reach)))  # rounding may have made it dearer
        most = room + max(map(max, parts))  # some room above: see `_pick`
        table, came = _tabulate(parts, must, changed, errors, reach, most)
        least = table.flatten(0, 1).amin(dim=0)
        spent = _pick(least, room)
        recomputed = _trace(table, came, parts, spent)
        runs = [-1, *(i for i, due in enumerate(recomputed) if due)]
        cost = sum(costs[i][i - before - 1] for before, i in pairwise(runs))
        missed = cost / (spent * unit) if spent else 1.0
        if abs(missed - 1) <= ROUNDING:
            break
        if attempt:
            allowed = 1 / missed
        else:
            units = _units(costs, spend)
    return recomputed, float(least[spent]) / max(1, int(schedule.mask.any(dim=0).sum()))


def _units(costs: Sequence[Sequence[float]], budget: float) -> int:
    """Into how many parts a budget is divided so that costs are nearly whole numbers of them."""
    every = torch.tensor([each for row in costs for each in row], dtype=torch.float64) / budget
    tried = range(UNITS, 2 * UNITS, 10)
    return min(tried, key=lambda units: float(((every * units).round() - every * units).abs().sum() / units))


def _cheapest(parts: Sequence[Sequence[float]], must: Sequence[bool], max_skip: int) -> float:
    """The least work that the horizon and forced recomputes allow, of parts by (iteration, skips before it)."""
    best: list[float] = []  # work up to here, the last recompute being this iteration; behind all of them, a free one
    for i, row in enumerate([*parts, [0] * (max_skip + 1)]):
        reach: list[float] = []
        for skips, before in enumerate(range(i - 1, max(i - max_skip - 2, -1), -1)):
            reach.append(best[before] + row[skips])
            if must[before]:
                break
        best.append(min(reach, default=row[0]))
    return best[-1]


def _tabulate(
    parts: Sequence[Sequence[int]], must: list[bool], changed: list[bool], errors: Errors, max_skip: int, most: int
) -> tuple[Tensor, list[Tensor]]:
    """The least error by (skips since the newest recompute, gap between the last two, work so far).

    Returns that table after the last iteration, and for every iteration what a recompute there came from: the gap by
    (skips, work before), or (skips, gap) as one number by work before where a new curve begins.
    """
    table = torch.full((max_skip + 1, max_skip + 2, most + 1), torch.inf, dtype=torch.float64)
    came = [torch.zeros(0)]
    table[0, 0, parts[0][0]] = 0.0
    for i in range(1, len(parts)):
        new = torch.full_like(table, torch.inf)
        if not must[i]:
            new[1:] = table[:-1] + errors.skipped[i, :max_skip, : max_skip + 2, None]
        if changed[i]:  # what was computed before is of another curve
            least, origin = table.flatten(0, 1).min(dim=0)
            new[0, 0, parts[i][0] :] = least[: most + 1 - parts[i][0]]
        else:
            table[1:] += errors.again[i, :max_skip, : max_skip + 2, None]
            least, origin = table.min(dim=1)
            for skips, part in enumerate(parts[i]):
                new[0, skips + 1, part:] = least[skips, : most + 1 - part]
        came.append(origin)
        table = new
    return table, came


def _pick(errors: Tensor, budget: int) -> int:
    """The work to spend, of which the least errors are given."""
    below = int(errors[: budget + 1].argmin())
    dearer = errors[budget + 1 :].isfinite().nonzero()
    if budget <= below * TOLERANCE or not len(dearer):
        return below
    above = budget + 1 + int(dearer[0])
    return int(errors[: above + 1].argmin()) if above / budget < budget / max(below, 1) else below


def _trace(table: Tensor, came: list[Tensor], parts: Sequence[Sequence[int]], spent: int) -> list[bool]:
    """The way that led to the least error at that work."""
    width = table.shape[1]
    skips, gap = divmod(int(table[:, :, spent].argmin()), width)
    recomputed = [i == 0 for i in range(len(parts))]
    for i in range(len(parts) - 1, 0, -1):
        if skips > 0:
            skips -= 1
            continue
        recomputed[i] = True
        spent -= parts[i][max(gap - 1, 0)]
        if gap == 0:
            skips, gap = divmod(int(came[i][spent]), width)
        else:
            skips, gap = gap - 1, int(came[i][gap - 1, spent])
    return recomputed
