"""SkyReels-V2, both hosts (Wan 2.1 networks): dimensions, FLOPs of a forward, and its staircase of noise levels.

Read from `skyreels_v2_infer` (SkyworkAI/SkyReels-V2 @ abed76f) and from diffusers; both do the same products. Where a
block-causal mask is on, both hand a dense mask to dense attention, so that it saves nothing. Schedules are what
`generate_timestep_matrix` and the schedulers of both make of their options: blocks of latent frames stand at one noise
level; block k starts `ar_step` iterations behind block k - 1, and one whose predecessor is done goes on by itself.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from math import prod
from typing import TYPE_CHECKING, Any

from packaging.version import InvalidVersion, Version

from . import attention, linear

if TYPE_CHECKING:
    from torch import Tensor

    from ..method.schedule import Interval, Table
    from ..patch.host import Cost

TEXT_TOKENS = 512
"""Length to which both hosts pad captions before the forward."""
IMAGE_TOKENS = 257
"""CLIP tokens of an image-to-video model: 16 x 16 patches and one for the whole."""
IMAGE_DIM = 1280
"""Channels of a CLIP token, as upstream's `MLPProj` is made."""
TRAINED = 1000
"""Timesteps of training (`num_train_timesteps`)."""
NEW_RANGE = Version("0.37")
"""From this diffusers on, `UniPCMultistepScheduler` starts at the noise level 1 and stops above 0."""
SHY = 1e-6
"""By which that scheduler stays below 1."""


@dataclass(frozen=True)
class WanShape:
    """The dimensions of one model.

    Attributes:
        dim, ffn_dim, layers: channels, channels inside the feed-forward, blocks.
        in_channels, out_channels: latent channels in (with the conditioning video of image-to-video models) and out.
        patch: (frames, rows, columns) of latents a token.
        freq_dim: channels of the sinusoidal time embedding.
        text_dim, text_tokens: channels of caption embeddings, and tokens in them as the forward gets them.
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
    text_tokens: int = TEXT_TOKENS
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
        """From a model of either host; raises ValueError where it is neither."""
        if hasattr(model, "text_len"):  # upstream keeps its arguments as attributes
            shape = cls._official(vars(model))
            return replace(shape, image_dim=model.img_emb.proj[1].in_features) if shape.image_tokens else shape
        if "attention_head_dim" in getattr(model, "config", {}):
            return cls._diffusers(model.config)
        raise ValueError(f"{type(model).__name__} is neither WanModel nor SkyReelsV2Transformer3DModel")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> WanShape:
        """From the contents of a checkpoint's config.json, upstream's or diffusers'.

        Raises ValueError where it is neither's, or lacks a field.
        """
        try:
            return cls._diffusers(config) if "attention_head_dim" in config else cls._official(config)
        except (KeyError, TypeError) as error:
            raise ValueError(f"no configuration of a SkyReels-V2 model: {error} is missing or wrong") from error

    @classmethod
    def _official(cls, config: Mapping[str, Any]) -> WanShape:
        """As `WanModel.from_config`: what it leaves out of the file (text_dim, patch_size) has one value there."""
        image = config.get("model_type", "t2v") == "i2v"
        return cls(
            dim=config["dim"],
            ffn_dim=config["ffn_dim"],
            layers=config["num_layers"],
            in_channels=config["in_dim"],
            out_channels=config["out_dim"],
            patch=tuple(config.get("patch_size", cls.patch)),
            freq_dim=config["freq_dim"],
            text_dim=config.get("text_dim", cls.text_dim),
            text_tokens=config["text_len"],
            image_tokens=IMAGE_TOKENS if image else 0,
            image_dim=IMAGE_DIM if image else 0,
            fps_embedding=bool(config.get("inject_sample_info")),
        )

    @classmethod
    def _diffusers(cls, config: Mapping[str, Any]) -> WanShape:
        image = config.get("image_dim") or 0
        return cls(
            dim=config["num_attention_heads"] * config["attention_head_dim"],
            ffn_dim=config["ffn_dim"],
            layers=config["num_layers"],
            in_channels=config["in_channels"],
            out_channels=config.get("out_channels") or config["in_channels"],
            patch=tuple(config.get("patch_size", cls.patch)),
            freq_dim=config["freq_dim"],
            text_dim=config["text_dim"],
            image_tokens=(config.get("pos_embed_seq_len") or IMAGE_TOKENS) if image else 0,
            image_dim=image,
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
    count, pixels = tokens(shape, frames, height, width), prod(shape.patch)
    total = linear(count, shape.in_channels * pixels, shape.dim)
    total += linear(count, shape.dim, shape.out_channels * pixels)
    context = shape.text_tokens + shape.image_tokens  # attended to apart, each by all latents
    seen = count if not frozen else count + tokens(shape, frozen, height, width)
    layer = 4 * linear(count, shape.dim, shape.dim) + attention(count, seen, shape.dim)
    layer += 2 * linear(count + context, shape.dim, shape.dim) + attention(count, context, shape.dim)
    layer += linear(count, shape.dim, shape.ffn_dim) + linear(count, shape.ffn_dim, shape.dim)
    return total + shape.layers * layer + _conditions(shape, frames)


def _conditions(shape: WanShape, frames: int) -> int:
    """Embeddings of timesteps (one a latent frame), frame rate, caption and image of one sample."""
    dim = shape.dim
    total = linear(frames, shape.freq_dim, dim) + linear(frames, dim, dim) + linear(frames, dim, 6 * dim)
    total += linear(shape.text_tokens, shape.text_dim, dim) + linear(shape.text_tokens, dim, dim)
    total += linear(shape.image_tokens, shape.image_dim, shape.image_dim)
    total += linear(shape.image_tokens, shape.image_dim, dim)
    if shape.fps_embedding:
        total += linear(1, dim, dim) + linear(1, dim, 6 * dim)
    return total


@dataclass(frozen=True)
class Progress:
    """One segment of asynchronous diffusion forcing, before anything runs.

    Attributes:
        index: progress index s in 0 .. steps + 1, int64 [iterations, latent frames]; 0 has not started, s of 1 .. steps
            is the denoise step of this iteration, steps + 1 is finished.
        mask: update mask, booleans of the same shape.
        intervals: what the host forwards at every iteration, in latent frames.
    """

    index: Tensor
    mask: Tensor
    intervals: list[Interval]

    def timesteps(self, template: Sequence[float] | Tensor) -> Tensor:
        """The host's timesteps, int64 of the shape of `index`, from those of its steps (cut to integers as it does)."""
        import torch

        steps = torch.as_tensor(template).to("cpu").long()
        return torch.cat([steps.new_tensor([999]), steps, steps.new_tensor([0])])[self.index]

    def table(self, template: Sequence[float] | Tensor) -> Table:
        """What the host's loop does with these steps."""
        from ..method.schedule import Table

        times = self.timesteps(template)
        return Table(times, times / TRAINED, self.mask, self.intervals)


def progress(
    frames: int, steps: int, *, base: int | None = None, ar_step: int = 5, pre_ready: int = 0, block: int = 1
) -> Progress:
    """The schedule of one segment.

    Args:
        frames: latent frames of the segment.
        steps: denoise steps of a latent frame.
        base: latent frames that the host forwards at most; all of them by default.
        ar_step: iterations between the starts of two blocks; 0 denoises them in step.
        pre_ready: leading latent frames that are given.
        block: latent frames a block. As with the host, latent frames that fill no block are left out.

    Raises ValueError where the host would fail: an `ar_step` that reaches behind the window, or nothing to denoise.
    """
    import torch

    from ..method.schedule import update_mask

    blocks, window = frames // block, (frames if base is None else base) // block
    if window < blocks and ar_step * window < steps:
        raise ValueError(f"ar_step should be at least {math.ceil(steps / max(window, 1))} for {window} blocks at once")
    rows = _rows(blocks, steps, ar_step, pre_ready // block)
    if not rows:
        raise ValueError(f"nothing to denoise: {frames} latent frames, {pre_ready} of them given")
    index = torch.tensor(rows)
    mask = update_mask(index, steps, pre_ready // block)
    intervals, end = [], window
    for moved in mask.tolist():
        end += end < blocks and moved[end]
        intervals.append((max(end - window, 0) * block, end * block))
    return Progress(index.repeat_interleave(block, dim=1), mask.repeat_interleave(block, dim=1), intervals)


def _rows(blocks: int, steps: int, ar_step: int, ready: int) -> list[list[int]]:
    """Progress of every block at every iteration, until all have made their last step."""
    row = [steps + 1] * min(ready, blocks) + [0] * (blocks - ready)
    rows: list[list[int]] = []
    while any(index < steps for index in row):
        following: list[int] = []
        for k, index in enumerate(row):
            led = k > 0 and row[k - 1] < steps
            following.append(max(following[-1] - ar_step, 0) if led else min(index + 1, steps + 1))
        rows.append(following)
        row = following
    return rows


def official_timesteps(steps: int, shift: float) -> list[int]:
    """`FlowUniPCMultistepScheduler.set_timesteps`, 999 .. 0, bit by bit.

    Both schedulers cut to integers at the end, where a last bit can make a whole timestep. numpy's `linspace` is
    `start + step * k`, in doubles.
    """
    top = struct.unpack("f", struct.pack("f", 1 - 1 / TRAINED))[0]  # kept in float32 there
    return _cut([_shifted(top - top / steps * k, shift) for k in range(steps)])


def diffusers_timesteps(steps: int, shift: float, version: str | None = None) -> list[int]:
    """`UniPCMultistepScheduler.set_timesteps` with `use_flow_sigmas` and this `flow_shift`.

    Args:
        version: of diffusers; None: the one that is installed here, or else a new one.
    """
    end = 1 / TRAINED
    step = (end - 1) / steps
    if _version(version) < NEW_RANGE:
        return _cut([_shifted(1.0 - (end if k == steps else step * k + 1), shift) for k in range(steps, 0, -1)])
    levels = [_shifted(step * k + 1, shift) for k in range(steps)]
    if abs(levels[0] - 1) < SHY:
        levels[0] -= SHY
    return _cut(levels)


def _shifted(level: float, shift: float) -> float:
    return shift * level / (1 + (shift - 1) * level)


def _cut(levels: list[float]) -> list[int]:
    return [int(level * TRAINED) for level in levels]


def _version(given: str | None) -> Version:
    try:
        return Version(metadata.version("diffusers") if given is None else given)
    except (metadata.PackageNotFoundError, InvalidVersion):
        return NEW_RANGE


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
    return _cost(_shape(pipeline), arguments["x"])


def diffusers_cost(pipeline: Any, arguments: Mapping[str, Any], schedule: Any, section: int) -> Cost:
    """The same of diffusers' `SkyReelsV2Transformer3DModel`, whose captions may be shorter (max_sequence_length)."""
    shape = replace(_shape(pipeline), text_tokens=arguments["encoder_hidden_states"].shape[1])
    return _cost(shape, arguments["hidden_states"])


def _shape(pipeline: Any) -> WanShape:
    return WanShape.of(getattr(pipeline.transformer, "_orig_mod", pipeline.transformer))


def _cost(shape: WanShape, latents: Tensor) -> Cost:
    *_, height, width = latents.shape

    def flops(iteration: int, slots: Interval, frozen: int = 0) -> float:
        return forward_flops(shape, slots[1] - slots[0], height, width, frozen=frozen)

    return flops
