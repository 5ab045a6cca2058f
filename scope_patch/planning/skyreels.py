"""SkyReels-V2, both hosts: segments and their schedules from the options of generate_video_df.py."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

import torch

from ..cost.wan import NAMED, WanShape, forward_flops
from ..errors import UsageError
from ..method import policies, predictors
from ..method.asynchronous import progress
from ..method.policies.traits import Size, traits
from ..method.schedule import Interval, Schedule, Table
from ..method.widths import Widths
from ..settings import Settings
from .job import Job, Known, Part, known_architecture
from .modulation import TIME_MODULATION, modulation
from .timesteps import diffusers, official
from .weights import Checkpoint

DIFFUSERS = "skyreels-v2-diffusers"
TIMESTEPS = {"skyreels-v2": official, DIFFUSERS: diffusers}
SMALL = "1.3B"
VAE_TIME, VAE_SPACE = 4, 8
FLOAT32 = 4
"""Bytes a number of a velocity."""


def job(options: argparse.Namespace, settings: Settings) -> Job:
    """Raises UsageError for options with which the host would fail, or weights that cannot be used."""
    architecture = known_architecture(options.host)
    signal = settings.signal or traits(policies.create(settings)).signal or architecture.signal
    if signal == "latent":
        raise UsageError(f"{options.host}: --signal latent is for MAGI-1; take timestep or expected")
    try:
        shape, timestep = _model(options)
        if options.text_tokens is not None:
            shape = replace(shape, text_tokens=options.text_tokens)
        widths = Widths(settings.widths)
        parts = tuple(_part(options, settings, shape, widths, *segment) for segment in segments(options))
    except ValueError as error:
        raise UsageError(f"{options.host}: {error}") from error
    branches = 2 if options.guidance_scale > 1 else 1
    height, width = options.height // VAE_SPACE, options.width // VAE_SPACE
    slots = max(part.schedule.mask.shape[1] for part in parts)
    kept = FLOAT32 * shape.out_channels * height * width
    wanted = traits(policies.create(settings))
    residual = (settings.level or wanted.level) == "residual"
    if residual:
        # Tokens of 2 x 2 latents and the model's channels, in the dtype of its hidden states.
        kept = getattr(torch, options.dtype).itemsize * shape.dim * (height // 2) * (width // 2)
    points = predictors.create(wanted.predictor or settings.predictor).keeps
    kept *= points * branches * slots
    return Job(
        parts,
        architecture.terms(settings, Size(shape.dim, shape.layers)),
        signal,
        kept,
        points,
        timestep,
        "residuals" if residual else "velocities",
    )


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


def _model(options: argparse.Namespace) -> tuple[WanShape, Known | None]:
    """The model's dimensions, and its timestep signal where its weights are at hand."""
    if options.weights is None:
        return WanShape.named(options.model or SMALL), None
    checkpoint = Checkpoint.find(options.weights)
    feature, dim = modulation(checkpoint, options.host, options.fps, getattr(torch, options.dtype))
    config = checkpoint.config
    if options.model is not None:
        shape = WanShape.named(options.model)
    elif config is not None:
        shape = WanShape.from_config(config)
    else:
        shape = next((shape for shape in NAMED.values() if shape.dim == dim), NAMED[SMALL])
    if shape.dim != dim:
        told = f"--model {options.model} has" if options.model else "config.json says" if config else "--model needs"
        raise ValueError(f"the weights in {options.weights} are of {dim} channels, {told} {shape.dim}")
    return shape, Known(feature, TIME_MODULATION)


def _part(
    options: argparse.Namespace, settings: Settings, shape: WanShape, widths: Widths, frames: int, ready: int
) -> Part:
    made = progress(
        frames,
        options.steps,
        ar_step=options.ar_step,
        pre_ready=ready,
        block=options.causal_block_size,
    )
    times = made.timesteps(TIMESTEPS[options.host](options.steps, options.shift))
    policy = policies.create(settings)
    selective = settings.selective and policy.active and not traits(policy).own
    table = Table(times, times.double() / 1000, made.mask, made.intervals)
    schedule = Schedule.of(table, selective=selective, widths=widths)
    height, width = options.height // VAE_SPACE, options.width // VAE_SPACE
    branches = 2 if options.guidance_scale > 1 else 1
    costs: dict[int, int] = {}

    def work(iteration: int, slots: Interval) -> float:
        size = slots[1] - slots[0]
        if size not in costs:
            costs[size] = branches * forward_flops(shape, size, height, width)
        return costs[size]

    return Part(schedule, work, lambda iteration, slots: branches * (slots[1] - slots[0]), branches)
