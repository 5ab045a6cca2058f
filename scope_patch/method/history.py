"""The velocities that were computed, per CFG branch and absolute latent frame: the only mutable tensors we keep.

Nothing in here looks at a number: what is measured stays where the velocities are, and so the host never waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .memory import Anchor, Memory
from .predictors.formulas import Points
from .schedule import Interval, on_device, overlap

FRAME_AXIS = 2
"""Velocities are [batch, channels, latent frames, height, width]."""


class BranchHistory:
    """The last computed velocities of one CFG branch, newest first, at most `keeps` of them.

    Intervals only grow at their end, so an old slot keeps its points when new slots come under way.

    Args:
        memory: what all histories of a generation may take together; None: as much as they want.
    """

    def __init__(self, keeps: int, memory: Memory | None = None) -> None:
        self._keeps, self._memory = keeps, memory or Memory()
        self.anchors = self._memory.history()
        self._sizes: tuple[tuple[int, int], tuple[Tensor, Tensor]] | None = None
        self._points: tuple[tuple[int, int], Interval, Points] | None = None

    def covers(self, interval: Interval) -> bool:
        """Whether the newest velocity has every slot of the interval."""
        return bool(self.anchors) and (
            self.anchors[0].interval[0] <= interval[0] and interval[1] <= self.anchors[0].interval[1]
        )

    def record(self, interval: Interval, levels: Tensor, velocity: Tensor, *, copy: bool = True) -> None:
        """Add the velocity of a forward over `interval`; it is copied, so the host may do with its own what it likes.

        A velocity of another shape, dtype or device than the history's starts the history anew.

        Args:
            levels: its noise levels, [slots], on its device or the CPU.
            copy: False where the tensor is nobody else's.
        """
        self.anchors.trim(self._keeps - 1 if self.anchors and _alike(self.anchors[0], velocity) else 0)
        self._memory.record(self.anchors, interval, on_device(levels, velocity.device), velocity, copy=copy)

    def keep_since(self, number: int) -> None:
        """Drop the velocities that were recorded before the one of that number."""
        self.anchors.trim(sum(anchor.number >= number for anchor in self.anchors))

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
        return _part(self._newest(interval), interval).clone()

    def combine(self, interval: Interval, weights: Tensor) -> Tensor:
        """sum_k w[k, j] v_k[..., j, ...] over `interval`, a new tensor in the dtype and on the device of the history.

        Raises ValueError where the newest velocity does not cover the interval: there is nothing to start from.

        Args:
            weights: [points, slots], on the device of the history. A velocity that is not finite spoils its slot even
                where its weight is 0 (the latents it was integrated into are spoilt anyway), and no other slot.
        """
        newest = self._newest(interval)
        held = _wide(_part(newest, interval))
        # Factors of [batch, channels, slots, height, width].
        shares = weights.to(held.dtype).reshape(len(weights), 1, 1, -1, 1, 1).unbind()
        out = held * shares[0]
        for anchor, share in list(zip(self.anchors, shares, strict=False))[1:]:
            common = overlap(interval, anchor.interval)
            if common[0] < common[1]:
                part = _wide(_part(anchor, common))
                _cut(out, interval, common).addcmul_(part, _cut(share, interval, common))
        return out.to(newest.kept.dtype)

    def _newest(self, interval: Interval) -> Anchor:
        if not self.covers(interval):
            known = self.anchors[0].interval if self.anchors else "none"
            raise ValueError(f"no velocity for latent frames {interval}: the newest covers {known}")
        return self.anchors[0]

    def _levels(self, interval: Interval) -> Tensor:
        """Noise levels of all anchors, [points, slots]."""
        return torch.stack([_spread(anchor.levels, anchor.interval, interval) for anchor in self.anchors])

    def _measure(self) -> tuple[Tensor, Tensor]:
        """Drift and bend of the newest velocity's slots (see Points); NaN where a velocity they need is not finite."""
        own = common = self.anchors[0].interval
        points = Points(self._levels(own))
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
        first = common[0] - self.anchors[0].interval[0]
        h1, h2 = (
            gap.narrow(0, first, common[1] - common[0]).nan_to_num(1.0) for gap in (points.first_gap, points.second_gap)
        )
        slope, older = ((2 / (gap * (h1 + h2))).to(v0.dtype).view(1, 1, -1, 1, 1) for gap in (h1, h2))
        return (v0 - v1) * slope - (v1 - v2) * older


def _alike(anchor: Anchor, other: Tensor) -> bool:
    one = anchor.kept
    drop = [axis for axis in range(one.dim()) if axis != FRAME_AXIS]
    same = one.dim() == other.dim() and all(one.shape[a] == other.shape[a] for a in drop)
    return same and one.dtype == other.dtype and anchor.levels.device == other.device


def _part(anchor: Anchor, interval: Interval) -> Tensor:
    """A view of the velocity over `interval`."""
    return _cut(anchor.velocity, anchor.interval, interval)


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


def norms(velocity: Tensor) -> Tensor:
    """L2 norm a slot, [slots], of [batch, channels, slots, height, width]."""
    other = [axis for axis in range(velocity.dim()) if axis != FRAME_AXIS]
    norm: Tensor = torch.linalg.vector_norm(velocity, dim=other)
    return norm
