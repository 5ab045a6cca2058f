"""What was computed and is kept: velocities, per CFG branch and absolute latent frame; residuals of growing images.

The only mutable tensors we keep. Nothing in here looks at a number: what is measured stays where the velocities are,
and so the host never waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .forecast import Points
from .memory import Anchor, Memory
from .schedule import Interval, on_device, overlap

FRAME_AXIS = 2
"""Velocities are [batch, channels, latent frames, height, width]."""
Grid = tuple[int, int]
norms = partial(torch.linalg.vector_norm, dim=(0, 1, 3, 4))
"""L2 norm a slot, [slots], of [batch, channels, slots, height, width]."""
_interpolated = partial(F.interpolate, mode="bilinear", align_corners=False)


class BranchHistory:
    """The last computed velocities of one CFG branch, newest first, at most `keeps` of them.

    Intervals only grow at their end, so an old slot keeps its points when new slots come under way. The memory is what
    all histories of a generation may take together.
    """

    def __init__(self, keeps: int, memory: Memory | None = None) -> None:
        self._keeps, self._memory = keeps, memory or Memory()
        self.anchors = self._memory.history()
        self._sizes: tuple[tuple[int, int], tuple[Tensor, Tensor]] | None = None
        self._points: tuple[tuple[int, int], Interval, Points] | None = None

    def covers(self, interval: Interval) -> bool:
        """Whether the newest velocity has every slot of the interval."""
        return bool(self.anchors) and overlap(interval, self.anchors[0].interval) == interval

    def record(self, interval: Interval, levels: Tensor, velocity: Tensor, *, copy: bool = True) -> None:
        """Add the velocity of a forward over `interval`; it is copied, so the host may do with its own what it likes.

        A velocity of another shape, dtype or device than the history's starts the history anew.

        Args: levels, its noise levels, [slots], on its device or the CPU; copy, False where it is nobody else's.
        """
        del self.anchors[self._keeps - 1 if self.anchors and _alike(self.anchors[0], velocity) else 0 :]
        self._memory.record(self.anchors, interval, on_device(levels, velocity.device), velocity, copy=copy)

    def keep_since(self, number: int) -> None:
        """Drop the velocities that were recorded before the one of that number."""
        del self.anchors[sum(anchor.number >= number for anchor in self.anchors) :]

    def points(self, interval: Interval) -> Points:
        """What is known of the slots in `interval`, as predictors want it; the history must not be empty.

        Sizes are measured when they are first asked for: not of velocities that another forward follows at once.
        """
        held = self.anchors[0].number, len(self.anchors)  # others are here only where one of these is another
        if self._points is None or self._points[:2] != (held, interval):
            if self._sizes is None or self._sizes[0] != held:
                self._sizes = held, self._measure()
            own = self.anchors[0].interval
            drift, bend = (_spread(size, own, interval) for size in self._sizes[1])
            self._points = held, interval, Points(self._levels(interval), drift, bend)
        return self._points[2]

    def hold(self, interval: Interval) -> Tensor:
        """The newest velocity over `interval`, a new tensor. Raises ValueError where `combine` does."""
        return self._newest(interval).clone()

    def combine(self, interval: Interval, weights: Tensor) -> Tensor:
        """sum_k w[k, j] v_k[..., j, ...] over `interval`, a new tensor in the dtype and on the device of the history.

        Raises ValueError where the newest velocity does not cover the interval: there is nothing to start from.

        Weights are [points, slots], on the device of the history. A velocity that is not finite spoils its slot even
        where its weight is 0 (the latents it was integrated into are spoilt anyway), and no other slot.
        """
        newest = self._newest(interval)
        held = _wide(newest)
        # Factors of [batch, channels, slots, height, width].
        shares = weights.to(held.dtype).reshape(len(weights), 1, 1, -1, 1, 1).unbind()
        out = held * shares[0]
        for anchor, share in list(zip(self.anchors, shares, strict=False))[1:]:
            common = overlap(interval, anchor.interval)
            if common[0] < common[1]:
                part = _wide(_cut(anchor.velocity, anchor.interval, common))
                _cut(out, interval, common).addcmul_(part, _cut(share, interval, common))
        return out.to(newest.dtype)

    def _newest(self, interval: Interval) -> Tensor:
        """A view of the newest velocity."""
        if not self.covers(interval):
            known = self.anchors[0].interval if self.anchors else "none"
            raise ValueError(f"no velocity for latent frames {interval}: the newest covers {known}")
        return _cut(self.anchors[0].velocity, self.anchors[0].interval, interval)

    def _levels(self, interval: Interval) -> Tensor:
        """Noise levels of all anchors, [points, slots]."""
        return torch.stack([_spread(anchor.levels, anchor.interval, interval) for anchor in self.anchors])

    def _measure(self) -> tuple[Tensor, Tensor]:
        """Drift and bend of the newest velocity's slots (see Points); NaN where a velocity they need is not finite."""
        own = common = self.anchors[0].interval
        points = Points.unmeasured(self._levels(own))
        velocities = [_wide(anchor.velocity) for anchor in self.anchors]
        size = norms(velocities[0]).to(points.levels.dtype)
        scale = size.clamp(min=torch.finfo(torch.float32).tiny)
        # What is not finite must stay visible, also in a slot that has no second point to compare with.
        sizes = [size - size] * 2
        for k in range(1, len(self.anchors)):
            common = overlap(common, self.anchors[k].interval)
            if common[0] < common[1]:
                parts = [_cut(velocities[n], self.anchors[n].interval, common) for n in range(k + 1)]
                difference = parts[0] - parts[1] if k == 1 else self._curvature(points, common, parts)
                norm = _spread(norms(difference).to(size.dtype), common, own)
                sizes[k - 1] = sizes[k - 1] + torch.where(points.count > k, norm, 0.0) / scale
        return sizes[0], sizes[1]

    def _curvature(self, points: Points, common: Interval, velocities: Sequence[Tensor]) -> Tensor:
        """C = 2 (D1 - D2) / (h1 + h2) over the slots that three anchors share; of no meaning where count < 3."""
        v0, v1, v2 = velocities
        shared = common[0] - self.anchors[0].interval[0], common[1] - common[0]
        h1, h2 = (gap.narrow(0, *shared).nan_to_num(1.0) for gap in (points.first_gap, points.second_gap))
        slope, older = ((2 / (gap * (h1 + h2))).to(v0.dtype).view(1, 1, -1, 1, 1) for gap in (h1, h2))
        return (v0 - v1) * slope - (v1 - v2) * older


def _alike(anchor: Anchor, other: Tensor) -> bool:
    """Whether a velocity is like another, but for its slots."""
    one, theirs = ((*each.shape[:FRAME_AXIS], *each.shape[FRAME_AXIS + 1 :]) for each in (anchor.kept, other))
    return one == theirs and anchor.kept.dtype == other.dtype and anchor.levels.device == other.device


def _cut(whole: Tensor, own: Interval, wanted: Interval) -> Tensor:
    """The slots `wanted` of a tensor that is over the slots `own`, a view."""
    return whole if own == wanted else whole.narrow(FRAME_AXIS, wanted[0] - own[0], wanted[1] - wanted[0])


def _wide(velocity: Tensor) -> Tensor:
    """In at least float32: differences of neighbours drown in bf16."""
    return velocity if velocity.dtype in (torch.float32, torch.float64) else velocity.float()


def _spread(row: Tensor, own: Interval, wanted: Interval) -> Tensor:
    """A row over `own` as one over `wanted`, NaN where nothing is known."""
    if own == wanted:
        return row
    out = row.new_full((wanted[1] - wanted[0],), torch.nan)
    start, end = overlap(own, wanted)
    out[start - wanted[0] : end - wanted[0]] = row[start - own[0] : end - own[0]]
    return out


class GridHistory:
    """The last two residuals of a stack of blocks on grids of growing size, extrapolated over log2 of the side.

    For images that are made scale by scale: no two steps have tensors of one shape.
    """

    def __init__(self) -> None:
        self._points: list[tuple[float, Grid, Tensor]] = []  # octave, grid and residual, the newest first

    @property
    def bytes(self) -> int:
        return sum(residual.nbytes for *_, residual in self._points)

    def record(self, octave: float, grid: Grid, residual: Tensor) -> None:
        """A residual [rows, h w, channels] was computed, at log2 of the side."""
        self._points = [(octave, grid, residual), *self._points][:2]

    def estimate(self, octave: float, grid: Grid, predict: bool) -> Tensor | None:
        """The residual on another grid: the newest one, or, where there are two, extrapolated by first order.

        Of as many rows as were computed. A token whose residual changed by more than its own size holds it. None where
        nothing was computed.
        """
        if not self._points:
            return None
        newest, at, residual = self._points[0]
        held = resample(residual, at, grid)
        older, at, residual = self._points[-1]
        if not predict or newest <= older:  # or there is but one
            return held
        earlier = resample(residual, at, grid)
        rows = min(len(held), len(earlier))
        held, earlier = held[:rows], earlier[:rows]
        change = held - earlier
        small = change.norm(dim=-1, keepdim=True) <= held.norm(dim=-1, keepdim=True)
        reach = min((octave - newest) / (newest - older), 1.0)  # no further than the gap that it was measured on
        return held + reach * torch.where(small, change, 0)


def resample(x: Tensor, old: Grid, new: Grid) -> Tensor:
    """[rows, h w, channels] from one grid to another, bilinearly."""
    return x if old == new else _interpolated(_pictures(x, old), new).flatten(2).transpose(1, 2)


def _pictures(x: Tensor, grid: Grid) -> Tensor:
    return x.transpose(1, 2).reshape(len(x), x.shape[2], *grid)


def detailed(x: Tensor, grid: Grid, count: int) -> Tensor:
    """The tokens, ascending, of x [rows, h w, channels] that differ most from what a grid half as fine would carry.

    Nobody waits for the device: their number is known, which ones stays there.
    """
    pictures = _pictures(x, grid)
    coarse = F.avg_pool2d(pictures, 2, ceil_mode=True, count_include_pad=False)
    score = (pictures - _interpolated(coarse, grid)).square().sum(1).flatten(1).mean(0)
    return score.topk(count, sorted=False).indices.sort().values
