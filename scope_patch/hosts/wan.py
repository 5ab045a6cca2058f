"""SkyReels-V2, both hosts: tables of what their schedule function returns, and FLOPs of their forwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..method.schedule import Table
    from ..patch.host import Cost


def asynchronous_table(returned: tuple[Any, ...]) -> Table:
    """The table of (timestep matrix, step index, update mask, intervals), as `generate_timestep_matrix` returns them.

    Raises ValueError with what was found instead.
    """
    import torch

    from ..method.schedule import Table

    matrix, index, mask, intervals = returned
    for name, tensor in (("timestep matrix", matrix), ("step index", index), ("update mask", mask)):
        if not isinstance(tensor, torch.Tensor) or tensor.dim() != 2 or tensor.shape != mask.shape:
            raise ValueError(f"the {name} is not an [iterations, latent frames] tensor")
    if mask.dtype != torch.bool:
        raise ValueError(f"the update mask is {mask.dtype}, expected booleans")
    if len(intervals) != mask.shape[0]:
        raise ValueError(f"the intervals are not a list of {mask.shape[0]} pairs")
    timesteps = matrix.detach().to("cpu")
    return Table(
        timesteps=timesteps,
        levels=timesteps.double() / 1000.0,
        mask=mask.detach().to("cpu"),
        intervals=[(int(start), int(end)) for start, end in list(intervals)],
    )


def official_cost(pipeline: Any, arguments: Mapping[str, Any], schedule: Any, section: int) -> Cost:
    """FLOPs of one branch's forward over an interval of latent frames (upstream's `WanModel`)."""
    from ..cost.wan import WanShape, forward_flops

    shape = WanShape.of(getattr(pipeline.transformer, "_orig_mod", pipeline.transformer))
    *_, height, width = arguments["x"].shape
    return lambda iteration, slots: forward_flops(shape, slots[1] - slots[0], height, width)


def diffusers_cost(pipeline: Any, arguments: Mapping[str, Any], schedule: Any, section: int) -> Cost:
    """The same of diffusers' `SkyReelsV2Transformer3DModel`, whose captions may be shorter (max_sequence_length)."""
    from ..cost.wan import WanShape, forward_flops

    shape = WanShape.of(getattr(pipeline.transformer, "_orig_mod", pipeline.transformer))
    shape = replace(shape, text_tokens=arguments["encoder_hidden_states"].shape[1])
    *_, height, width = arguments["hidden_states"].shape
    return lambda iteration, slots: forward_flops(shape, slots[1] - slots[0], height, width)
