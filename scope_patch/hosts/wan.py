"""SkyReels-V2, both hosts (Wan 2.1 networks): dimensions, FLOPs of a forward, its table, and its keys and values.

Read from `skyreels_v2_infer` (SkyworkAI/SkyReels-V2 @ abed76f) and from diffusers 0.35 to 0.42; both do the same
products. Where a block-causal mask is on, both hand a dense mask to dense attention, so that it saves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

from . import attention, linear

if TYPE_CHECKING:
    from torch import Tensor

    from ..method.schedule import Table
    from ..patch.host import Cost

IMAGE_TOKENS = 257
"""CLIP tokens of an image-to-video model: 16 x 16 patches and one for the whole."""
TRAINED = 1000
"""Timesteps of training (`num_train_timesteps`)."""
BF16 = 2
"""Bytes: upstream casts queries, keys and values to bf16 where attention is block-causal."""
FLASH = "its full attention calls flash-attn, which hands its keys to nobody"


@dataclass(frozen=True)
class WanShape:
    """The dimensions of one model.

    Attributes:
        dim, ffn_dim, layers: channels, channels inside the feed-forward, blocks.
        in_channels, out_channels: latent channels in (with the conditioning video of image-to-video models) and out.
        patch: (frames, rows, columns) of latents a token.
        freq_dim: channels of the sinusoidal time embedding.
        text_dim, text_tokens: channels of caption embeddings, and tokens in them as the forward gets them (both hosts
            pad captions before it).
        image_tokens, image_dim: CLIP tokens and their channels; 0 in models without image cross-attention.
        fps_embedding: whether the frame rate is embedded (upstream's `inject_sample_info`).
    """

    dim: int
    ffn_dim: int
    layers: int
    in_channels: int = 16
    out_channels: int = 16
    patch: tuple[int, int, int] = (1, 2, 2)
    freq_dim: int = 256
    text_dim: int = 4096
    text_tokens: int = 512
    image_tokens: int = 0
    image_dim: int = 0
    fps_embedding: bool = False

    @classmethod
    def named(cls, name: str) -> WanShape:
        """The published diffusion-forcing model "1.3B" or "14B" (540P and 720P are of one shape).

        Dimensions: the `config.json` of Skywork/SkyReels-V2-DF-1.3B-540P and -DF-14B-540P, as diffusers'
        `scripts/convert_skyreelsv2_to_diffusers.py` restates them. Raises ValueError for another name.
        """
        if name not in NAMED:
            raise ValueError(f"no SkyReels-V2 model {name!r}; known: {', '.join(NAMED)}")
        return NAMED[name]

    @classmethod
    def of(cls, model: Any) -> WanShape:
        """From a model of either host, compiled or not; raises ValueError where it is neither."""
        model = getattr(model, "_orig_mod", model)
        # Upstream keeps its arguments as attributes.
        config = vars(model) if hasattr(model, "text_len") else getattr(model, "config", {})
        if "text_len" not in config and "attention_head_dim" not in config:
            raise ValueError(f"{type(model).__name__} is neither WanModel nor SkyReelsV2Transformer3DModel")
        return cls._read(config)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> WanShape:
        """From a checkpoint's config.json, of either host; raises ValueError where it is none, or lacks a field."""
        try:
            return cls._read(config)
        except (KeyError, TypeError) as error:
            raise ValueError(f"no configuration of a SkyReels-V2 model: {error} is missing or wrong") from error

    @classmethod
    def _read(cls, config: Mapping[str, Any]) -> WanShape:
        if "attention_head_dim" in config:  # diffusers
            image = config.get("image_dim") or 0
            own = {
                "dim": config["num_attention_heads"] * config["attention_head_dim"],
                "in_channels": config["in_channels"],
                "out_channels": config.get("out_channels") or config["in_channels"],
                "text_dim": config["text_dim"],
                "image_tokens": (config.get("pos_embed_seq_len") or IMAGE_TOKENS) if image else 0,
                "image_dim": image,
            }
        else:  # as `WanModel.from_config`: what it leaves out of the file (text_dim, patch_size) has one value there
            image = config.get("model_type", "t2v") == "i2v"
            own = {
                "dim": config["dim"],
                "in_channels": config["in_dim"],
                "out_channels": config["out_dim"],
                "text_dim": config.get("text_dim", cls.text_dim),
                "text_tokens": config["text_len"],
                "image_tokens": IMAGE_TOKENS if image else 0,
                "image_dim": 1280 if image else 0,  # as upstream's `MLPProj` is made
            }
        return cls(
            **own,
            ffn_dim=config["ffn_dim"],
            layers=config["num_layers"],
            patch=tuple(config.get("patch_size", cls.patch)),
            freq_dim=config["freq_dim"],
            fps_embedding=bool(config.get("inject_sample_info")),
        )


NAMED = {
    "1.3B": WanShape(dim=1536, ffn_dim=8960, layers=30, fps_embedding=True),
    "14B": WanShape(dim=5120, ffn_dim=13824, layers=40),
}


def tokens(shape: WanShape, frames: int, height: int, width: int) -> int:
    """Tokens of one sample of latents [C, frames, height, width]; raises ValueError where not one patch fits."""
    found = prod(size // patch for size, patch in zip((frames, height, width), shape.patch, strict=True))
    if found < 1:
        raise ValueError(f"latents of {frames}x{height}x{width} hold no patch of {shape.patch}")
    return found


def forward_flops(shape: WanShape, frames: int, height: int, width: int, frozen: int = 0) -> int:
    """FLOPs of one forward of one sample, latents [C, frames, height, width].

    Args:
        frozen: latent frames whose keys and values are kept, and attended to beside.

    Raises ValueError where the latents are smaller than a patch.
    """
    count, pixels, dim = tokens(shape, frames, height, width), prod(shape.patch), shape.dim
    total = linear(count, shape.in_channels * pixels, dim) + linear(count, dim, shape.out_channels * pixels)
    context = shape.text_tokens + shape.image_tokens  # attended to apart, each by all latents
    seen = count if not frozen else count + tokens(shape, frozen, height, width)
    layer = 4 * linear(count, dim, dim) + attention(count, seen, dim)
    layer += 2 * linear(count + context, dim, dim) + attention(count, context, dim)
    layer += linear(count, dim, shape.ffn_dim) + linear(count, shape.ffn_dim, dim)
    # Embeddings of timesteps (one a latent frame), frame rate, caption and image.
    total += linear(frames, shape.freq_dim, dim) + linear(frames, dim, dim) + linear(frames, dim, 6 * dim)
    total += linear(1, dim, dim) + linear(1, dim, 6 * dim) if shape.fps_embedding else 0
    total += linear(shape.text_tokens, shape.text_dim, dim) + linear(shape.text_tokens, dim, dim)
    total += linear(shape.image_tokens, shape.image_dim, shape.image_dim + dim)
    return total + shape.layers * layer


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
    timesteps, pairs = matrix.detach().to("cpu"), [(int(start), int(end)) for start, end in list(intervals)]
    return Table(timesteps, timesteps.double() / TRAINED, mask.detach().to("cpu"), pairs)


def official_cost(pipeline: Any, arguments: Mapping[str, Any], schedule: Any, section: int) -> Cost:
    """FLOPs of one branch's forward over an interval of latent frames (upstream's `WanModel`)."""
    return cost(WanShape.of(pipeline.transformer), *arguments["x"].shape[-2:])


def diffusers_cost(pipeline: Any, arguments: Mapping[str, Any], schedule: Any, section: int) -> Cost:
    """The same of diffusers' `SkyReelsV2Transformer3DModel`, whose captions may be shorter (max_sequence_length)."""
    shape = replace(WanShape.of(pipeline.transformer), text_tokens=arguments["encoder_hidden_states"].shape[1])
    return cost(shape, *arguments["hidden_states"].shape[-2:])


def cost(shape: WanShape, height: int, width: int, branches: int = 1) -> Cost:
    """FLOPs of forwarding an interval of latent frames so high and wide, all guidance branches together."""
    flops = cache(lambda frames, frozen: branches * forward_flops(shape, frames, height, width, frozen))
    return lambda i, slots, frozen=0: flops(slots[1] - slots[0], frozen)


# --- keys and values of finished latent frames: what `patch.host.Keys` asks ---


def frame_bytes(shape: WanShape, latents: Tensor, itemsize: int, branches: int) -> int:
    """Bytes of one kept latent frame: keys and values of every block and guidance branch, and the latents once.

    Args:
        latents: [B, C, F, H, W].
        itemsize: bytes of a number of keys and values.
    """
    batch, _, _, height, width = latents.shape
    keys = 2 * shape.layers * tokens(shape, shape.patch[0], height, width) // shape.patch[0] * shape.dim * itemsize
    return batch * (branches * keys + shape.in_channels * height * width * latents.element_size())


def noised(arguments: Mapping[str, Any]) -> bool:
    """Whether given latent frames get new noise at every step."""
    return bool(arguments.get("addnoise_condition"))


def official_block(model: Any) -> int:
    return int(model.num_frame_per_block) if model.flag_causal_attention else 0


def official_obstacle(model: Any) -> str:
    if not model.flag_causal_attention:
        return FLASH
    if any("forward" in vars(block.self_attn) for block in model.blocks):
        return "the forward of its self-attention is somebody else's"
    return ""


def official_bytes(model: Any, latents: Tensor, branches: int) -> int:
    return frame_bytes(WanShape.of(model), latents, BF16, branches)


def official_rotary(model: Any, latents: Tensor, start: int, freqs: Tensor) -> Tensor:
    """`freqs` [positions, D / 2] of latent frames from `start` on: the first columns are those of time."""
    import torch

    columns = freqs.shape[1] - 2 * (freqs.shape[1] // 3)
    return torch.cat([freqs[:, :columns].roll(-start, 0), freqs[:, columns:]], dim=1)


def diffusers_block(model: Any) -> int:
    found = int(model.config.num_frame_per_block)
    return found if found > 1 else 0


def diffusers_obstacle(model: Any) -> str:
    for attending in (block.attn1 for block in model.blocks):
        processor, ours = attending.processor, ("SkyReelsV2AttnProcessor", type(attending).__module__)
        if "forward" in vars(attending) or (type(processor).__name__, type(processor).__module__) != ours:
            return f"its attention processor is a {type(processor).__name__}, which we do not know"
        backend = getattr(processor, "_attention_backend", None)
        name = getattr(backend, "value", backend)
        if backend is not None and "native" not in str(name):
            return f"its attention backend is {name}, which we do not know"
    return ""


def diffusers_bytes(model: Any, latents: Tensor, branches: int) -> int:
    return frame_bytes(WanShape.of(model), latents, latents.element_size(), branches)


def diffusers_rotary(model: Any, latents: Tensor, start: int, rotary: Any) -> Any:
    """The rotary embedding of latent frames from `start` on: that of all, without the first.

    It is made from the shape of latents alone: (cos, sin), each [1, tokens, 1, D]; older versions: [1, 1, tokens, D].
    """
    whole = model.rope(latents[:, :, :1].expand(-1, -1, start + latents.shape[2], -1, -1))
    if isinstance(rotary, tuple):
        return tuple(_last(every, own) for every, own in zip(whole, rotary, strict=True))
    return _last(whole, rotary)


def _last(whole: Tensor, like: Tensor) -> Tensor:
    """The end of `whole`, along the one axis in which it is longer than `like`."""
    axis = next(k for k, (a, b) in enumerate(zip(whole.shape, like.shape, strict=True)) if a != b)
    return whole.narrow(axis, whole.shape[axis] - like.shape[axis], like.shape[axis])
