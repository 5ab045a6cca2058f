"""What the host gets in place of a forward: the velocities of skipped slots, made from the history."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..method.decision import Mode
from ..method.forecast import Forecast, Part
from ..method.history import FRAME_AXIS
from ..method.schedule import Interval
from .branches import Branch
from .call import ForwardCall
from .layout import Layout


def fill(
    call: ForwardCall,
    branch: Branch,
    interval: Interval,
    lead: int,
    last: int,
    layout: Layout,
    forecast: Forecast | None,
    mode: Callable[[Part], Mode],
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
            pieces.append(forecast.predict(part) if mode(part) is Mode.PREDICT else forecast.hold(part))
        missing = interval[1] - interval[0] + lead - sum(piece.shape[FRAME_AXIS] for piece in pieces)
        if missing:
            batch, channels, _, *size = pieces[0].shape
            pieces.insert(0, pieces[0].new_zeros(batch, channels, missing, *size))
        velocity = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=FRAME_AXIS)
        return layout.pack(velocity, call.latents)
