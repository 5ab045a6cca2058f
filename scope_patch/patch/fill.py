"""What the host gets in place of a forward, or of a part of one: velocities of skipped slots, made from the history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..method.decision import Mode
from ..method.fold import StepDecision
from ..method.forecast import Forecast
from ..method.history import FRAME_AXIS
from ..method.schedule import Interval, Schedule
from .branches import Branch
from .call import ForwardCall
from .layout import Layout
from .standin import StandIn


@dataclass
class Pending:
    """A forward that is about to run.

    Attributes:
        slots: what it computes velocities of.
        size: (batch, height, width) of the latents.
        lead: slots in front of them that it computes too, of which nothing is kept.
        whole: what the host gets where only some of its slots are forwarded: made from the history, completed by the
            forward. None where the forward's own output is what the host gets.
        arguments: what it runs with in that case.
        standin: stands for its blocks meanwhile, at the residual level.
        predicted: what the host would have got in its place, to be compared with what it makes.
    """

    branch: Branch
    iteration: int
    slots: Interval
    size: tuple[int, ...]
    lead: int = 0
    whole: Tensor | None = None
    arguments: dict[str, Any] | None = None
    standin: StandIn | None = None
    predicted: Tensor | None = None

    @property
    def bypassed(self) -> bool:
        """Whether its blocks shall not run."""
        return self.standin is not None and self.standin.added is not None


def fill(
    call: ForwardCall,
    branch: Branch,
    interval: Interval,
    lead: int,
    last: int,
    layout: Layout,
    forecast: Forecast | None,
    verdict: StepDecision,
) -> Tensor | None:
    """A velocity in the host's layout, over the lead and the interval; None where the branch lacks a history.

    Args:
        last: slots before it (and the lead) will be computed; what stands in their places means nothing.
    """
    expected = layout.unpack(call.latents).shape
    pieces = []
    with torch.no_grad():
        for part in branch.parts(interval):
            if part.interval[1] <= last:
                continue
            if forecast is None or not part.history.covers(part.interval):
                return None
            newest = part.history.anchors[0].velocity
            if newest.shape[0] != expected[0] or newest.shape[3:] != expected[3:]:
                return None  # another batch or picture size
            pieces.append(
                forecast.predict(part) if verdict.mode_of(part.interval[0]) is Mode.PREDICT else forecast.hold(part)
            )
        missing = interval[1] - interval[0] + lead - sum(piece.shape[FRAME_AXIS] for piece in pieces)
        if missing:
            batch, channels, _, *size = pieces[0].shape
            pieces.insert(0, pieces[0].new_zeros(batch, channels, missing, *size))
        velocity = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=FRAME_AXIS)
        return layout.pack(velocity, call.latents)


def complete(pending: Pending, velocity: Tensor, schedule: Schedule, layout: Layout) -> Tensor:
    """Put the velocity of a forward of some slots into what the host gets of all.

    Raises ValueError where it is not of the shape that was asked for: it must not be broadcast.
    """
    assert pending.whole is not None
    first = (pending.slots[0] - schedule.intervals[pending.iteration][0]) * layout.frames
    frames = (pending.slots[1] - pending.slots[0] + pending.lead) * layout.frames
    place = pending.whole.narrow(FRAME_AXIS, first, frames)
    if place.shape != velocity.shape:
        raise ValueError(f"a velocity is {tuple(velocity.shape)}, expected {tuple(place.shape)}")
    place.copy_(velocity)
    return pending.whole


def keep(pending: Pending, velocity: Tensor, schedule: Schedule, layout: Layout) -> None:
    """Put the velocity of a forward into the histories."""
    interval = schedule.intervals[pending.iteration]
    computed = layout.unpack(velocity)
    for part in pending.branch.parts(interval):
        start, end = max(part.interval[0], pending.slots[0]), min(part.interval[1], pending.slots[1])
        if start < end:
            own = computed.narrow(FRAME_AXIS, pending.lead + start - pending.slots[0], end - start)
            levels = schedule.levels(pending.iteration, (start, end), own.device)
            part.history.record((start, end), levels, own)
