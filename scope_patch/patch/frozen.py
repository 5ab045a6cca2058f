"""At run time: kept keys and values of finished latent frames, by guidance branch, and forwards that attend to them.

Which latent frames, and when, `method/frozen.py` says. The latents themselves are kept too: a forward that lacks what
it was to attend to (another prompt, a failure of ours) gets them in front again, and is as long as it always was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..method.frozen import Freezing
from ..method.history import FRAME_AXIS
from ..method.schedule import Interval
from .attending import Attending, Chunks, Extent, UnknownAttentionError
from .branches import Branch, Conditioning
from .host import Host
from .velocity import ForwardCall, PendingForward

UNSEEN = "finished latent frames are forwarded along: the model's self-attention was not seen as we know it"
LOOSE = "finished latent frames are forwarded along: what they are conditioned on is another tensor at every step"
LARGER = "finished latent frames are forwarded along: their keys and values are larger than was planned"


@dataclass
class Kept:
    """Of one branch. Attributes: frames, how many; chunks, keys and values; given, what they are conditioned on."""

    frames: int
    chunks: Chunks
    given: Conditioning

    @property
    def bytes(self) -> int:
        return sum(each.nbytes for block in self.chunks for pair in block for each in pair)


class FrozenKeys:
    """Those of one section.

    Args:
        last: the iteration of the last forward that is planned; it keeps nothing.

    Attributes:
        start: the first latent frame that is forwarded from the next iteration on.
        read: what the loop was told to forward at the present iteration.
        trouble: why no more are kept, or "".
    """

    def __init__(self, host: Host, model: nn.Module, freezing: Freezing, last: int) -> None:
        self.host, self.model, self.freezing, self.last = host, model, freezing, last
        self.start, self.trouble = 0, ""
        self.read: Interval | None = None
        self._kept: WeakKeyDictionary[Branch, Kept] = WeakKeyDictionary()
        self._latents: Tensor | None = None

    @property
    def bytes(self) -> int:
        """On the device, of all branches."""
        latents = 0 if self._latents is None else self._latents.nbytes
        return latents + sum(kept.bytes for kept in self._kept.values())

    def forget(self) -> None:
        """Let go of keys and values; the next interval that is read begins at the first latent frame again.

        The latents stay: a narrower one may have been read already.
        """
        self._kept.clear()
        self.start = 0

    def close(self) -> None:
        """The section is over: also what a forward that failed still holds is let go of."""
        for kept in self._kept.values():
            for block in kept.chunks:
                block.clear()
        self.forget()
        self._latents = None

    def narrow(self, interval: Interval) -> Interval:
        """The loop reads an interval: what it shall forward of it."""
        if not self.start:
            self._latents = None
        self.read = (self.start, interval[1])
        return self.read

    def pending(self, pending: PendingForward, call: ForwardCall) -> PendingForward:
        """A forward of the interval that was read, with what it attends to and hands out."""
        assert self.read is not None
        start, end = self.read
        target = start if self.trouble or pending.iteration >= self.last else self.freezing.finished[pending.iteration]
        branch = pending.branch
        kept = self._kept.get(branch)
        if kept is None or kept.frames != start or branch.given.differs(kept.given):
            self._drop(branch)
            kept = None
        if target > start:
            self._keep(call.latents, start, target)
        before = 0 if kept is None else start
        arguments = None if before == start else self.widened(call.arguments)
        answer, noted = self.host.keys, 0 if self.trouble else target - before
        assert answer is not None
        if not before and not noted:
            return replace(pending, arguments=arguments, front=start)
        extent = Extent(before, end - before, noted, answer.block(self.model) > 0)
        modules = [block.get_submodule(answer.attention) for block in getattr(self.model, self.host.dit.blocks)]
        shifted = partial(answer.shifted, self.model, call.latents, before)
        attending = Attending(modules, answer.rotary, shifted, [] if kept is None else kept.chunks, extent)
        return replace(pending, arguments=arguments, front=start - before, attending=attending)

    def note(self, pending: PendingForward) -> None:
        """After it. Raises what went wrong in it, where nobody could be told.

        What came out is of use only where it was to attend to nothing, or all went well.
        """
        attending = pending.attending
        assert attending is not None
        extent = attending.extent
        if not attending.sound:
            error = attending.error or UnknownAttentionError("the model's self-attention was not seen in every block")
            if extent.kept or not isinstance(error, UnknownAttentionError):
                raise error
            self._stop(UNSEEN)
        elif extent.noted:
            kept = self._kept.setdefault(pending.branch, Kept(0, [[] for _ in attending.noted], pending.branch.given))
            for chunks, own in zip(kept.chunks, attending.noted, strict=True):
                chunks.append(own)
            kept.frames += extent.noted
            if self.bytes > kept.frames * self.freezing.size:
                self._stop(LARGER)
            else:
                self.start = kept.frames

    def widened(self, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
        """Those of a forward of the interval that was read, with the latent frames in front that it lacks.

        None where it lacks none, or is over something else.
        """
        dit = self.host.dit
        latents, timestep = arguments.get(dit.latents), arguments.get(dit.timestep)
        if self.read is None or self._latents is None or not self.read[0] or not isinstance(latents, Tensor):
            return None
        start, end = self.read
        if latents.shape[FRAME_AXIS] != end - start or not isinstance(timestep, Tensor) or timestep.dim() != 2:
            return None
        front = self._latents.narrow(FRAME_AXIS, 0, start).to(latents.dtype)
        finished = timestep.new_zeros(timestep.shape[0], start)
        return {
            **arguments,
            dit.latents: torch.cat([front, latents], FRAME_AXIS),
            dit.timestep: torch.cat([finished, timestep], 1),
        }

    def _keep(self, latents: Tensor, start: int, target: int) -> None:
        """Keep the latents of frames that have finished, once for all branches."""
        before = self._latents
        if before is None or before.shape[FRAME_AXIS] < target:
            own = latents.narrow(FRAME_AXIS, 0, target - start).detach()
            self._latents = own.clone() if before is None else torch.cat([before, own], FRAME_AXIS)

    def _drop(self, branch: Branch) -> None:
        """Let go of a branch's keys, and of those of the one that was in its place of the step before."""
        for other in [*self._kept]:
            if other is branch or other.seen[1] == branch.seen[1]:
                del self._kept[other]

    def _stop(self, why: str) -> None:
        self.trouble = why
        self.forget()
        if self.read is None or not self.read[0]:
            self._latents = None
