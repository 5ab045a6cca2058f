"""The error that skipping an iteration adds to the video, by the bound of equations 10 to 12 (design §2)."""

from __future__ import annotations

import torch
from torch import Tensor

from .profile import Profile
from .schedule import Schedule

SHARE_FLOOR = 0.02
AMPLIFICATION = 1.5
"""How an error of the latents at sigma grows until they are clean: as (1 - sigma + SHARE_FLOOR) ** -AMPLIFICATION.

An error of x = (1 - sigma) data + sigma noise is one of the data larger by 1 / (1 - sigma), if nothing mends it; that
decisions are made early, and guidance enlarges them, adds to it. Measured with `examples/studies/sensitivity.py`.
"""


def skip_errors(schedule: Schedule, profile: Profile, most: int) -> Tensor:
    """For every iteration, what skipping it adds to the error of the finished latents, summed over slots.

    epsilon[i+1] <= epsilon[i] + |d sigma| ||delta[i]||, amplified. delta is what is left of an extrapolation over h
    from two velocities h1 apart, curvature h (h + h1) / 2, or slope h, what changed over h, where that is less or there
    is one velocity.

    Args:
        most: skips in a row at the most.

    Returns:
        float64 [iterations, most, most + 2]: entry [i, k - 1, g] for the k-th skip in a row (the newest recompute was k
        iterations ago), g iterations between the last two recomputes, 0 where there is no second. Infinite where a slot
        that is updated has no velocity.
    """
    levels, mask = schedule.noise_levels, schedule.mask
    iterations, slots = mask.shape
    following = torch.cat([mask[1:] & mask[:-1], mask.new_zeros(1, slots)])
    to = torch.where(following, torch.cat([levels[1:], levels[-1:]]), 0.0)
    slope, curvature = (interpolate(profile.levels, row, levels) for row in (profile.slope, profile.curvature))
    grows = (1 - levels + SHARE_FLOOR).clamp(min=SHARE_FLOOR) ** -AMPLIFICATION
    weight = grows * (levels - to).abs() * mask
    entry = _entries(schedule)
    out = torch.full((iterations, most, most + 2), torch.inf, dtype=torch.float64)
    row = torch.arange(iterations)
    for skips in range(1, most + 1):
        newest = row - skips
        h = (levels - levels[newest.clamp(min=0)]).abs()
        known = (newest[:, None] >= entry) | ~mask
        usable = known.all(dim=1) & (newest >= 0)
        for gap in range(most + 2):
            second = newest - gap
            h1 = (levels[newest.clamp(min=0)] - levels[second.clamp(min=0)]).abs()
            delta = miss(slope, curvature, h, torch.where(second[:, None] >= entry, h1, 0.0))
            out[:, skips - 1, gap] = torch.where(usable, (weight * delta).sum(dim=1), torch.inf)
    return out


def miss(slope: Tensor, curvature: Tensor, h: Tensor, h1: Tensor) -> Tensor:
    """What is missed, relative to the velocity, by extrapolating over h from two velocities h1 apart.

    Args:
        h1: 0 where there is one velocity, which is repeated.
    """
    held = slope * h
    return torch.where(h1 > 0, torch.minimum(held, curvature * h * (h + h1) / 2), held)


def _entries(schedule: Schedule) -> Tensor:
    """For every slot, the first iteration that can compute it, [slots]."""
    slot = torch.arange(schedule.mask.shape[1])
    start, end = torch.tensor(schedule.intervals).reshape(-1, 2, 1).unbind(dim=1)
    inside = (start <= slot) & (slot < end)
    return torch.where(inside.any(dim=0), inside.long().argmax(dim=0), len(schedule))


def interpolate(levels: tuple[float, ...], values: tuple[float, ...], at: Tensor) -> Tensor:
    """Linear between noise levels, constant beyond them."""
    x, y = (torch.tensor(row, dtype=torch.float64) for row in (levels, values))
    if len(x) == 1:
        return torch.full_like(at, float(y[0]))
    upper = torch.searchsorted(x, at.contiguous()).clamp(1, len(x) - 1)
    share = ((at - x[upper - 1]) / (x[upper] - x[upper - 1])).clamp(0, 1)
    return torch.lerp(y[upper - 1], y[upper], share)
