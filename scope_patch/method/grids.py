"""Residuals of a stack of blocks on grids of growing size: kept, resampled and extrapolated over log2 of the side.

For images that are made scale by scale, where `history` has nothing to keep: no two steps have tensors of one shape.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]
FURTHEST = 1.0
"""An extrapolation goes no further than the gap that it was measured on."""


def resample(x: Tensor, old: Grid, new: Grid) -> Tensor:
    """[rows, h w, channels] from one grid to another, bilinearly."""
    if old == new:
        return x
    return _spread(_pictures(x, old), new).flatten(2).transpose(1, 2)


def _pictures(x: Tensor, grid: Grid) -> Tensor:
    return x.transpose(1, 2).reshape(len(x), x.shape[2], *grid)


def _spread(pictures: Tensor, grid: Grid) -> Tensor:
    return F.interpolate(pictures, size=grid, mode="bilinear", align_corners=False)


def detailed(x: Tensor, grid: Grid, count: int) -> Tensor:
    """The tokens, ascending, of x [rows, h w, channels] that differ most from what a grid half as fine would carry.

    Nobody waits for the device: their number is known, which ones stays there.
    """
    pictures = _pictures(x, grid)
    coarse = F.avg_pool2d(pictures, 2, ceil_mode=True, count_include_pad=False)
    score = (pictures - _spread(coarse, grid)).square().sum(1).flatten(1).mean(0)
    return score.topk(count, sorted=False).indices.sort().values


class GridHistory:
    """The last two residuals, the newest first. Attributes: octaves and grids that they were computed at."""

    def __init__(self) -> None:
        self._points: list[tuple[float, Grid, Tensor]] = []

    @property
    def bytes(self) -> int:
        """What it holds."""
        return sum(residual.numel() * residual.element_size() for *_, residual in self._points)

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
        if not predict or len(self._points) < 2:
            return held
        older, before, residual = self._points[1]
        if newest <= older:
            return held
        earlier = resample(residual, before, grid)
        rows = min(len(held), len(earlier))
        held, earlier = held[:rows], earlier[:rows]
        change = held - earlier
        small = change.norm(dim=-1, keepdim=True) <= held.norm(dim=-1, keepdim=True)
        return held + min((octave - newest) / (newest - older), FURTHEST) * torch.where(small, change, 0)
