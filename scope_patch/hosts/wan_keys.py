"""SkyReels-V2, both hosts: what must be known of their self-attention to keep keys and values of latent frames.

Read from `skyreels_v2_infer` (SkyworkAI/SkyReels-V2 @ abed76f) and diffusers 0.35 to 0.42.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .wan import WanShape, tokens

if TYPE_CHECKING:
    from torch import Tensor

BF16 = 2
"""Bytes: upstream casts queries, keys and values to bf16 where attention is block-causal."""
FLASH = "its full attention calls flash-attn, which hands its keys to nobody"
DIFFUSERS = "SkyReelsV2AttnProcessor"


def frame_bytes(shape: WanShape, height: int, width: int, itemsize: int, latents: int, branches: int) -> int:
    """Bytes of one kept latent frame: keys and values of every block and guidance branch, and the latents once.

    Args:
        height, width: of the latents.
        itemsize: bytes of a number of keys and values.
        latents: bytes of a number of latents.
    """
    keys = 2 * shape.layers * tokens(shape, shape.patch[0], height, width) // shape.patch[0] * shape.dim * itemsize
    return branches * keys + shape.in_channels * height * width * latents


def kept_bytes(model: Any, latents: Tensor, itemsize: int, branches: int) -> int:
    """The same of a model, and latents [B, C, F, H, W]."""
    batch, _, _, height, width = latents.shape
    return batch * frame_bytes(WanShape.of(model), height, width, itemsize, latents.element_size(), branches)


def noised(arguments: Mapping[str, Any]) -> bool:
    """Whether given latent frames get new noise at every step."""
    return bool(arguments.get("addnoise_condition"))


# --- official ---


def official_block(model: Any) -> int:
    """Latent frames of a causal block; 0 where attention is full."""
    return int(model.num_frame_per_block) if model.flag_causal_attention else 0


def official_obstacle(model: Any) -> str:
    """Why keys cannot be kept, or ""."""
    if not model.flag_causal_attention:
        return FLASH
    if any("forward" in vars(block.self_attn) for block in model.blocks):
        return "the forward of its self-attention is somebody else's"
    return ""


def official_bytes(model: Any, latents: Tensor, branches: int) -> int:
    return kept_bytes(model, latents, BF16, branches)


def official_rotary(model: Any, latents: Tensor, start: int, freqs: Tensor) -> Tensor:
    """`freqs` [positions, D / 2] of latent frames from `start` on: the first columns are those of time."""
    import torch

    columns = freqs.shape[1] - 2 * (freqs.shape[1] // 3)
    return torch.cat([freqs[:, :columns].roll(-start, 0), freqs[:, columns:]], dim=1)


# --- diffusers ---


def diffusers_block(model: Any) -> int:
    """Latent frames of a causal block; 0 where attention is full."""
    found = int(model.config.num_frame_per_block)
    return found if found > 1 else 0


def diffusers_obstacle(model: Any) -> str:
    """Why keys cannot be kept, or ""."""
    for block in model.blocks:
        attention = block.attn1
        processor = attention.processor
        if "forward" in vars(attention) or (type(processor).__name__, type(processor).__module__) != (
            DIFFUSERS,
            type(attention).__module__,
        ):
            return f"its attention processor is a {type(processor).__name__}, which we do not know"
        backend = getattr(processor, "_attention_backend", None)
        if backend is not None and "native" not in str(getattr(backend, "value", backend)):
            return f"its attention backend is {getattr(backend, 'value', backend)}, which we do not know"
    return ""


def diffusers_bytes(model: Any, latents: Tensor, branches: int) -> int:
    return kept_bytes(model, latents, latents.element_size(), branches)


def diffusers_rotary(model: Any, latents: Tensor, start: int, rotary: Any) -> Any:
    """The rotary embedding of latent frames from `start` on: that of all, without the first.

    It is made from the shape of latents alone: (cos, sin), each [1, tokens, 1, D]; older versions: [1, 1, tokens, D].
    """
    _, _, frames, _, _ = latents.shape
    whole = model.rope(latents[:, :, :1].expand(-1, -1, start + frames, -1, -1))
    parts = list(_cut(whole, rotary))
    return tuple(parts) if isinstance(rotary, tuple) else parts[0]


def _cut(whole: Any, like: Any) -> Iterator[Any]:
    pairs = zip(whole, like, strict=True) if isinstance(like, tuple) else [(whole, like)]
    for all_of_them, own in pairs:
        axis = next(k for k, (a, b) in enumerate(zip(all_of_them.shape, own.shape, strict=True)) if a != b)
        length = own.shape[axis]
        yield all_of_them.narrow(axis, all_of_them.shape[axis] - length, length)
