"""Schedules of diffusion forcing (SkyReels-V2, both hosts) from their options: timesteps, and a staircase of blocks.

What `generate_timestep_matrix` and the schedulers (SkyworkAI/SkyReels-V2 @ abed76f, and diffusers') make of them.
Blocks of latent frames stand at one noise level; block k starts `ar_step` iterations behind block k - 1, and one whose
predecessor is done goes on by itself.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

import torch
from packaging.version import InvalidVersion, Version
from torch import Tensor

from ..method.schedule import Interval, Table, update_mask

TRAINED = 1000
"""Timesteps of training (`num_train_timesteps`)."""
NEW_RANGE = Version("0.37")
"""From this diffusers on, `UniPCMultistepScheduler` starts at the noise level 1 and stops above 0."""
SHY = 1e-6
"""By which that scheduler stays below 1."""


@dataclass(frozen=True)
class Progress:
    """One segment of asynchronous diffusion forcing, before anything runs.

    What `generate_timestep_matrix` (of both hosts) makes of its options. Blocks of latent frames stand at one noise
    level; block k starts `ar_step` iterations behind block k - 1, and one whose predecessor is done goes on by itself.

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
        steps = torch.as_tensor(template).to("cpu").long()
        return torch.cat([steps.new_tensor([999]), steps, steps.new_tensor([0])])[self.index]

    def table(self, template: Sequence[float] | Tensor) -> Table:
        """What the host's loop does with these steps."""
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
