"""SkyReels-V2, both hosts: segments and their schedules from the options of generate_video_df.py."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch

from ..cost.wan import WanShape, forward_flops
from ..errors import UsageError
from ..method.asked import Terms
from ..method.asynchronous import progress
from ..method.schedule import Interval, build
from ..settings import Settings
from .job import Job, Part, known_architecture

VAE_TIME, VAE_SPACE = 4, 8
KEPT, FLOAT32 = 3, 4
"""Velocities kept a guidance branch, and their bytes a number."""


def job(options: argparse.Namespace, settings: Settings) -> Job:
    """Raises UsageError for options with which the host would fail."""
    architecture = known_architecture(options.host)
    try:
        shape = WanShape.named(options.model)
        parts = tuple(_part(options, settings, shape, frames, ready) for frames, ready in segments(options))
    except ValueError as error:
        raise UsageError(f"{options.host}: {error}") from error
    branches = 2 if options.guidance_scale > 1 else 1
    height, width = options.height // VAE_SPACE, options.width // VAE_SPACE
    slots = max(part.schedule.mask.shape[1] for part in parts)
    kept = KEPT * FLOAT32 * branches * shape.out_channels * slots * height * width
    return Job(parts, Terms(architecture.presets, architecture.placement), architecture.signal, kept)


def segments(options: argparse.Namespace) -> Iterator[tuple[int, int]]:
    """(latent frames, those that are given) of every segment; `DiffusionForcingPipeline.__call__`."""
    total, base = latent_frames(options.num_frames), latent_frames(options.base_num_frames)
    if options.overlap_history is None or total <= base:
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


def timesteps(steps: int, shift: float) -> torch.Tensor:
    """`FlowUniPCMultistepScheduler.set_timesteps` with the scheduler's own range, int64 [steps]."""
    sigma = torch.linspace(0.999, 0, steps + 1, dtype=torch.float64)[:-1]
    return (shift * sigma / (1 + (shift - 1) * sigma) * 1000).long()


def _part(options: argparse.Namespace, settings: Settings, shape: WanShape, frames: int, ready: int) -> Part:
    base = min(frames, latent_frames(options.base_num_frames))
    made = progress(
        frames,
        options.steps,
        base=base,
        ar_step=options.ar_step,
        pre_ready=ready,
        block=options.causal_block_size,
    )
    times = made.timesteps(timesteps(options.steps, options.shift))
    selective = settings.selective and settings.policy != "never"
    schedule = build(made.mask, times, times / 1000, made.intervals, selective=selective)
    height, width = options.height // VAE_SPACE, options.width // VAE_SPACE
    branches = 2 if options.guidance_scale > 1 else 1
    costs: dict[int, int] = {}

    def work(iteration: int, slots: Interval) -> float:
        size = slots[1] - slots[0]
        if size not in costs:
            costs[size] = branches * forward_flops(shape, size, height, width)
        return costs[size]

    return Part(schedule, work, lambda iteration, slots: branches * (slots[1] - slots[0]), branches)
