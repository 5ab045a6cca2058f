"""One call of the DiT forward, in our words: its arguments by meaning, and its output as a velocity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..method.history import FRAME_AXIS
from .architecture import ForwardNames


@dataclass(frozen=True)
class ForwardCall:
    """Bound arguments of a DiT forward.

    Attributes:
        arguments: every given argument by parameter name, without self.
        latents: [batch, channels, latent frames, height, width].
        timestep: [batch, latent frames].
        condition: the object that tells the CFG branches apart.
    """

    arguments: Mapping[str, Any]
    latents: Tensor
    timestep: Tensor
    condition: Any

    @property
    def slots(self) -> int:
        return int(self.latents.shape[FRAME_AXIS])


def bind(parameters: Sequence[str], names: ForwardNames, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ForwardCall:
    """Bind a call to the forward's parameter names (without self), much faster than `inspect.Signature.bind`.

    Raises TypeError where it is not a diffusion-forcing call; what else may be wrong with it, the host will say itself.
    """
    arguments = dict(zip(parameters, args, strict=False))
    arguments.update(kwargs)
    latents, timestep = arguments.get(names.latents), arguments.get(names.timestep)
    if not isinstance(latents, Tensor) or latents.dim() != 5:
        raise TypeError(f"{names.latents} is not a [batch, channels, latent frames, height, width] tensor")
    if not isinstance(timestep, Tensor) or timestep.dim() != 2:
        raise TypeError(f"{names.timestep} is not a [batch, latent frames] tensor")
    return ForwardCall(arguments, latents, timestep, arguments.get(names.condition))


def velocity_of(output: Any) -> Tensor | None:
    """The velocity in a forward's output: a tensor, a tuple that begins with one, or a model output's `sample`."""
    if isinstance(output, Tensor):
        return output
    first = output[0] if isinstance(output, tuple) and output else getattr(output, "sample", None)
    return first if isinstance(first, Tensor) else None


def like_output(velocity: Tensor, output_type: type[Any]) -> Any:
    """The velocity in the form the host's forward returned it last time."""
    if issubclass(output_type, torch.Tensor):
        return velocity
    return (velocity,) if issubclass(output_type, tuple) else output_type(sample=velocity)
