"""MAGI-1, the official repository: text, image and video to video, base and distilled models."""

import sys
from copy import copy

from scope_patch.patch.architecture import (
    FORWARD,
    GENERATION,
    READ,
    STEP,
    Architecture,
    Fact,
    ForwardNames,
    Seam,
    Stepwise,
)

PIPELINE = "inference.pipeline.video_generate"
TRANSFORMER = "inference.model.dit.dit_model"
PARALLEL = "inference.infra.distributed.parallel_state"
PASSED = ("slice_point", "range_num", "denoising_range_num", "fwd_extra_1st_chunk", "chunk_width")
"""What `forward_velocity` tells the forward by keyword, and we read."""
DISTILL_SCALE, DISTILL_BASE = 2, 4
"""VideoDiTModel.get_embedding_and_meta: distilled models are told their step size, in these units."""


def find_model(transport):
    """The DiT, as upstream's `find_dit_model` finds it below its wrappers."""
    model = transport.model
    while not hasattr(model, "y_embedder") and hasattr(model, "module"):
        model = model.module
    return model


def refuse(transport, model):
    """Only the forms of guidance whose forwards we have read."""
    number = model.runtime_config.cfg_number
    if number not in (1, 3):
        return f"cfg_number {number} is unknown to us (1 and 3 are known)"
    return ""


def rows(transport, index):
    """`SampleTransport.forward_velocity`, step by step, in upstream's own words."""
    from scope_patch.hosts.magi import Row

    made, levels = [], transport.ts[index].cpu()
    for step in range(transport.total_forward_step(index)):
        (per_stage, _, position), (offset, start, end, t_start, t_end) = (
            transport.generate_denoise_status_and_sequences(index, step)
        )
        timesteps = transport.get_timestep(levels, per_stage, t_start, t_end, position)
        # The chunk just finished goes along once, so that its clean keys and values get into the cache.
        lead = int(start > offset and position == 0)
        timesteps = tuple(timesteps.tolist())
        made.append(Row(start, end, timesteps, context(transport, index, step, timesteps), lead))
    return made


def context(transport, index, step, timesteps):
    """The stage (which chunks are there), how far each looks back, how it is guided, and whether one is blended."""
    runtime, inputs = transport.runtime_config, transport.transport_inputs[index]
    (per_stage, stage, position), (_, _, _, first, last) = transport.generate_denoise_status_and_sequences(index, step)
    ranges = len(runtime.noise2clean_kvrange) or 1
    reach = tuple((k * per_stage + position) * ranges // inputs.num_steps for k in range(first, last))
    guidance = [guidance_at(runtime, t) for t in timesteps] if runtime.cfg_number == 3 else []
    blended = timesteps[0] > transport.engine_config.distill_nearly_clean_chunk_threshold
    return stage, reach, tuple(guidance), blended


def guidance_at(runtime, t):
    """`VideoDiTModel.get_cfg_scale`: the scales of the previous chunks and of the text."""
    k = sum(start - 1e-7 < t for start in runtime.cfg_t_range) - 1
    return runtime.prev_chunk_scales[k], runtime.text_scales[k]


def feature(transport, index, model):
    """The timestep's part of the condition that enters every block, before the caption is added."""
    import torch

    embedder = copy(model.t_embedder)  # the weights are the host's own
    embedder.data_type = next(embedder.parameters()).dtype  # upstream leaves this cast to autocast
    levels = transport.ts[index]
    intervals = transport.time_interval[index]
    steps = transport.transport_inputs[index].num_steps

    def embed(timesteps):
        timesteps = timesteps.to(levels.device, torch.float32)
        embedded = embedder(timesteps)
        if model.engine_config.distill:
            factor = torch.full_like(timesteps, steps / DISTILL_BASE)
            if steps == 12:  # the shortcut: steps of several sizes
                nearest = (timesteps[:, None] - levels[None]).abs().argmin(dim=1)
                factor = DISTILL_BASE / intervals[nearest % len(intervals)].to(timesteps)
            embedded = embedded + embedder(factor * DISTILL_SCALE)
        return embedded.float()

    def quietly(timesteps):
        with torch.no_grad(), torch.autocast(levels.device.type, enabled=False):
            return embed(timesteps)

    return quietly


def unscheduled(arguments):
    """The forward over the prefix of a video, which only fills the cache."""
    return "prefix" if arguments.get("extract_prefix_video_feature") else ""


def narrow(arguments, first, last):
    """The same forward for the call's chunks [first, last) only; chunks do not see younger ones and lose nothing."""
    chunks, width = arguments["denoising_range_num"], arguments["chunk_width"]

    def rows(of):  # one a chunk, for each row of the batch
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


def work(model, arguments):
    """(runs of the network, chunks in them) of one forward: with guidance three, without one and maybe a duplicate."""
    chunks = arguments["denoising_range_num"]
    if model.runtime_config.cfg_number == 3:
        return 3, 3 * chunks - bool(arguments["fwd_extra_1st_chunk"])
    return 1, chunks + bool(arguments.get("distill_nearly_clean_chunk", False))


def cost(transport, arguments, schedule, index):
    """FLOPs of one forward of the window's chunks [.., last) with what leads it."""
    from scope_patch.hosts.magi import MagiShape, kv_ranges, window_flops

    inputs, runtime, model = transport.transport_inputs[index], transport.runtime_config, find_model(transport)
    shape = MagiShape.from_model(model)
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


def ranks(transport):
    """Pipeline stages times context parallel ranks; upstream numbers them so that the two are offsets of a rank."""
    import torch.distributed as dist

    parallel = sys.modules.get(PARALLEL)
    if parallel is None or parallel.get_pp_world_size() * parallel.get_cp_world_size() == 1:
        return ()
    stages, parts = (dist.get_process_group_ranks(group()) for group in (parallel.get_pp_group, parallel.get_cp_group))
    return sorted({stage + part - dist.get_rank() for stage in stages for part in parts})


ARCHITECTURE = Architecture(
    name="magi-1",
    title="MAGI-1, chunk-wise (official repository)",
    source="github.com/SandAI-org/MAGI-1 @ 6ff822e",
    triggers=("inference.model.dit",),
    groups={
        "chunk-wise": (
            Seam(GENERATION, PIPELINE, "SampleTransport", "walk", ("self",)),
            Seam(
                STEP,
                PIPELINE,
                "SampleTransport",
                "forward_velocity",
                ("self", "infer_idx", "cur_denoise_step"),
                mentions=("forward_dispatcher", *PASSED),
            ),
            Seam(READ, PIPELINE, "SampleTransport", "total_forward_step", ("self", "infer_idx")),
            Seam(
                READ,
                PIPELINE,
                "SampleTransport",
                "generate_denoise_status_and_sequences",
                ("self", "infer_idx", "cur_denoise_step"),
            ),
            Seam(
                READ,
                PIPELINE,
                "SampleTransport",
                "get_timestep",
                ("self", "t_total", "denoise_step_per_stage", "start", "end", "denoise_idx"),
            ),
            Seam(
                FORWARD,
                TRANSFORMER,
                "VideoDiTModel",
                "forward_dispatcher",
                ("self", "x", "timestep", "y", "mask", "kv_range", "inference_params"),
                bases=("Module",),
            ),
        )
    },
    facts=(
        Fact(TRANSFORMER, "VideoDiTModel", "videodit_blocks", "TransformerBlock"),
        Fact(TRANSFORMER, "VideoDiTModel", "t_embedder", "TimestepEmbedder"),
        Fact(TRANSFORMER, "VideoDiTModel", "x_embedder", "Conv3d"),
    ),
    versions={"torch": ">=2.4"},
    # The cache object is the same at every step of one input; texts are cut anew.
    forward=ForwardNames("x", "timestep", "inference_params"),
    model=find_model,
    noise_level=lambda timestep: 1.0 - timestep,
    refuse=refuse,
    blocks="videodit_blocks",
    bypass=lambda transport: "every block writes the keys and values that later chunks read",
    signal="expected",
    presets={"slow": 2.66, "fast": 3.32},
    # Of the expected change: with 12 or 16 steps the paper's speed-ups would leave one forward a stage (docs/magi.md).
    preset_limit=0.15,
    placement="threshold",
    cost=cost,
    ranks=ranks,
    stepwise=Stepwise(
        position=("infer_idx", "cur_denoise_step"),
        rows=rows,
        frames=lambda transport: transport.chunk_width,
        feature=feature,
        unscheduled=unscheduled,
        narrow=narrow,
        work=work,
    ),
)
