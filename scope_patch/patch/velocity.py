"""Between the host's tensors and ours: a call of the DiT by meaning, its output as a velocity, and the way back.

We keep velocities as [batch, channels, slots, height, width], whatever a slot is on the host. Where slots are chunks of
a moving window (MAGI-1), the rows of the batch are equal, and one of them is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import NotApplied
from ..method.decision import Mode, StepDecision
from ..method.forecast import Forecast
from ..method.history import FRAME_AXIS
from ..method.schedule import Interval, Schedule
from .branches import Branch
from .host import Dit

if TYPE_CHECKING:
    from .bypass import StandIn
    from .frozen import Attending


@dataclass(frozen=True)
class ForwardCall:
    """Bound arguments of a DiT forward.

    Attributes:
        arguments: every given argument by parameter name, without self.
        latents: [batch, channels, latent frames, height, width].
        timestep: [batch], or [batch, latent frames] or one a chunk.
    """

    arguments: Mapping[str, Any]
    latents: Tensor
    timestep: Tensor

    @property
    def slots(self) -> int:
        """Latent frames."""
        return int(self.latents.shape[FRAME_AXIS])


def forward_call(arguments: Mapping[str, Any], dit: Dit, ranks: tuple[int, ...]) -> ForwardCall:
    """A call of the DiT by what its arguments, by name, mean; its timestep may have one of `ranks` dimensions.

    Raises NotApplied where it is no call of a video DiT; what else may be wrong with it, the host will say itself.
    """
    latents, timestep = arguments.get(dit.latents), arguments.get(dit.timestep)
    if not isinstance(latents, Tensor) or latents.dim() != 5:
        raise NotApplied(f"the DiT's {dit.latents} is no [batch, channels, latent frames, height, width] tensor")
    if not isinstance(timestep, Tensor) or timestep.dim() not in ranks:
        wanted = " or ".join(("[batch]", "[batch, latent frames]")[rank - 1] for rank in ranks)
        raise NotApplied(f"the DiT's {dit.timestep} is no {wanted} tensor")
    return ForwardCall(arguments, latents, timestep)


def velocity_of(output: Any) -> Tensor:
    """The velocity in a forward's output: a tensor, a tuple of one, or a model output that holds a `sample` alone.

    Raises NotApplied where it is more than that: `like_output` could not make another one.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, tuple):
        if type(output) is not tuple or len(output) != 1:
            raise NotApplied(f"the DiT returned {len(output)} things, expected one velocity")
        held = output[0]
    else:
        more = ", ".join(name for name in getattr(output, "__dict__", ()) if name != "sample")
        if more:
            raise NotApplied(f"the DiT returned a {type(output).__name__} with more than a sample in it: {more}")
        held = getattr(output, "sample", None)
    if not isinstance(held, Tensor):
        raise NotApplied(f"the DiT returned a {type(output).__name__}, in which we find no velocity")
    return held


def like_output(velocity: Tensor, output_type: type[Any]) -> Any:
    """The velocity in the form the host's forward returned it last time."""
    if issubclass(output_type, torch.Tensor):
        return velocity
    return (velocity,) if issubclass(output_type, tuple) else output_type(sample=velocity)


def asked_of(output: Any, shape: Sequence[int]) -> Any:
    """The output for latents of this shape of a forward that had more latent frames in front of them."""
    velocity, frames = velocity_of(output), shape[FRAME_AXIS]
    return like_output(velocity.narrow(FRAME_AXIS, velocity.shape[FRAME_AXIS] - frames, frames), type(output))


def unpack(velocity: Tensor, schedule: Schedule) -> Tensor:
    """The host's velocity as [batch, channels, slots, height, width], a view where possible."""
    if not schedule.moving:
        return velocity
    _, channels, frames, height, width = velocity.shape
    return velocity[:1].reshape(1, channels, frames // schedule.frames, schedule.frames * height, width)


@dataclass
class PendingForward:
    """A forward that is about to run.

    Attributes:
        slots: what it computes velocities of.
        shape: of the host's latents.
        clean_prefix: clean slots in front of them that it computes too, of which nothing is kept.
        whole: what the host gets where only some of its slots are forwarded: made from the history, completed by the
            forward. None where the forward's own output is what the host gets.
        arguments: what it runs with in that case, and where it has more slots in front than the host's.
        front: so many, of which nothing is kept.
        attending: how it attends to kept keys and values, and which of its own it hands out.
        standin: stands for its blocks meanwhile, at the residual level.
        predicted: what the host would have got in its place, to be compared with what it makes.
    """

    branch: Branch
    iteration: int
    slots: Interval
    shape: Sequence[int]
    clean_prefix: int = 0
    whole: Tensor | None = None
    arguments: dict[str, Any] | None = None
    standin: StandIn | None = None
    predicted: Tensor | None = None
    front: int = 0
    attending: Attending | None = None

    @property
    def bypassed(self) -> bool:
        """Whether its blocks shall not run."""
        return self.standin is not None and self.standin.added is not None


def assemble_velocity(
    call: ForwardCall,
    branch: Branch,
    interval: Interval,
    clean_prefix: int,
    last: int,
    schedule: Schedule,
    forecast: Forecast | None,
    verdict: StepDecision,
) -> Tensor | None:
    """A velocity in the host's layout, over the clean prefix and the interval; None where the branch lacks a history.

    Slots before `last` (and the clean prefix) will be computed: what stands in their places means nothing.
    """
    pieces = []
    with torch.no_grad():
        for part in branch.parts(interval):
            if part.interval[1] <= last:
                continue
            if branch.doubt or forecast is None or not part.history.covers(part.interval):
                return None
            predicted = verdict.mode_of(part.interval[0]) is Mode.PREDICT
            pieces.append(forecast.predict(part) if predicted else part.history.hold(part.interval))
        missing = interval[1] - interval[0] + clean_prefix - sum(piece.shape[FRAME_AXIS] for piece in pieces)
        if missing:
            batch, channels, _, *size = pieces[0].shape
            pieces.insert(0, pieces[0].new_zeros(batch, channels, missing, *size))
        velocity = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=FRAME_AXIS)
        if schedule.moving:  # the way back from `unpack`
            rows, _, _, *size = call.latents.shape
            velocity = velocity.reshape(1, velocity.shape[1], -1, *size).expand(rows, -1, -1, -1, -1).contiguous()
        return velocity


def complete_velocity(pending: PendingForward, velocity: Tensor, schedule: Schedule) -> Tensor:
    """Put the velocity of a forward of some slots into what the host gets of all.

    Raises ValueError where it is not of the shape that was asked for: it must not be broadcast.
    """
    assert pending.whole is not None
    first = (pending.slots[0] - schedule.intervals[pending.iteration][0]) * schedule.frames
    frames = (pending.slots[1] - pending.slots[0] + pending.clean_prefix) * schedule.frames
    place = pending.whole.narrow(FRAME_AXIS, first, frames)
    if place.shape != velocity.shape:
        raise ValueError(f"a velocity is {tuple(velocity.shape)}, expected {tuple(place.shape)}")
    place.copy_(velocity)
    return pending.whole


def keep_velocity(pending: PendingForward, velocity: Tensor, schedule: Schedule) -> None:
    """Put the velocity of a forward into the histories."""
    computed = unpack(velocity, schedule)
    for history, (start, end) in pending.branch.parts(pending.slots):
        own = computed.narrow(FRAME_AXIS, pending.clean_prefix + start - pending.slots[0], end - start)
        history.record((start, end), schedule.levels(pending.iteration, (start, end), own.device), own)
