"""What a host is going to do, as far as its options say it."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ..catalogue import usable_hosts
from ..errors import UsageError
from ..hosts import infinity, magi, schedules, wan
from ..method import profile
from ..method.decision import Size
from ..method.fold import Feature
from ..method.frozen import Freezing, allowed, refusal
from ..method.resolved import Method, method_of
from ..method.schedule import Schedule, Widths
from ..patch.host import NO_WIDTHS, Host
from ..patch.scales import Scales
from ..settings import Settings
from .plans import Job, Part
from .signal import Checkpoint, condition, modulation

DIFFUSERS = "skyreels-v2-diffusers"
VAE_TIME, VAE_SPACE = 4, 8
"""Frames a latent frame, and pixels a latent; the first frame is a latent frame alone. Both hosts' families agree."""
UNIPC_KEEPS, EULER_KEEPS = 5, 2
"""Tensors like the latents that taking steps again needs: latents and velocity, and what a solver of second order
remembers."""
SIDES = (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)
SCALES = {"0.06M": 7, "0.25M": 10, "0.60M": 12, "1M": 13}
"""Infinity's square pictures, by --pn: so many of these scales."""


def known_host(name: str) -> Host:
    """A host of `registry/` by its name."""
    return next(host for host, _ in usable_hosts() if host.name == name)


def method_on(name: str, settings: Settings, size: Size) -> Method:
    """Settings on a host; raises UsageError where the residual level is asked for and it has none."""
    host = known_host(name)
    method = method_of(settings, host.defaults_for(size))
    if method.level == "residual" and host.bypass(None):
        raise UsageError(f"{name}: the residual level is not to be had: {host.bypass(None)}")
    return method


# --- SkyReels-V2, both hosts: segments from the options of generate_video_df.py ---


def skyreels(options: argparse.Namespace, settings: Settings) -> Job:
    """Raises UsageError for options with which the host would fail, or weights that cannot be used."""
    height, width = options.height // VAE_SPACE, options.width // VAE_SPACE
    branches = 2 if options.guidance_scale > 1 else 1
    timesteps = schedules.diffusers_timesteps if options.host == DIFFUSERS else schedules.official_timesteps
    template, block = timesteps(options.steps, options.shift), options.causal_block_size
    try:
        shape, feature = _model(options)
        method = method_on(options.host, settings, Size(shape.dim, shape.layers))
        if options.text_tokens is not None:
            shape = replace(shape, text_tokens=options.text_tokens)
        work = cache(wan.cost(shape, height, width, branches))
        widths, parts, remarks = Widths(settings.widths), [], []
        for frames, ready in segments(options):
            table = schedules.staircase(template, frames, ar_step=options.ar_step, pre_ready=ready, block=block)
            schedule = Schedule.of(table, selective=method.selective(_block(options) > 0), widths=widths)
            freezing, remark = _freezing(options, method, shape, schedule, branches)
            remarks += [remark] * bool(remark)
            parts.append(Part(schedule, work, lambda i, s: branches * (s[1] - s[0]), branches, freezing=freezing))
        longest = max(part.schedule.mask.shape[1] for part in parts)
        work(0, (0, longest))  # where it cannot be counted, that is said here
    except ValueError as error:
        raise UsageError(f"{options.host}: {error}") from error
    velocity = torch.float32.itemsize * shape.out_channels * height * width
    # Residuals: tokens of 2 x 2 latents and the model's channels, in the dtype of its hidden states.
    residual = getattr(torch, options.dtype).itemsize * shape.dim * (height // 2) * (width // 2)
    kept = (residual if method.level == "residual" else velocity) * method.predictor.keeps * branches * longest
    under_way = max(int(part.schedule.mask.sum(dim=1).max()) for part in parts)
    again = method.replays * UNIPC_KEEPS * velocity * under_way
    return Job(parts, method, method.signal, kept, again, feature, remarks)


def _block(options: argparse.Namespace) -> int:
    """Latent frames of a causal block; 0 under full attention."""
    causal = options.causal_block_size > 1 if options.host == DIFFUSERS else options.causal_attention
    return options.causal_block_size if causal else 0


def _freezing(
    options: argparse.Namespace, method: Method, shape: wan.WanShape, schedule: Schedule, branches: int
) -> tuple[Freezing | None, str]:
    """Which finished latent frames keep their keys and values, as in a run (see `patch/planning.py`); and a remark."""
    block, own = _block(options), options.host == DIFFUSERS
    wanted = method.frozen(block > 0)
    if wanted is None or not (block or wanted.full):
        return None, ""
    dtype = getattr(torch, options.dtype)
    latents = torch.empty(1, 1, 1, options.height // VAE_SPACE, options.width // VAE_SPACE, dtype=dtype, device="meta")
    size = wan.frame_bytes(shape, latents, dtype.itemsize if own else wan.BF16, branches)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    freezing = Freezing.of(schedule, block, size, allowed(wanted, device))
    if not freezing.any:
        return None, ""
    why = refusal(schedule, options.addnoise_condition > 0, method.settings.widths)
    why = why or ("" if own or block else wan.FLASH)
    return None if why else freezing, freezing.remark(why, block)


def segments(options: argparse.Namespace) -> Iterator[tuple[int, int]]:
    """(latent frames, those that are given) of every segment; `DiffusionForcingPipeline.__call__`."""
    given, window = options.num_frames, options.base_num_frames
    if options.overlap_history is None and given > window:
        raise ValueError(f"--num-frames {given} is above --base-num-frames {window}: give --overlap-history, 17 or 37")
    if options.host == DIFFUSERS and given % VAE_TIME != 1:
        given = given // VAE_TIME * VAE_TIME + 1  # it rounds, with a warning
    total, base = latent_frames(given), latent_frames(window)
    if options.overlap_history is None or given <= window:
        yield total, 0
        return
    overlap = latent_frames(options.overlap_history)
    if not 0 < overlap < base:
        raise ValueError(f"--overlap-history {options.overlap_history} is not below --base-num-frames")
    yield base, 0
    for done in range(base, total, base - overlap):
        yield min(total - done + overlap, base), overlap


def latent_frames(frames: int) -> int:
    """Latent frames of a video; the VAE packs four, and keeps the first alone."""
    return (frames - 1) // VAE_TIME + 1


def _model(options: argparse.Namespace) -> tuple[wan.WanShape, tuple[Feature, str] | None]:
    """The model's dimensions, and its timestep signal where its weights are at hand."""
    shape = wan.WanShape.named(options.model or "1.3B")
    if options.weights is None:
        return shape, None
    checkpoint = Checkpoint.find(options.weights)
    feature, dim = modulation(checkpoint, options.host, options.fps, getattr(torch, options.dtype))
    says = f"--model {options.model} has"
    if options.model is None:
        config = checkpoint.config
        says = "config.json says" if config else "--model needs"
        if config is not None:
            shape = wan.WanShape.from_config(config)
        else:
            shape = next((each for each in wan.NAMED.values() if each.dim == dim), shape)
    if shape.dim != dim:
        raise ValueError(f"the weights in {options.weights} are of {dim} channels, {says} {shape.dim}")
    return shape, (feature, "time modulation (from the weights)")


# --- MAGI-1: the walk along one video, from upstream's configuration file ---


def magi_1(options: argparse.Namespace, settings: Settings) -> Job:
    """Raises UsageError for a file that is no such configuration, or options with which the host would fail."""
    try:
        return _magi_1(json.loads(Path(options.config).read_text(encoding="utf-8")), options, settings)
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"--config {options.config} cannot be read: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        told = f"--config {options.config} is no MAGI-1 configuration"
        raise UsageError(f"{told}: {error!r} is missing or wrong") from error
    except ValueError as error:
        raise UsageError(f"magi-1: {error}") from error


def _magi_1(config: Mapping[str, Any], options: argparse.Namespace, settings: Settings) -> Job:
    runtime, engine = config["runtime_config"], config["engine_config"]
    shape = magi.MagiShape.from_config(config)
    steps, window, width = options.steps or runtime["num_steps"], runtime["window_size"], runtime["chunk_width"]
    if steps % window:
        raise ValueError(f"{steps} steps are no multiple of window_size {window}: the host would finish no chunk")
    down = runtime["temporal_downsample_factor"]
    prefix = max(1, options.prefix_frames // down) if options.prefix_frames else 0
    chunks = math.ceil(((options.num_frames or runtime["num_frames"]) // down + prefix) / width)
    ranges = runtime["noise2clean_kvrange"] if options.kv_ranges is None else options.kv_ranges
    seen = {"ranges": ranges, "clean": runtime["clean_chunk_kvrange"]}
    branches, mode, offset = runtime["cfg_number"], engine["shortcut_mode"], prefix // width
    guidance = zip(runtime["cfg_t_range"], runtime["prev_chunk_scales"], runtime["text_scales"], strict=True)
    walked = list(schedules.walk(chunks, window, steps, offset, shortcut_mode=mode, **seen))
    rows, nearly = list(guidance) if branches == 3 else [], engine["distill_nearly_clean_chunk_threshold"]
    table = schedules.window_table(walked, width, steps, ranges=ranges, guidance=rows, nearly_clean=nearly)
    schedule = Schedule.of(table)
    sides = options.height or runtime["video_size_h"], options.width or runtime["video_size_w"]
    size = [side // VAE_SPACE for side in sides]
    tokens = shape.chunk_tokens(width, *size)
    work = magi.window_flops(schedule, shape, tokens, [step.seen for step in walked], options.text_tokens, branches)
    work(0, schedule.baseline[0])  # where it cannot be counted, that is said here
    reach = schedules.prefix_kv_ranges(offset, **seen)
    extra = magi.dispatch_flops(shape, tokens, reach, magi.NULL_TOKENS, cfg_number=branches) if offset else 0.0
    method = method_on(options.host, settings, Size(chunked=True))
    signal = "timestep" if method.signal == "embedding" else method.signal  # the condition is the embedding there
    feature = None
    if signal == "timestep" and options.weights is not None and not method.placed:
        folder = f"inference_weight{'.fp8' if engine['fp8_quant'] else ''}{'.distill' if engine['distill'] else ''}"
        checkpoint = Checkpoint.find(options.weights, (folder,))
        feature = condition(checkpoint, steps, mode, distill=engine["distill"]), "timestep embedding (from the weights)"
    velocity = torch.float32.itemsize * shape.out_channels * width * math.prod(size) * min(window, chunks)
    kept, again = method.predictor.keeps * velocity, method.replays * EULER_KEEPS * velocity
    remarks = [] if settings.widths is None else [NO_WIDTHS]
    part = Part(
        schedule, work, lambda i, s: magi.runs(branches, *magi.window(schedule, i, s, branches))[1], branches, extra
    )
    return Job([part], method, signal, kept, again, feature, remarks)


def image(options: argparse.Namespace, settings: Settings) -> tuple[infinity.Image, infinity.Decided]:
    """Infinity: what is asked for, and what is done at every scale. Raises UsageError for unusable options."""
    shape, asked = infinity.NAMED[options.model], _asked(options)
    method = method_on(options.host, settings, Size(shape.width, shape.layers))
    if settings.profile is not None:
        profile.read(settings.profile)  # a run says what is wrong with it, and so does a plan
    decided = infinity.decide(method, shape, asked)
    if settings.verify:
        decided = replace(decided, remarks=[*decided.remarks, f"no skipped step is verified: {Scales.unverifiable}"])
    return asked, decided


def _asked(options: argparse.Namespace) -> infinity.Image:
    try:
        grids = [(side, side) for side in SIDES[: SCALES[options.pn]]]
        if options.grids:
            pairs = [pair.split("x") for pair in options.grids.split(",")]
            grids = [(int(height), int(width)) for height, width in pairs]
        cfg = [float(each) for each in options.cfg.split(",")]
    except ValueError as error:
        raise UsageError(f"--grids and --cfg are lists such as 1x1,2x2,3x4 and 4,4,1: {error}") from error
    cfg = cfg * len(grids) if len(cfg) == 1 else cfg
    if min(min(grid) for grid in grids) < 1 or not all(map(math.isfinite, cfg)):
        raise UsageError(
            f"--grids {options.grids} or --cfg {options.cfg}: sides are 1 or more, and guidance is a number"
        )
    if len(cfg) != len(grids):
        raise UsageError(f"--cfg has {len(cfg)} numbers for {len(grids)} scales; give one, or one a scale")
    tokens = options.text_tokens * options.batch
    return infinity.Image(tuple(grids), tuple(cfg), options.batch, (tokens, tokens), any(each != 1 for each in cfg))
