"""The residual level: a skipped forward is called, but its blocks are bypassed; embedding and head are fresh.

The residual of the blocks is kept as velocities are: [batch, 1, latent frames, tokens of one, channels]. So histories,
predictors and forecasts are the very same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..method.decision import Mode
from ..method.fold import Verdict
from ..method.forecast import Forecast
from ..method.schedule import Interval, Schedule
from ..report.record import GenerationRecord as Record
from .branches import Branch
from .fill import Pending
from .standin import StandIn

Span = Callable[[int, int], "Interval | None"]
"""(iteration, iterations) -> the blocks [first, last) that are bypassed; None: all."""


def whole(iteration: int, iterations: int) -> None:
    """All blocks, always."""


class Bypass:
    """Makes the stand-ins of a session.

    Args:
        span: which blocks they stand for. Where it changes, the policy must recompute.
    """

    def __init__(self, span: Span = whole) -> None:
        self._span = span

    def pending(
        self, plain: Pending, schedule: Schedule, verdict: Verdict, forecast: Forecast | None, record: Record
    ) -> Pending:
        """A forward with a stand-in that does what the verdict says, or notes a residual where there is none yet."""
        added = None
        if verdict.forwarded[0] == verdict.forwarded[1]:
            added = _residual(plain.branch, plain.slots, verdict, forecast)
            if added is None:
                record.guard("branch")
        plain.standin = StandIn(added, self._span(plain.iteration, len(schedule)))
        return plain

    def note(self, pending: Pending, schedule: Schedule, record: Record) -> bool:
        """After such a forward: keep the residual of blocks that ran. Returns whether they ran and should not have.

        Raises what went wrong in the stand-in, where nobody could be told.
        """
        standin = pending.standin
        if standin is None:
            return False
        if standin.error is not None:
            raise standin.error
        if standin.ran and not _keep(pending, standin.noted, schedule):
            record.guard("shape")
        return standin.ran and pending.bypassed


def _keep(pending: Pending, noted: Tensor | None, schedule: Schedule) -> bool:
    """Put a residual [batch, tokens, channels] into the history; where it does not fit, drop what is there."""
    (part,) = pending.branch.parts(pending.slots)
    slots = pending.slots[1] - pending.slots[0]
    if noted is None or noted.dim() != 3 or noted.shape[1] % slots:
        pending.branch.forget()
        return False
    batch, tokens, channels = noted.shape
    levels = schedule.levels(pending.iteration, pending.slots, noted.device)
    part.history.record(pending.slots, levels, noted.view(batch, 1, slots, tokens // slots, channels), copy=False)
    return True


def _residual(branch: Branch, slots: Interval, verdict: Verdict, forecast: Forecast | None) -> Tensor | None:
    """[batch, tokens, channels], from the history; None where the branch has none over these slots."""
    (part,) = branch.parts(slots)
    if forecast is None or not part.history.covers(slots):
        return None
    with torch.no_grad():
        made = forecast.predict(part) if verdict.mode is Mode.PREDICT else forecast.hold(part)
        return made.squeeze(1).flatten(1, 2)
