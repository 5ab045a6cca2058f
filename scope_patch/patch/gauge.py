"""The embedded latents as a signal: how much they changed between two iterations (d of equation 4)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..method.discrepancy import EPSILON
from ..method.history import FRAME_AXIS
from ..method.schedule import Interval, Schedule, overlap
from .call import ForwardCall
from .layout import Layout


class LatentGauge:
    """The embedded latents (what the first block gets): known only while the host runs; one look at the device a step.

    Args:
        embed: latents -> embedded latents, linear, so that their change can be embedded in place of both of them.
    """

    def __init__(self, embed: Callable[[Tensor], Tensor], layout: Layout) -> None:
        self._embed, self._layout = embed, layout
        self._before: tuple[Interval, Tensor] | None = None
        self._common: Interval = (0, 0)
        self._table: list[list[float]] = []

    def enter(self, call: ForwardCall, schedule: Schedule, iteration: int) -> None:
        interval = schedule.intervals[iteration]
        latents = call.latents.detach().narrow(
            FRAME_AXIS, schedule.lead(iteration) * schedule.frames, (interval[1] - interval[0]) * schedule.frames
        )[:1]
        before, self._before, self._table = self._before, (interval, latents), []
        if before is None:
            return
        self._common = start, end = overlap(interval, before[0])
        with torch.no_grad():
            now, then = (
                [self._part(latents, own, slot) for slot in range(start, end)]
                for own, latents in ((interval, latents), before)
            )
            pairs = [(self._embed(a - b), self._embed(b)) for a, b in zip(now, then, strict=True)]
            means = [torch.stack([change.abs().mean(), size.abs().mean()]) for change, size in pairs]
            self._table = torch.stack(means).to("cpu", torch.float64).tolist() if means else []

    def change(self, slots: Interval) -> float | None:
        start, end = overlap(slots, self._common)
        rows = self._table[start - self._common[0] : end - self._common[0]]
        if not rows:
            return None
        return sum(row[0] for row in rows) / (sum(row[1] for row in rows) + EPSILON)

    def _part(self, latents: Tensor, own: Interval, slot: int) -> Tensor:
        frames = self._layout.frames
        return latents.narrow(FRAME_AXIS, (slot - own[0]) * frames, frames)
