"""The residual level: a skipped forward is called, but its blocks are bypassed; embedding and head are fresh.

The residual of the blocks is kept as velocities are: [batch, 1, latent frames, tokens of one, channels]. So histories,
predictors and forecasts are the very same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from ..method.decision import Mode, StepDecision
from ..method.forecast import Forecast
from ..method.schedule import Interval, Schedule
from ..report.record import GenerationRecord

if TYPE_CHECKING:
    from .generation import Generation
    from .velocity import PendingForward


class StandIn(nn.Module):
    """Stands for consecutive blocks, which the host calls with the hidden states first, and which return them.

    Whatever goes wrong in it, the blocks run and the host gets what they make.

    Args:
        added: the residual (what comes out of the last block less what goes into the first), which is added in place of
            running them; None: they are run, and theirs is noted.
        span: which blocks [first, last); None: all.

    Attributes:
        noted: the residual of the blocks that ran, a new tensor; None where none ran.
        spared: the host has called it, and got the residual: the blocks did not run.
        error: what went wrong.
    """

    def __init__(self, added: Tensor | None, span: Interval | None = None) -> None:
        super().__init__()
        self.added, self.span = added, span
        self.noted: Tensor | None = None
        self.spared = False
        self.error: Exception | None = None
        self.blocks = nn.ModuleList()
        self._thread = 0

    @contextmanager
    def placed(self, model: nn.Module, name: str) -> Iterator[None]:
        """For the length of a forward: in the place of the model's blocks."""
        own = model._modules[name]
        assert isinstance(own, nn.ModuleList)
        first, last = self.span or (0, len(own))
        blocks = list(own)
        self.blocks = nn.ModuleList(blocks[first:last])  # so that the model keeps all its parameters meanwhile
        self._thread = threading.get_ident()
        model._modules[name] = nn.ModuleList([*blocks[:first], self, *blocks[last:]])
        try:
            yield
        finally:
            model._modules[name] = own

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        name = next(iter(kwargs), "")  # as the blocks' own first parameter is called, where all is given by keyword
        hidden = args[0] if args else kwargs[name]

        def run() -> Any:
            out = hidden
            for block in self.blocks:
                out = block(out, *args[1:], **kwargs) if args else block(**{**kwargs, name: out})
            return out

        if threading.get_ident() != self._thread:
            return run()  # another thread uses the model meanwhile, and is not served by us
        if self.added is not None:
            try:
                if self.added.shape == hidden.shape:
                    out = (hidden + self.added).to(hidden.dtype)
                    self.spared = True
                    return out
            except Exception as error:  # out of memory, for one: the host shall not suffer from it
                self.error = error
        self.spared = False
        out = run()
        try:
            # No block of these hosts writes into its input; the host itself holds on to it meanwhile.
            self.noted = (out - hidden).detach()
        except Exception as error:
            self.error = error
        return out


Span = Callable[[int, int], "Interval | None"]
"""(iteration, iterations) -> the blocks [first, last) that are bypassed; None: all."""


def stand_in(
    pending: PendingForward,
    span: Interval | None,
    verdict: StepDecision,
    forecast: Forecast | None,
    record: GenerationRecord,
) -> None:
    """Give a forward a stand-in that does what the verdict says, or notes a residual where there is none yet.

    It stands for the blocks [first, last) of `span`; None: all. Where that changes, the policy must recompute.
    """
    added = None
    if verdict.forwarded[0] == verdict.forwarded[1]:
        (part,) = pending.branch.parts(pending.slots)
        if pending.branch.doubt or forecast is None or not part.history.covers(pending.slots):
            record.guard("branch")
        else:
            with torch.no_grad():
                made = forecast.predict(part) if verdict.mode is Mode.PREDICT else part.history.hold(part.interval)
                added = made.squeeze(1).flatten(1, 2)  # [batch, tokens, channels]
    pending.standin = StandIn(added, span)


def note(pending: PendingForward, schedule: Schedule, record: GenerationRecord) -> None:
    """After such a forward: keep the residual of blocks that ran; where it does not fit, drop what is there.

    Raises what went wrong in the stand-in, where nobody could be told.
    """
    assert pending.standin is not None
    noted, slots = pending.standin.noted, pending.slots[1] - pending.slots[0]
    if pending.standin.error is not None:
        raise pending.standin.error
    if noted is None:
        return
    if noted.dim() != 3 or noted.shape[1] % slots:
        pending.branch.forget()
        record.guard("shape")
        return
    batch, tokens, channels = noted.shape
    levels = schedule.levels(pending.iteration, pending.slots, noted.device)
    (part,) = pending.branch.parts(pending.slots)
    part.history.record(pending.slots, levels, noted.view(batch, 1, slots, tokens // slots, channels), copy=False)


_lock = threading.Lock()
_claims: WeakValueDictionary[int, Generation] = WeakValueDictionary()
"""id of a model -> who has it, and keeps it alive. A generation that is gone, or was switched off, has let it go."""


def claim(model: Any, owner: Generation) -> bool:
    """Take a model, unless another generation has it. Returns whether it is the owner's now."""
    with _lock:
        holder = _claims.get(id(model))
        if holder is None or (holder.off and not holder.inside):
            _claims[id(model)] = holder = owner
        return holder is owner


def release(model: Any, owner: Generation) -> None:
    """Let it go, if it is the owner's."""
    with _lock:
        if _claims.get(id(model)) is owner:
            del _claims[id(model)]
