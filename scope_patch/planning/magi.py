"""MAGI-1: the walk along one video, from upstream's configuration file."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..cost.magi import NULL_TOKENS, MagiShape, dispatch_flops
from ..cost.window import duplicated, window_flops
from ..errors import UsageError
from ..method import chunkwise, policies
from ..method.asked import placing
from ..method.policies.traits import Size, traits
from ..method.schedule import Interval, Schedule
from ..hosts.magi import window_table
from ..patch.host import NO_WIDTHS
from ..settings import Settings
from .condition import CONDITION, condition
from .job import Job, Known, Part, known_architecture
from .weights import Checkpoint

KEPT, FLOAT32, LATENT = 3, 4, 8
"""Velocities kept a chunk, their bytes a number, pixels a latent."""


def job(options: argparse.Namespace, settings: Settings) -> Job:
    """Raises UsageError for a file that is no such configuration, or options with which the host would fail."""
    try:
        config = json.loads(Path(options.config).read_text(encoding="utf-8"))
        return _job(config, options, settings)
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"--config {options.config} cannot be read: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"--config {options.config} is no MAGI-1 configuration: {error!r} is missing or wrong"
        ) from error
    except ValueError as error:
        raise UsageError(f"magi-1: {error}") from error


def _job(config: Mapping[str, Any], options: argparse.Namespace, settings: Settings) -> Job:
    runtime, engine = config["runtime_config"], config["engine_config"]
    shape = MagiShape.from_config(config)
    steps, window, width = options.steps or runtime["num_steps"], runtime["window_size"], runtime["chunk_width"]
    if steps % window:
        raise ValueError(f"{steps} steps are no multiple of window_size {window}: the host would finish no chunk")
    down = runtime["temporal_downsample_factor"]
    prefix = max(1, options.prefix_frames // down) if options.prefix_frames else 0
    chunks = math.ceil(((options.num_frames or runtime["num_frames"]) // down + prefix) / width)
    ranges = runtime["noise2clean_kvrange"] if options.kv_ranges is None else options.kv_ranges
    clean, cfg, offset = runtime["clean_chunk_kvrange"], runtime["cfg_number"], prefix // width
    guidance = zip(runtime["cfg_t_range"], runtime["prev_chunk_scales"], runtime["text_scales"], strict=True)
    rows = chunkwise.rows(
        chunks,
        window,
        steps,
        chunkwise.timesteps(steps, engine["shortcut_mode"]),
        offset,
        ranges=ranges,
        guidance=list(guidance) if cfg == 3 else [],
        nearly_clean=engine["distill_nearly_clean_chunk_threshold"],
    )
    architecture = known_architecture(options.host)
    schedule = Schedule.of(window_table([(r.start, r.end, r.timesteps, r.context, r.lead) for r in rows], width))
    seen = chunkwise.kv_ranges(chunks, window, steps, offset, ranges=ranges, clean=clean)
    pixels = options.height or runtime["video_size_h"], options.width or runtime["video_size_w"]
    size = [side // LATENT for side in pixels]
    tokens = shape.chunk_tokens(width, *size)

    work = window_flops(schedule, shape, tokens, seen, options.text_tokens, cfg)

    def forwarded(iteration: int, slots: Interval) -> int:
        lead = schedule.lead(iteration)
        chunks = slots[1] - schedule.intervals[iteration][0] + lead
        return 3 * chunks - lead if cfg == 3 else chunks + duplicated(schedule, iteration, cfg)

    extra = 0.0
    if offset:
        reach = chunkwise.prefix_kv_ranges(offset, ranges=ranges, clean=clean)
        extra = dispatch_flops(shape, tokens, reach, NULL_TOKENS, cfg_number=cfg)
    chunked = Size(chunked=True)
    wanted = traits(policies.create(settings, chunked))
    if (settings.level or wanted.level) == "residual":
        raise UsageError(f"magi-1: the residual level is not to be had: {architecture.bypass(None)}")
    signal = settings.signal or wanted.signal or architecture.signal
    signal = "timestep" if signal == "embedding" else signal  # the condition is the embedding there
    agreed, timestep = architecture.terms(settings, chunked), None
    if signal == "timestep" and options.weights is not None and not placing(settings, agreed):
        folder = f"inference_weight{'.fp8' if engine['fp8_quant'] else ''}{'.distill' if engine['distill'] else ''}"
        checkpoint = Checkpoint.find(options.weights, (folder,))
        feature = condition(architecture, checkpoint, steps, engine["shortcut_mode"], distill=engine["distill"])
        timestep = Known(feature, CONDITION)
    kept = KEPT * FLOAT32 * shape.out_channels * width * size[0] * size[1] * min(window, chunks)
    remarks = () if settings.widths is None else (NO_WIDTHS,)
    return Job((Part(schedule, work, forwarded, cfg, extra),), agreed, signal, kept, KEPT, timestep, remarks=remarks)
