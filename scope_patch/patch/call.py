"""One call of the DiT forward, in our words: its arguments by meaning, and its output as a velocity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import NotApplied
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

    Raises NotApplied where it is no diffusion-forcing call; what else may be wrong with it, the host will say itself.
    """
    arguments = dict(zip(parameters, args, strict=False))
    arguments.update(kwargs)
    latents, timestep = arguments.get(names.latents), arguments.get(names.timestep)
    if not isinstance(latents, Tensor) or latents.dim() != 5:
        raise NotApplied(f"the DiT's {names.latents} is no [batch, channels, latent frames, height, width] tensor")
    if not isinstance(timestep, Tensor) or timestep.dim() != 2:
        raise NotApplied(f"the DiT's {names.timestep} is no [batch, latent frames] tensor")
    return ForwardCall(arguments, latents, timestep, arguments.get(names.condition))


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
