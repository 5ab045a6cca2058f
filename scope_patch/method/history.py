"""The velocities that were computed, per CFG branch and absolute latent frame: the only mutable tensors we keep."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .predictors.points import Points
from .schedule import Interval, overlap

FRAME_AXIS = 2
"""Velocities are [batch, channels, latent frames, height, width]."""


@dataclass(frozen=True)
class Anchor:
    """One computed velocity: the interval it covers, the noise levels it stands at (float64 [slots]), the tensor."""

    interval: Interval
    levels: Tensor
    velocity: Tensor


class BranchHistory:
    """The last computed velocities of one CFG branch, newest first, at most `keeps` of them.

    Intervals only grow at their end, so an old slot keeps its points when new slots come under way.
    """

    def __init__(self, keeps: int) -> None:
        self.anchors: deque[Anchor] = deque(maxlen=keeps)
        self._sizes: tuple[Tensor, ...] = ()
        self._unread: list[tuple[Interval, Tensor]] = []
        self._points: tuple[Interval, Points] | None = None

    @property
    def bytes(self) -> int:
        """Memory held by the velocities."""
        return sum(anchor.velocity.nbytes for anchor in self.anchors)

    def covers(self, interval: Interval) -> bool:
        """Whether the newest velocity has every slot of the interval."""
        return bool(self.anchors) and (
            self.anchors[0].interval[0] <= interval[0] and interval[1] <= self.anchors[0].interval[1]
        )

    def record(self, interval: Interval, levels: Tensor, velocity: Tensor) -> None:
        """Add the velocity of a forward over `interval`; it is copied, so the host may do with its own what it likes.

        A velocity of another shape, dtype or device than the history's starts the history anew.
        """
        if self.anchors and not _alike(self.anchors[0].velocity, velocity):
            self.anchors.clear()
        self.anchors.appendleft(Anchor(interval, levels.clone(), velocity.detach().clone()))
        self._unread = self._measure()
        self._points = None

    def points(self, interval: Interval) -> Points:
        """What is known of the slots in `interval`, as predictors want it; the history must not be empty."""
        if self._points is None or self._points[0] != interval:
            self._points = interval, self._spread_points(interval)
        return self._points[1]

    def _spread_points(self, interval: Interval) -> Points:
        settle([self])
        levels = torch.stack([_spread(anchor.levels, anchor.interval, interval) for anchor in self.anchors])
        own = self.anchors[0].interval
        drift, bend = (_spread(size, own, interval) for size in self._sizes)
        return Points(levels, drift, bend)

    def combine(self, interval: Interval, weights: Tensor) -> Tensor:
        """sum_k w[k, j] v_k[..., j, ...] over `interval`, a new tensor in the dtype and on the device of the history.

        Raises ValueError where the newest velocity does not cover the interval: there is nothing to start from.
        """
        if not self.covers(interval):
            known = self.anchors[0].interval if self.anchors else "none"
            raise ValueError(f"no velocity for latent frames {interval}: the newest covers {known}")
        newest = self.anchors[0]
        held = _slots(newest, interval)
        share = weights.to(held.device, held.dtype)
        out = held * _column(share[0])
        for k, anchor in enumerate(list(self.anchors)[1 : len(weights)], start=1):
            start, end = overlap(interval, anchor.interval)
            if start < end and bool((weights[k] != 0).any()):
                part = out.narrow(FRAME_AXIS, start - interval[0], end - start)
                part.addcmul_(_slots(anchor, (start, end)), _column(_cut(share[k], interval, (start, end))))
        return out.to(newest.velocity.dtype)

    def _measure(self) -> list[tuple[Interval, Tensor]]:
        """||v0||, ||v0 - v1|| and ||C|| a slot, each with the slots it is of; still where the velocities are."""
        newest = self.anchors[0]
        measured = [(newest.interval, _norm(_slots(newest, newest.interval)))]
        if len(self.anchors) > 1:
            common = overlap(newest.interval, self.anchors[1].interval)
            measured.append((common, _norm(_slots(newest, common) - _slots(self.anchors[1], common))))
        if len(self.anchors) > 2:
            points = Points(torch.stack([_spread(a.levels, a.interval, newest.interval) for a in self.anchors]))
            common = overlap(common, self.anchors[2].interval)
            measured.append((common, _norm(self._curvature(points, common))))
        return measured

    def _set_sizes(self, read: Tensor) -> None:
        """Drift and bend of the newest anchor's slots (see Points), from the numbers of `_measure`."""
        newest = self.anchors[0]
        points = Points(torch.stack([_spread(a.levels, a.interval, newest.interval) for a in self.anchors]))
        parts = torch.split(read, [len(norm) for _, norm in self._unread])
        rows = [_spread(row, own, newest.interval) for row, (own, _) in zip(parts, self._unread, strict=True)]
        size, drift, bend = rows + [torch.zeros_like(rows[0])] * (3 - len(rows))
        scale = size.clamp(min=torch.finfo(torch.float32).tiny)
        # What was not finite must stay visible, also in a slot that has no second point to compare with.
        fault = torch.where(size.isfinite(), 0.0, torch.nan)
        drift, bend = (
            torch.where(points.count >= least, row, 0.0) / scale + fault for least, row in ((2, drift), (3, bend))
        )
        self._sizes, self._unread = (drift, bend), []

    def _curvature(self, points: Points, common: Interval) -> Tensor:
        """C = 2 (D1 - D2) / (h1 + h2) over the slots that three anchors share; of no meaning where count < 3."""
        v0, v1, v2 = (_slots(anchor, common) for anchor in self.anchors)
        own = self.anchors[0].interval
        h1, h2 = (_cut(gap, own, common).nan_to_num(1.0) for gap in (points.first_gap, points.second_gap))
        factors = (_column(f.to(v0.device, v0.dtype)) for f in (2 / (h1 * (h1 + h2)), 2 / (h2 * (h1 + h2))))
        first, second = factors
        return (v0 - v1) * first - (v1 - v2) * second


def settle(histories: Sequence[BranchHistory]) -> None:
    """Read the sizes that several histories have measured since the last time, in one look at the device."""
    unread = [history for history in histories if history._unread]
    if not unread:
        return
    norms = [torch.cat([norm for _, norm in history._unread]) for history in unread]
    read = torch.cat(norms).to("cpu", torch.float64)
    for history, numbers in zip(unread, torch.split(read, [len(norm) for norm in norms]), strict=True):
        history._set_sizes(numbers)


def _alike(one: Tensor, other: Tensor) -> bool:
    drop = [axis for axis in range(one.dim()) if axis != FRAME_AXIS]
    same = one.dim() == other.dim() and all(one.shape[a] == other.shape[a] for a in drop)
    return same and one.dtype == other.dtype and one.device == other.device


def _slots(anchor: Anchor, interval: Interval) -> Tensor:
    """The velocity over `interval`, in at least float32: differences of neighbours drown in bf16."""
    part = anchor.velocity.narrow(FRAME_AXIS, interval[0] - anchor.interval[0], interval[1] - interval[0])
    return part.to(torch.promote_types(part.dtype, torch.float32))


def _cut(row: Tensor, own: Interval, wanted: Interval) -> Tensor:
    return row[wanted[0] - own[0] : wanted[1] - own[0]]


def _spread(row: Tensor, own: Interval, wanted: Interval) -> Tensor:
    """A row over `own` as one over `wanted`, NaN where nothing is known."""
    out = torch.full((wanted[1] - wanted[0],), torch.nan, dtype=torch.float64)
    start, end = overlap(own, wanted)
    out[start - wanted[0] : end - wanted[0]] = row[start - own[0] : end - own[0]]
    return out


def _norm(velocity: Tensor) -> Tensor:
    """L2 norm a slot, [slots], in at least float32."""
    other = [axis for axis in range(velocity.dim()) if axis != FRAME_AXIS]
    norm: Tensor = torch.linalg.vector_norm(velocity, dim=other)
    return norm


def _column(row: Tensor) -> Tensor:
    """[slots] as a factor of [batch, channels, slots, height, width]."""
    return row.view(1, 1, -1, 1, 1)
