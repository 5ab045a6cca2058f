"""MAGI-1: its table, the FLOPs of its forwards, and forwards of some chunks of the window only."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..method.schedule import Table
    from ..patch.host import Cost


PASSED = ("slice_point", "range_num", "denoising_range_num", "fwd_extra_1st_chunk", "chunk_width")
"""What `forward_velocity` tells the forward by keyword, and we read."""
READS = (
    ("total_forward_step", ("self", "infer_idx")),
    ("generate_denoise_status_and_sequences", ("self", "infer_idx", "cur_denoise_step")),
    ("get_timestep", ("self", "t_total", "denoise_step_per_stage", "start", "end", "denoise_idx")),
)
"""Methods of `SampleTransport` that `transport_table` calls."""


def window_table(rows: Sequence[tuple[int, int, tuple[float, ...], Hashable, int]], frames: int) -> Table:
    """The table of a window of chunks that moves along the video.

    Args:
        rows: of every step, chunks [start, end), the timestep of each (0 noise .. 1 clean, oldest first), the context,
            and the clean chunks that are forwarded in front.
        frames: latent frames a chunk.

    Raises ValueError where a row does not have one timestep a chunk, they rise along the window, or it moves backwards.
    """
    import torch

    from ..method.schedule import Table

    shape = len(rows), max((end for _, end, *_ in rows), default=0)
    timesteps, mask = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.bool)
    before = (0, 0)
    for i, (start, end, row, _, lead) in enumerate(rows):
        if len(row) != end - start or not 0 <= lead <= start:
            raise ValueError(f"step {i}: {len(row)} timesteps for chunks [{start}, {end})")
        if start < before[0] or end < before[1]:
            raise ValueError(f"step {i}: the window moves back from [{before[0]}, {before[1]})")
        if any(after > older for older, after in pairwise(row)):
            raise ValueError(f"step {i}: chunks do not come cleanest first, their timesteps are {row}")
        mask[i, start:end] = True
        timesteps[i, start:end] = torch.tensor(row, dtype=torch.float64)
        before = (start, end)
    return Table(
        timesteps=timesteps,
        levels=1.0 - timesteps,
        mask=mask,
        intervals=[(start, end) for start, end, *_ in rows],
        clean_prefixes=[lead for *_, lead in rows],
        contexts=[context for *_, context, _ in rows],
        slot_frames=frames,
        moving=True,
    )


def transport_table(transport: Any, section: int) -> Table:
    """`SampleTransport.forward_velocity`, step by step, in upstream's own words.

    A context is the stage (which chunks are there), how far each chunk looks back, how it is guided, and whether the
    oldest is blended.
    """
    rows, levels = [], transport.ts[section].cpu()
    runtime, inputs = transport.runtime_config, transport.transport_inputs[section]
    ranges = len(runtime.noise2clean_kvrange) or 1
    for step in range(transport.total_forward_step(section)):
        (per_stage, stage, position), (offset, start, end, first, last) = (
            transport.generate_denoise_status_and_sequences(section, step)
        )
        timesteps = tuple(transport.get_timestep(levels, per_stage, first, last, position).tolist())
        reach = tuple((k * per_stage + position) * ranges // inputs.num_steps for k in range(first, last))
        guidance = tuple(_guidance(runtime, t) for t in timesteps) if runtime.cfg_number == 3 else ()
        blended = timesteps[0] > transport.engine_config.distill_nearly_clean_chunk_threshold
        # The chunk just finished goes along once, so that its clean keys and values get into the cache.
        lead = int(start > offset and position == 0)
        rows.append((start, end, timesteps, (stage, reach, guidance, blended), lead))
    return window_table(rows, transport.chunk_width)


def _guidance(runtime: Any, t: float) -> tuple[float, float]:
    """`VideoDiTModel.get_cfg_scale`: the scales of the previous chunks and of the text."""
    k = sum(start - 1e-7 < t for start in runtime.cfg_t_range) - 1
    return runtime.prev_chunk_scales[k], runtime.text_scales[k]


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


def work(model: Any, arguments: Mapping[str, Any]) -> tuple[int, int]:
    """(runs of the network, chunks in them) of one forward: with guidance three, without one and maybe a duplicate."""
    chunks = arguments["denoising_range_num"]
    if model.runtime_config.cfg_number == 3:
        return 3, 3 * chunks - bool(arguments["fwd_extra_1st_chunk"])
    return 1, chunks + bool(arguments.get("distill_nearly_clean_chunk", False))


def transport_cost(transport: Any, arguments: Mapping[str, Any], schedule: Any, section: int) -> Cost:
    """FLOPs of one forward of the window's chunks [.., last) with what leads it."""
    from ..cost.magi import MagiShape
    from ..cost.window import window_flops
    from ..method.chunkwise import kv_ranges

    inputs, runtime = transport.transport_inputs[section], transport.runtime_config
    shape = MagiShape.from_model(find_model(transport))
    *_, height, width = inputs.latent_size
    tokens = shape.chunk_tokens(transport.chunk_width, height, width)
    prefix = 0 if inputs.prefix_video is None else inputs.prefix_video.size(2) // transport.chunk_width
    seen = kv_ranges(
        inputs.chunk_num,
        transport.window_size,
        inputs.num_steps,
        prefix,
        ranges=runtime.noise2clean_kvrange,
        clean=runtime.clean_chunk_kvrange,
    )
    text = int(inputs.emb_masks[0, -1].sum())
    return window_flops(schedule, shape, tokens, seen, text, runtime.cfg_number)


def find_model(transport: Any) -> Any:
    """The DiT, as upstream's `find_dit_model` finds it below its wrappers."""
    model = transport.model
    while not hasattr(model, "y_embedder") and hasattr(model, "module"):
        model = model.module
    return model


DISTILL_SCALE, DISTILL_BASE = 2, 4
"""`VideoDiTModel.get_embedding_and_meta`: distilled models are told their step size, in these units."""


def feature(transport: Any, section: int, model: Any) -> Any:
    """The timestep's part of the condition that enters every block, before the caption is added: [n] -> [n, channels]."""
    from copy import copy

    import torch

    embedder = copy(model.t_embedder)  # the weights are the host's own
    embedder.data_type = next(embedder.parameters()).dtype  # upstream leaves this cast to autocast
    levels, intervals = transport.ts[section], transport.time_interval[section]
    steps = transport.transport_inputs[section].num_steps

    def embed(timesteps: Any) -> Any:
        with torch.no_grad(), torch.autocast(levels.device.type, enabled=False):
            timesteps = timesteps.to(levels.device, torch.float32)
            embedded = embedder(timesteps)
            if model.engine_config.distill:
                factor = torch.full_like(timesteps, steps / DISTILL_BASE)
                if steps == 12:  # the shortcut: steps of several sizes
                    nearest = (timesteps[:, None] - levels[None]).abs().argmin(dim=1)
                    factor = DISTILL_BASE / intervals[nearest % len(intervals)].to(timesteps)
                embedded = embedded + embedder(factor * DISTILL_SCALE)
            return embedded.float()

    return embed
