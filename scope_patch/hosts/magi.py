"""MAGI-1: FLOPs of a forward and of a call of `forward_dispatcher`, its table, and forwards of some chunks only.

Read from `inference/model/dit/dit_module.py`, `dit_model.py` and `SampleTransport` (SandAI-org/MAGI-1 @ 6ff822e). Every
chunk attends to a range of chunks of its own and to a caption of its own, so that work is counted chunk by chunk.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from . import attention, linear

if TYPE_CHECKING:
    from ..method.schedule import Interval, Schedule, Table
    from ..patch.host import Cost

NULL_TOKENS = 50
"""Tokens of the empty caption that upstream lets through its mask (`_process_null_embeddings`)."""
PASSED = ("slice_point", "range_num", "denoising_range_num", "fwd_extra_1st_chunk", "chunk_width")
"""What `forward_velocity` tells the forward by keyword, and we read."""
READS = (
    ("total_forward_step", ("self", "infer_idx")),
    ("generate_denoise_status_and_sequences", ("self", "infer_idx", "cur_denoise_step")),
    ("get_timestep", ("self", "t_total", "denoise_step_per_stage", "start", "end", "denoise_idx")),
)
"""Methods of `SampleTransport` that `transport_table` calls."""


@dataclass(frozen=True)
class MagiShape:
    """The dimensions of a model, as upstream's `model_config` names them; `distill`: the step size is embedded too."""

    hidden_size: int
    num_layers: int
    ffn_hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    kv_channels: int
    patch_size: int
    t_patch_size: int
    in_channels: int
    out_channels: int
    caption_channels: int
    caption_max_length: int
    cond_hidden_ratio: float
    xattn_cond_hidden_ratio: float
    cond_gating_ratio: float
    gated_linear_unit: bool
    distill: bool = False

    @classmethod
    def from_model(cls, model: Any) -> MagiShape:
        """From a `VideoDiTModel` (its `model_config`, `engine_config`). Raises KeyError where a field is missing."""
        return cls.from_config({"model_config": vars(model.model_config), "engine_config": vars(model.engine_config)})

    @classmethod
    def from_config(cls, contents: Mapping[str, Any]) -> MagiShape:
        """From the contents of one of upstream's JSON files. Raises KeyError where a field is missing."""
        names = [each.name for each in fields(cls) if each.name != "distill"]
        distill = bool(contents.get("engine_config", {}).get("distill"))
        return cls(**{name: contents["model_config"][name] for name in names}, distill=distill)

    def chunk_tokens(self, frames: int, height: int, width: int) -> int:
        """Tokens of a chunk of latents [C, frames, height, width]; upstream's `chunk_token_nums`."""
        return (frames // self.t_patch_size) * (height // self.patch_size) * (width // self.patch_size)


def forward_flops(shape: MagiShape, tokens: int, kv_tokens: Sequence[int], text_tokens: Sequence[int]) -> int:
    """FLOPs of one forward of the network over some chunks.

    Args:
        tokens: of a chunk (`MagiShape.chunk_tokens`).
        kv_tokens: for every chunk, how many tokens it attends to, itself and cached ones included.
        text_tokens: for every chunk, caption tokens that are let through its mask.
    """
    hidden, chunks, count, texts = shape.hidden_size, len(kv_tokens), len(kv_tokens) * tokens, sum(text_tokens)
    queries, keys = (heads * shape.kv_channels for heads in (shape.num_attention_heads, shape.num_query_groups))
    # Channels of the time condition and of an embedded caption.
    condition, caption = int(hidden * shape.cond_hidden_ratio), int(hidden * shape.xattn_cond_hidden_ratio)
    # Queries are made twice, for self- and for cross-attention.
    layer = linear(count, hidden, 2 * queries + 2 * keys) + linear(count, 2 * queries, hidden)
    inner = shape.ffn_hidden_size
    layer += linear(count, hidden, inner * (2 if shape.gated_linear_unit else 1)) + linear(count, inner, hidden)
    layer += attention(1, tokens * (sum(kv_tokens) + texts), queries)
    layer += linear(texts, caption, 2 * keys) + linear(chunks, condition, int(hidden * shape.cond_gating_ratio * 2))
    pixels = shape.patch_size**2 * shape.t_patch_size
    ends = linear(count, shape.in_channels * pixels, hidden) + linear(count, hidden, shape.out_channels * pixels)
    # Timesteps (and the step size), as 256 sinusoids; and captions, which are embedded at their full length.
    time = linear(chunks, 256, condition) + linear(chunks, condition, condition)
    captions = linear(chunks * shape.caption_max_length, shape.caption_channels, caption)
    conditions = time * (2 if shape.distill else 1) + captions + linear(1, shape.caption_channels, condition)
    return shape.num_layers * layer + ends + conditions


def dispatch_flops(
    shape: MagiShape,
    tokens: int,
    kv_ranges: Sequence[tuple[int, int]],
    text_tokens: int,
    *,
    cfg_number: int = 1,
    clean_prefix: bool = False,
    duplicate: bool = False,
) -> int:
    """FLOPs of one call of `VideoDiTModel.forward_dispatcher`.

    Args:
        tokens: of a chunk.
        kv_ranges: for every chunk of the call, oldest first, the chunks [start, end) it attends to, absolute.
        text_tokens: of the caption, special tokens included. Upstream's forward over a prefix has the empty caption
            throughout: pass `NULL_TOKENS` there.
        cfg_number: 1 (one forward) or 3 (caption, empty caption, and each chunk alone without one).
        clean_prefix: whether the first chunk is a clean one, forwarded for the cache (`fwd_extra_1st_chunk`); its
            caption is the empty one, and the third forward leaves it out.
        duplicate: whether a nearly clean chunk is forwarded once more, attending to itself only
            (`distill_nearly_clean_chunk`); with guidance there is none.

    Raises ValueError for another `cfg_number`.
    """
    seen = [(end - start) * tokens for start, end in kv_ranges]
    texts = [NULL_TOKENS if clean_prefix and i == 0 else text_tokens for i in range(len(seen))]
    if cfg_number == 1:
        extra = int(duplicate)
        return forward_flops(shape, tokens, [*seen, *[tokens] * extra], [*texts, *[text_tokens] * extra])
    if cfg_number != 3:
        raise ValueError(f"cfg_number {cfg_number} is unknown to us (1 and 3 are known)")
    alone = len(seen) - clean_prefix
    return (
        forward_flops(shape, tokens, seen, texts)
        + forward_flops(shape, tokens, seen, [NULL_TOKENS] * len(seen))
        + forward_flops(shape, tokens, [tokens] * alone, [NULL_TOKENS] * alone)
    )


def window(schedule: Schedule, iteration: int, slots: Interval, cfg_number: int) -> tuple[int, bool, bool]:
    """The forward of a window's chunks up to the last of these slots: how many chunks, with the clean one in front,
    whether there is one, and whether upstream forwards the oldest once more, alone (a row's context ends with that)."""
    prefix, context = schedule.clean_prefix(iteration), schedule.contexts[iteration]
    duplicate = cfg_number == 1 and isinstance(context, tuple) and bool(context[-1])
    return slots[1] - schedule.intervals[iteration][0] + prefix, bool(prefix), duplicate


def runs(cfg_number: int, chunks: int, clean_prefix: bool, duplicate: bool) -> tuple[int, int]:
    """(runs of the network, chunks in them) of one forward: with guidance three, without one and maybe a duplicate."""
    return (3, 3 * chunks - clean_prefix) if cfg_number == 3 else (1, chunks + duplicate)


def window_flops(
    schedule: Schedule, shape: MagiShape, tokens: int, seen: Sequence[Sequence[Interval]], text: int, cfg_number: int
) -> Callable[[int, Interval], int]:
    """(iteration, slots) -> FLOPs of forwarding the window's chunks up to the last of these, clean prefix included.

    Args:
        tokens, text: of a chunk, and of the caption.
        seen: for every iteration, the chunks that each chunk attends to (`schedules.Step`).
    """

    def flops(iteration: int, slots: Interval) -> int:
        chunks, clean, duplicate = window(schedule, iteration, slots, cfg_number)
        kv = seen[iteration][:chunks]
        return dispatch_flops(shape, tokens, kv, text, cfg_number=cfg_number, clean_prefix=clean, duplicate=duplicate)

    return flops


def transport_table(transport: Any, section: int) -> Table:
    """`SampleTransport.forward_velocity`, step by step, in upstream's own words."""
    from .schedules import Step, window_table

    walked, levels, runtime = [], transport.ts[section].cpu(), transport.runtime_config
    for step in range(transport.total_forward_step(section)):
        status, chunks = transport.generate_denoise_status_and_sequences(section, step)
        (per_stage, stage, position), (offset, start, end, first, last) = status, chunks
        timesteps = tuple(transport.get_timestep(levels, per_stage, first, last, position).tolist())
        indices = tuple(k * per_stage + position for k in reversed(range(first, last)))
        # The chunk just finished goes along once, so that its clean keys and values get into the cache.
        walked.append(Step(stage, start, end, indices, timesteps, int(start > offset and position == 0)))
    scales = zip(runtime.cfg_t_range, runtime.prev_chunk_scales, runtime.text_scales, strict=False)
    steps, ranges = transport.transport_inputs[section].num_steps, runtime.noise2clean_kvrange
    rows = list(scales) if runtime.cfg_number == 3 else []
    nearly = transport.engine_config.distill_nearly_clean_chunk_threshold
    return window_table(walked, transport.chunk_width, steps, ranges=ranges, guidance=rows, nearly_clean=nearly)


def refuse(transport: Any, model: Any, arguments: Mapping[str, Any]) -> str:
    """Only the forms of guidance whose forwards we have read."""
    number = model.runtime_config.cfg_number
    return "" if number in (1, 3) else f"cfg_number {number} is unknown to us (1 and 3 are known)"


def narrow(arguments: Mapping[str, Any], first: int, last: int) -> dict[str, Any]:
    """The same forward for the call's chunks [first, last) only; chunks do not see younger ones and lose nothing."""
    chunks, width = arguments["denoising_range_num"], arguments["chunk_width"]

    def rows(of: Any) -> Any:  # one a chunk, for each row of the batch
        return of.unflatten(0, (-1, chunks))[:, first:last].flatten(0, 1)

    return {
        **arguments,
        "x": arguments["x"][:, :, first * width : last * width],
        "timestep": arguments["timestep"][:, first:last],
        "y": rows(arguments["y"]),
        "mask": rows(arguments["mask"]),
        "kv_range": arguments["kv_range"][first:last],
        "slice_point": arguments["slice_point"] + first,
        "range_num": arguments["slice_point"] + last,
        "denoising_range_num": last - first,
    }


def integrated(transport: Any, section: int) -> tuple[Any, Any, int]:
    """What `integrate_velocity` integrates; chunks of a given video are padded with it anew at every step."""
    given = transport.transport_inputs[section].prefix_video
    frames = 0 if given is None else given.size(2)
    return transport.x_chunks[section], transport.velocities[section], -(-frames // transport.chunk_width)


def work(model: Any, arguments: Mapping[str, Any]) -> tuple[int, int]:
    """`runs` of one forward, from what it is called with."""
    prefix, duplicate = bool(arguments["fwd_extra_1st_chunk"]), bool(arguments.get("distill_nearly_clean_chunk"))
    return runs(model.runtime_config.cfg_number, arguments["denoising_range_num"], prefix, duplicate)


def transport_cost(transport: Any, arguments: Mapping[str, Any], schedule: Any, section: int) -> Cost:
    """FLOPs of one forward of the window's chunks [.., last) with what leads it."""
    from .schedules import walk

    inputs, runtime = transport.transport_inputs[section], transport.runtime_config
    shape = MagiShape.from_model(find_model(transport))
    *_, height, width = inputs.latent_size
    tokens = shape.chunk_tokens(transport.chunk_width, height, width)
    prefix = 0 if inputs.prefix_video is None else inputs.prefix_video.size(2) // transport.chunk_width
    where = inputs.chunk_num, transport.window_size, inputs.num_steps, prefix
    walked = walk(*where, ranges=runtime.noise2clean_kvrange, clean=runtime.clean_chunk_kvrange)
    text = int(inputs.emb_masks[0, -1].sum())
    return window_flops(schedule, shape, tokens, [step.seen for step in walked], text, runtime.cfg_number)


def find_model(transport: Any) -> Any:
    """The DiT, as upstream's `find_dit_model` finds it below its wrappers."""
    model = transport.model
    while not hasattr(model, "y_embedder") and hasattr(model, "module"):
        model = model.module
    return model


def ranks(transport: Any) -> Sequence[int]:
    """Pipeline stages times context parallel ranks; upstream numbers them so that the two are offsets of a rank."""
    import torch.distributed as dist

    parallel = sys.modules.get("inference.infra.distributed.parallel_state")
    if parallel is None or parallel.get_pp_world_size() * parallel.get_cp_world_size() == 1:
        return ()
    stages, parts = (dist.get_process_group_ranks(group()) for group in (parallel.get_pp_group, parallel.get_cp_group))
    return sorted({stage + part - dist.get_rank() for stage in stages for part in parts})


def feature(transport: Any, section: int, model: Any) -> Any:
    """The timestep's part of the condition of every block, before the caption is added: [n] -> [n, channels]."""
    import torch

    embedder = copy(model.t_embedder)  # the weights are the host's own
    embedder.data_type = next(embedder.parameters()).dtype  # upstream leaves this cast to autocast
    levels, intervals = transport.ts[section], transport.time_interval[section]
    steps = transport.transport_inputs[section].num_steps
    # `VideoDiTModel.get_embedding_and_meta`: distilled models are told their step size, in these units.
    scale, base = 2, 4

    def embed(timesteps: Any) -> Any:
        with torch.no_grad(), torch.autocast(levels.device.type, enabled=False):
            timesteps = timesteps.to(levels.device, torch.float32)
            embedded = embedder(timesteps)
            if model.engine_config.distill:
                factor = torch.full_like(timesteps, steps / base)
                if steps == 12:  # the shortcut: steps of several sizes
                    nearest = (timesteps[:, None] - levels[None]).abs().argmin(dim=1)
                    factor = base / intervals[nearest % len(intervals)].to(timesteps)
                embedded = embedded + embedder(factor * scale)
            return embedded.float()

    return embed
