"""What is answered for a host whose file does not say it: read off the objects that are there, whoever made them.

Imports neither torch nor a host.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any


def refuse(pipeline: Any, model: Any, arguments: Mapping[str, Any]) -> str:
    """Two accelerators that skip forwards independently would each believe the other's output."""
    if getattr(model, "is_cache_enabled", False):
        return "a diffusers cache is enabled on the transformer; call disable_cache() first, or run without scope_patch"
    return ""


def guided(pipeline: Any, arguments: Mapping[str, Any]) -> bool:
    """What a diffusers pipeline says of its present call; where there is no such word, yes."""
    return bool(getattr(pipeline, "do_classifier_free_guidance", True))


def edits(arguments: Mapping[str, Any]) -> bool:
    """Whether a callback of a diffusers pipeline's call is handed the latents, which it may then edit."""
    handed = arguments.get("callback_on_step_end_tensor_inputs", ("latents",))
    return arguments.get("callback_on_step_end") is not None and "latents" in (handed or ())


def size(model: Any, blocks: str) -> tuple[int, int]:
    """(channels, blocks) of a DiT, from its attributes or its configuration; 0 where they are not found."""
    config = getattr(model, "config", {})
    said: Mapping[str, Any] = config if isinstance(config, Mapping) else vars(config)
    heads, head_dim = said.get("num_attention_heads"), said.get("attention_head_dim")
    width = heads * head_dim if heads and head_dim else 0
    for name in ("inner_dim", "dim", "hidden_size"):
        found = vars(model).get(name) or said.get(name)  # diffusers warns of its configuration read as attributes
        width = width or (found if isinstance(found, int) else 0)
    listed = getattr(model, blocks, ())
    return width, len(listed) if hasattr(listed, "__len__") else 0


def cost(model: Any, blocks: str, shape: Sequence[int]) -> Callable[[int, tuple[int, int]], float]:
    """FLOPs of one forward over an interval of latent frames: 2 P n + 4 L w n^2 a sample.

    P parameters in L blocks of w channels, n tokens; embeddings and heads are left out. Against the exact count of the
    1.3B model at 540P: within 0.005 of the whole over 5 to 25 latent frames; worse on tiny pictures.

    Args:
        shape: of the latents, [batch, channels, latent frames, height, width].

    Raises ValueError where the channels or the blocks are not found, or hold no parameter.
    """
    width, layers = size(model, blocks)
    parameters = sum(parameter.numel() for parameter in getattr(model, blocks).parameters()) if layers else 0
    if not width or not parameters:
        raise ValueError(f"no channels, or no blocks in `{blocks}`, were found on {type(model).__name__}")
    patch = _patch(model)
    batch, _, _, *picture = shape
    tokens = prod(side // edge for side, edge in zip(picture, patch[1:], strict=True))

    def flops(iteration: int, slots: tuple[int, int]) -> float:
        count = (slots[1] - slots[0]) * tokens // patch[0]
        return float(batch * (2 * parameters * count + 4 * layers * width * count**2))

    return flops


def _patch(model: Any) -> tuple[int, int, int]:
    """(latent frames, rows, columns) a token; Wan's where nothing says so."""
    config = getattr(model, "config", None)
    for found in (vars(model).get("patch_size"), getattr(config, "patch_size", None)):
        if isinstance(found, int):
            return int(getattr(config, "patch_size_t", None) or 1), found, found
        if isinstance(found, (tuple, list)) and len(found) == 3:
            return found[0], found[1], found[2]
    return 1, 2, 2
