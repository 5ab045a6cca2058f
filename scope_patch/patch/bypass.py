"""The residual level: a skipped forward is called, but its blocks are bypassed; embedding and head are fresh.

The residual of the blocks is kept as velocities are: [batch, 1, latent frames, tokens of one, channels]. So histories,
predictors and forecasts are the very same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from ..method.decision import Mode, StepDecision
from ..method.forecast import Forecast
from ..method.schedule import Interval, Schedule
from ..report.record import GenerationRecord
from .branches import Branch

if TYPE_CHECKING:
    from .generation import Generation
    from .velocity import PendingForward


@dataclass(frozen=True)
class Place:
    """Where a stand-in goes: a model's modules, its own blocks, and what replaces them for the length of a forward."""

    modules: dict[str, nn.Module | None]
    own: nn.ModuleList
    replaced: nn.ModuleList


class StandIn(nn.Module):
    """Stands for consecutive blocks, which the host calls with the hidden states first, and which return them.

    Whatever goes wrong in it, the blocks run and the host gets what they make.

    Args:
        added: the residual (what comes out of the last block less what goes into the first), which is added in place of
            running them; None: they are run, and theirs is noted.
        span: which blocks [first, last); None: all.

    Attributes:
        noted: the residual of the blocks that ran, a new tensor; None where none ran.
        stood, ran: the host has called it; the blocks have run.
        error: what went wrong.
    """

    def __init__(self, added: Tensor | None, span: Interval | None = None) -> None:
        super().__init__()
        self.added, self.span = added, span
        self.noted: Tensor | None = None
        self.stood = self.ran = False
        self.error: Exception | None = None
        self.blocks = nn.ModuleList()
        self._thread = 0

    def place(self, model: nn.Module, name: str) -> Place:
        """What is to be put where to take the place of the model's blocks; nothing is put there yet."""
        own = model._modules[name]
        assert isinstance(own, nn.ModuleList)
        first, last = self.span or (0, len(own))
        blocks = list(own)
        self.blocks = nn.ModuleList(blocks[first:last])  # so that the model keeps all its parameters meanwhile
        self._thread = threading.get_ident()
        return Place(model._modules, own, nn.ModuleList([*blocks[:first], self, *blocks[last:]]))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if args:
            return self._forward(lambda block, hidden: block(hidden, *args[1:], **kwargs), args[0])
        name, hidden = next(iter(kwargs.items()))  # all by keyword, as the blocks' own first parameter is called
        return self._forward(lambda block, hidden: block(**{**kwargs, name: hidden}), hidden)

    def _forward(self, call: Callable[[nn.Module, Any], Any], hidden: Any) -> Any:
        if threading.get_ident() != self._thread:
            return self._run(call, hidden)  # another thread uses the model meanwhile, and is not served by us
        self.stood = True
        if self.added is not None:
            try:
                if self.added.shape == hidden.shape:
                    return (hidden + self.added).to(hidden.dtype)
            except Exception as error:  # out of memory, for one: the host shall not suffer from it
                self.error = error
        out = self._run(call, hidden)
        self.ran = True
        try:
            # No block of these hosts writes into its input; the host itself holds on to it meanwhile.
            self.noted = (out - hidden).detach()
        except Exception as error:
            self.error = error
        return out

    def _run(self, call: Callable[[nn.Module, Any], Any], hidden: Any) -> Any:
        for block in self.blocks:
            hidden = call(block, hidden)
        return hidden


Span = Callable[[int, int], "Interval | None"]
"""(iteration, iterations) -> the blocks [first, last) that are bypassed; None: all."""


def whole(iteration: int, iterations: int) -> None:
    """All blocks, always."""


def stand_in(
    pending: PendingForward,
    span: Interval | None,
    verdict: StepDecision,
    forecast: Forecast | None,
    record: GenerationRecord,
) -> None:
    """Give a forward a stand-in that does what the verdict says, or notes a residual where there is none yet.

    Args:
        span: the blocks [first, last) that it stands for; None: all. Where it changes, the policy must recompute.
    """
    added = None
    if verdict.forwarded[0] == verdict.forwarded[1]:
        added = _residual(pending.branch, pending.slots, verdict, forecast)
        if added is None:
            record.guard("branch")
    pending.standin = StandIn(added, span)


def note(pending: PendingForward, schedule: Schedule, record: GenerationRecord) -> None:
    """After such a forward: keep the residual of blocks that ran.

    Raises what went wrong in the stand-in, where nobody could be told.
    """
    standin = pending.standin
    if standin is None:
        return
    if standin.error is not None:
        raise standin.error
    if standin.ran and not _keep(pending, standin.noted, schedule):
        record.guard("shape")


def _keep(pending: PendingForward, noted: Tensor | None, schedule: Schedule) -> bool:
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


def _residual(branch: Branch, slots: Interval, verdict: StepDecision, forecast: Forecast | None) -> Tensor | None:
    """[batch, tokens, channels], from the history; None where the branch has none over these slots."""
    (part,) = branch.parts(slots)
    if branch.doubt or forecast is None or not part.history.covers(slots):
        return None
    with torch.no_grad():
        made = forecast.predict(part) if verdict.mode is Mode.PREDICT else part.history.hold(part.interval)
        return made.squeeze(1).flatten(1, 2)


_lock = threading.Lock()
_claims: WeakKeyDictionary[Any, ReferenceType[Generation]] = WeakKeyDictionary()
"""Model -> who has it. A generation that is gone, or was switched off, has let it go."""


def claim(model: Any, owner: Generation) -> bool:
    """Take a model, unless another generation has it. Returns whether it is the owner's now."""
    with _lock:
        found = _claims.get(model)
        holder = None if found is None else found()
        if holder is None or (holder.off and not holder.inside):
            _claims[model] = ref(owner)
            return True
        return holder is owner


def release(model: Any, owner: Generation) -> None:
    """Let it go, if it is the owner's."""
    with _lock:
        found = _claims.get(model)
        if found is not None and found() is owner:
            del _claims[model]
