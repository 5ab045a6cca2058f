"""How a host lays out velocities, and how we keep them: [batch, channels, slots, height, width]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..method.history import FRAME_AXIS


class Layout(Protocol):
    """Between the host's tensors and ours; `frames` is the number of latent frames a slot."""

    @property
    def frames(self) -> int: ...

    def slots(self, latents: Tensor) -> int:
        """Slots in the host's latents or velocity."""
        ...

    def unpack(self, velocity: Tensor) -> Tensor:
        """The host's velocity as [batch, channels, slots, height, width], a view where possible."""
        ...

    def pack(self, velocity: Tensor, like: Tensor) -> Tensor:
        """A velocity of ours as a new tensor of the host's, for latents `like`."""
        ...


@dataclass(frozen=True)
class Frames:
    """SkyReels-V2: one slot a latent frame, tensors as we keep them."""

    frames: int = 1

    def slots(self, latents: Tensor) -> int:
        return int(latents.shape[FRAME_AXIS])

    def unpack(self, velocity: Tensor) -> Tensor:
        return velocity

    def pack(self, velocity: Tensor, like: Tensor) -> Tensor:
        return velocity


@dataclass(frozen=True)
class Chunks:
    """MAGI-1: one slot a chunk of latent frames, and all rows of the batch equal, of which one is kept."""

    frames: int

    def slots(self, latents: Tensor) -> int:
        return int(latents.shape[FRAME_AXIS]) // self.frames

    def unpack(self, velocity: Tensor) -> Tensor:
        _, channels, frames, height, width = velocity.shape
        return velocity[:1].reshape(1, channels, frames // self.frames, self.frames * height, width)

    def pack(self, velocity: Tensor, like: Tensor) -> Tensor:
        _, channels, slots, *_ = velocity.shape
        one = velocity.reshape(1, channels, slots * self.frames, *like.shape[3:])
        return one.expand(like.shape[0], -1, -1, -1, -1).contiguous()
