"""What a host is going to do, as far as its options say it."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ..catalogue import usable_hosts
from ..errors import UsageError
from ..hosts import magi, wan, wan_keys
from ..hosts import window as moving_window
from ..method.decision import Size
from ..method.fold import Feature
from ..method.frozen import Freezing, allowed, refusal
from ..method.plan import Work
from ..method.resolved import Method, method_of
from ..method.schedule import Interval, Schedule, Widths
from ..patch.host import NO_WIDTHS, Host
from ..settings import Settings
from .signal import CONDITION, TIME_MODULATION, Checkpoint, condition, modulation

DIFFUSERS = "skyreels-v2-diffusers"
SMALL = "1.3B"
VAE_TIME, VAE_SPACE = 4, 8
"""Frames a latent frame, and pixels a latent; the first frame is a latent frame alone. Both hosts' families agree."""
FLOAT32 = 4
"""Bytes a number of a velocity."""
UNIPC_KEEPS, EULER_KEEPS = 5, 2
"""Tensors like the latents that taking steps again needs: latents and velocity, and what a solver of second order
remembers."""


@dataclass(frozen=True)
class Part:
    """One segment of a long video, or the walk along one.

    Attributes:
        schedule: what is denoised when.
        work: FLOPs of forwarding slots at an iteration, all runs of the network together.
        size: slots in such a forward, all runs of the network together.
        runs: of the network in one such forward (guidance branches).
        freezing: which finished latent frames keep their keys and values; None: none does.
        extra: FLOPs of forwards that are none of a denoise step's own, and run in any case.
    """

    schedule: Schedule
    work: Work
    size: Callable[[int, Interval], int]
    runs: int
    extra: float = 0.0
    freezing: Freezing | None = None


@dataclass(frozen=True)
class Job:
    """A whole run.

    Attributes:
        parts: in order.
        method: that decides.
        signal: what it decides from: timestep, embedding, expected or none.
        history_bytes: of what is kept, where nothing limits it.
        replay_bytes: of what it takes to take skipped steps again, at the most.
        feature: the timestep signal and its name for people, where the model's weights are at hand.
        remarks: what the user should know of the settings.
        guided: velocities are made of several guidance branches.
    """

    parts: tuple[Part, ...]
    method: Method
    signal: str
    history_bytes: int
    replay_bytes: int = 0
    feature: tuple[Feature, str] | None = None
    remarks: tuple[str, ...] = ()
    guided: bool = True

    @property
    def held(self) -> tuple[int, int]:
        """Bytes that are kept on the model's device, and elsewhere, at the most (see `method.memory`)."""
        limit = self.method.settings.limit
        if limit is None:
            return self.history_bytes, 0
        least = self.history_bytes // self.method.predictor.keeps if limit.drop else 0
        here = min(self.history_bytes, max(limit.size, least))
        return here, 0 if limit.drop else self.history_bytes - here


def known_host(name: str) -> Host:
    """A host of `registry/` by its name."""
    return next(host for host, _ in usable_hosts() if host.name == name)


def without_residual(host: Host, method: Method) -> None:
    """Raises UsageError where the residual level is asked for, on a host that has none."""
    if method.level == "residual":
        raise UsageError(f"{host.name}: the residual level is not to be had: {host.bypass(None)}")


# --- SkyReels-V2, both hosts: segments from the options of generate_video_df.py ---


def skyreels(options: argparse.Namespace, settings: Settings) -> Job:
    """Raises UsageError for options with which the host would fail, or weights that cannot be used."""
    height, width = options.height // VAE_SPACE, options.width // VAE_SPACE
    branches = 2 if options.guidance_scale > 1 else 1
    make = wan.diffusers_timesteps if options.host == DIFFUSERS else wan.official_timesteps
    try:
        shape, feature = _model(options)
        method = method_of(settings, known_host(options.host).defaults_for(Size(shape.dim, shape.layers)))
        if options.text_tokens is not None:
            shape = replace(shape, text_tokens=options.text_tokens)

        @cache
        def flops(slots: int, frozen: int = 0) -> int:
            return branches * wan.forward_flops(shape, slots, height, width, frozen=frozen)

        def work(iteration: int, slots: Interval, frozen: int = 0, /) -> float:
            return flops(slots[1] - slots[0], frozen)

        widths, parts, remarks = Widths(settings.widths), [], []
        for frames, ready in segments(options):
            progress = wan.progress(
                frames, options.steps, ar_step=options.ar_step, pre_ready=ready, block=options.causal_block_size
            )
            schedule = Schedule.of(
                progress.table(make(options.steps, options.shift)),
                selective=method.selective(_block(options) > 0),
                widths=widths,
            )
            freezing, remark = _freezing(options, method, shape, schedule, branches)
            remarks += [remark] * bool(remark)
            parts.append(Part(schedule, work, lambda i, s: branches * (s[1] - s[0]), branches, freezing=freezing))
        flops(max(part.schedule.mask.shape[1] for part in parts))  # where it cannot be counted, that is said here
    except ValueError as error:
        raise UsageError(f"{options.host}: {error}") from error
    kept = FLOAT32 * shape.out_channels * height * width
    if method.level == "residual":
        # Tokens of 2 x 2 latents and the model's channels, in the dtype of its hidden states.
        kept = getattr(torch, options.dtype).itemsize * shape.dim * (height // 2) * (width // 2)
    kept *= method.predictor.keeps * branches * max(part.schedule.mask.shape[1] for part in parts)
    under_way = max(int(part.schedule.mask.sum(dim=1).max()) for part in parts)
    again = method.replays * UNIPC_KEEPS * FLOAT32 * shape.out_channels * height * width * under_way
    return Job(tuple(parts), method, method.signal, kept, again, feature, tuple(remarks), branches > 1)


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
    itemsize = getattr(torch, options.dtype).itemsize
    size = wan_keys.frame_bytes(
        shape,
        options.height // VAE_SPACE,
        options.width // VAE_SPACE,
        itemsize if own else wan_keys.BF16,
        itemsize,
        branches,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    freezing = Freezing.of(schedule, block, size, allowed(wanted, device))
    if not freezing.any:
        return None, ""
    why = refusal(schedule, options.addnoise_condition > 0, method.settings.widths)
    why = why or ("" if own or block else wan_keys.FLASH)
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
    done = base
    while done < total:
        frames = min(total - done + overlap, base)
        yield frames, overlap
        done += frames - overlap


def latent_frames(frames: int) -> int:
    """Latent frames of a video; the VAE packs four, and keeps the first alone."""
    return (frames - 1) // VAE_TIME + 1


def _model(options: argparse.Namespace) -> tuple[wan.WanShape, tuple[Feature, str] | None]:
    """The model's dimensions, and its timestep signal where its weights are at hand."""
    if options.weights is None:
        return wan.WanShape.named(options.model or SMALL), None
    checkpoint = Checkpoint.find(options.weights)
    feature, dim = modulation(checkpoint, options.host, options.fps, getattr(torch, options.dtype))
    config = checkpoint.config
    if options.model is not None:
        shape = wan.WanShape.named(options.model)
    elif config is not None:
        shape = wan.WanShape.from_config(config)
    else:
        shape = next((shape for shape in wan.NAMED.values() if shape.dim == dim), wan.NAMED[SMALL])
    if shape.dim != dim:
        says = f"--model {options.model} has" if options.model else "config.json says" if config else "--model needs"
        raise ValueError(f"the weights in {options.weights} are of {dim} channels, {says} {shape.dim}")
    return shape, (feature, TIME_MODULATION)


# --- MAGI-1: the walk along one video, from upstream's configuration file ---


def magi_1(options: argparse.Namespace, settings: Settings) -> Job:
    """Raises UsageError for a file that is no such configuration, or options with which the host would fail."""
    try:
        return _magi_1(json.loads(Path(options.config).read_text(encoding="utf-8")), options, settings)
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"--config {options.config} cannot be read: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"--config {options.config} is no MAGI-1 configuration: {error!r} is missing or wrong"
        ) from error
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
    offset = prefix // width
    walk = math.ceil(((options.num_frames or runtime["num_frames"]) // down + prefix) / width), window, steps, offset
    seen = {
        "ranges": runtime["noise2clean_kvrange"] if options.kv_ranges is None else options.kv_ranges,
        "clean": runtime["clean_chunk_kvrange"],
    }
    branches, mode = runtime["cfg_number"], engine["shortcut_mode"]
    guidance = zip(runtime["cfg_t_range"], runtime["prev_chunk_scales"], runtime["text_scales"], strict=True)
    rows = moving_window.rows(
        *walk[:3],
        moving_window.timesteps(steps, mode),
        offset,
        ranges=seen["ranges"],
        guidance=list(guidance) if branches == 3 else [],
        nearly_clean=engine["distill_nearly_clean_chunk_threshold"],
    )
    table = moving_window.window_table(rows, width)
    table.check()
    schedule = Schedule.of(table)
    size = [
        side // VAE_SPACE
        for side in (options.height or runtime["video_size_h"], options.width or runtime["video_size_w"])
    ]
    tokens = shape.chunk_tokens(width, *size)
    work = magi.window_flops(
        schedule, shape, tokens, moving_window.kv_ranges(*walk, **seen), options.text_tokens, branches
    )

    def forwarded(iteration: int, slots: Interval) -> int:
        return magi.runs(branches, *magi.window(schedule, iteration, slots, branches))[1]

    extra = 0.0
    if offset:
        reach = moving_window.prefix_kv_ranges(offset, **seen)
        extra = magi.dispatch_flops(shape, tokens, reach, magi.NULL_TOKENS, cfg_number=branches)
    host = known_host(options.host)
    method = method_of(settings, host.defaults_for(Size(chunked=True)))
    without_residual(host, method)
    signal = "timestep" if method.signal == "embedding" else method.signal  # the condition is the embedding there
    feature = None
    if signal == "timestep" and options.weights is not None and not method.placed:
        folder = f"inference_weight{'.fp8' if engine['fp8_quant'] else ''}{'.distill' if engine['distill'] else ''}"
        checkpoint = Checkpoint.find(options.weights, (folder,))
        feature = condition(host, checkpoint, steps, mode, distill=engine["distill"]), CONDITION
    kept = method.predictor.keeps * FLOAT32 * shape.out_channels * width * math.prod(size) * min(window, walk[0])
    remarks = () if settings.widths is None else (NO_WIDTHS,)
    again = method.replays * EULER_KEEPS * kept // method.predictor.keeps
    return Job(
        (Part(schedule, work, forwarded, branches, extra),), method, signal, kept, again, feature, remarks, branches > 1
    )
