"""Schedules from options alone, as the hosts' loops make them: SkyReels-V2's staircase of latent frames, and MAGI-1's
window of chunks that moves along the video.

SkyReels-V2, both hosts (`generate_timestep_matrix` and the schedulers): blocks of latent frames stand at one noise
level; block k starts `ar_step` iterations behind block k - 1, and one whose predecessor is done goes on by itself.

MAGI-1 (`SampleTransport.forward_velocity` and `init_t`, SandAI-org/MAGI-1 @ 6ff822e): a chunk is denoised in `window`
stages of `steps // window` steps each; a new chunk enters at every stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from typing import NamedTuple

import torch
from packaging.version import InvalidVersion, Version
from torch import Tensor

from ..method.schedule import Interval, Table, update_mask
from .wan import TRAINED


def staircase(
    template: Sequence[float] | Tensor, frames: int, *, ar_step: int = 5, pre_ready: int = 0, block: int = 1
) -> Table:
    """What the host's loop does in one segment, all of which it forwards at every iteration.

    Args:
        template: timesteps of the denoise steps of a latent frame; cut to integers, as the host does.
        frames: latent frames of the segment. As with the host, those that fill no block are left out.
        ar_step: iterations between the starts of two blocks; 0 denoises them in step.
        pre_ready: leading latent frames that are given.
        block: latent frames a block.

    Raises ValueError where there is nothing to denoise, as the host would.
    """
    levels = torch.as_tensor(template).to("cpu").long()
    steps, blocks, ready = len(levels), frames // block, pre_ready // block
    # Progress of every block: 0 has not started, 1 .. steps is the denoise step of an iteration, steps + 1 is finished.
    row, rows = [steps + 1] * min(ready, blocks) + [0] * (blocks - ready), []
    while any(index < steps for index in row):
        following: list[int] = []
        for k, index in enumerate(row):
            led = k > 0 and row[k - 1] < steps
            following.append(max(following[-1] - ar_step, 0) if led else min(index + 1, steps + 1))
        rows.append(following)
        row = following
    if not rows:
        raise ValueError(f"nothing to denoise: {frames} latent frames, {pre_ready} of them given")
    found = torch.tensor(rows)
    mask = update_mask(found, steps, ready).repeat_interleave(block, dim=1)
    times = torch.cat([levels.new_tensor([999]), levels, levels.new_tensor([0])])[found.repeat_interleave(block, dim=1)]
    return Table(times, times / TRAINED, mask, [(0, blocks * block)] * len(rows))


def official_timesteps(steps: int, shift: float) -> list[int]:
    """`FlowUniPCMultistepScheduler.set_timesteps`, 999 .. 0, bit by bit.

    Both schedulers cut to integers at the end, where a last bit can make a whole timestep. numpy's `linspace` is
    `start + step * k`, in doubles.
    """
    top = torch.tensor(1 - 1 / TRAINED, dtype=torch.float32).item()  # kept in float32 there
    return [int(_shifted(top - top / steps * k, shift) * TRAINED) for k in range(steps)]


def diffusers_timesteps(steps: int, shift: float, version: str | None = None) -> list[int]:
    """`UniPCMultistepScheduler.set_timesteps` with `use_flow_sigmas` and this `flow_shift`.

    Args:
        version: of diffusers; None: the one that is installed here, or else a new one.
    """
    try:  # from 0.37 on, it starts at the noise level 1 and stops above 0
        old = Version(metadata.version("diffusers") if version is None else version) < Version("0.37")
    except (metadata.PackageNotFoundError, InvalidVersion):
        old = False
    end = 1 / TRAINED
    step = (end - 1) / steps
    if old:
        levels = [_shifted(1.0 - (end if k == steps else step * k + 1), shift) for k in range(steps, 0, -1)]
    else:
        levels = [min(_shifted(step * k + 1, shift), 1 - 1e-6) for k in range(steps)]
    return [int(level * TRAINED) for level in levels]


def _shifted(level: float, shift: float) -> float:
    return shift * level / (1 + (shift - 1) * level)


class Step(NamedTuple):
    """One denoise step of MAGI-1's window.

    Attributes:
        stage: number of the stage.
        start, end: the chunks [start, end) are denoised.
        indices, timesteps: of each of them, oldest first: which denoise step it is at, and the host's timestep.
        clean_prefix: clean chunks (0 or 1) right before these that are forwarded along, to cache their keys and values.
        seen: the chunks [first, last) that each chunk attends to, the clean one's first.
    """

    stage: int
    start: int
    end: int
    indices: tuple[int, ...]
    timesteps: tuple[float, ...]
    clean_prefix: int
    seen: Sequence[Interval] = ()


def walk(
    chunks: int,
    window: int,
    steps: int,
    offset: int = 0,
    *,
    shortcut_mode: str = "8,16,16",
    ranges: Sequence[int] = (),
    clean: int = -1,
) -> Iterator[Step]:
    """Every step of a generation.

    Args:
        chunks: of the whole video, those of a prefix included.
        window: chunks denoised at once (`window_size`).
        steps: denoise steps of a chunk (`num_steps`).
        offset: chunks of a prefix that are not denoised.
        shortcut_mode: as of `magi_timesteps`.
        ranges: `noise2clean_kvrange`: chunks seen, itself included, from the noisiest stage on; all if empty.
        clean: `clean_chunk_kvrange`, for the clean prefix; -1 stands for the last of `ranges`. It has no say without.

    Raises ValueError for a window wider than the steps, an offset outside the video, or steps that are no multiple of
    the number of `ranges`.
    """
    if not 1 <= window <= steps or not 0 <= offset < chunks:
        raise ValueError(f"no window of {window} chunks and {steps} steps over chunks [{offset}, {chunks})")
    if ranges and steps % len(ranges):
        raise ValueError(f"{steps} steps do not divide into {len(ranges)} ranges")
    length, levels = steps // window, magi_timesteps(steps, shortcut_mode)
    reaches = ranges or [chunks]
    before = reaches[-1] if clean == -1 or not ranges else clean
    for stage in range(chunks - offset + window - 1):
        newest = offset + stage  # the chunk that enters, were there one
        start, end = max(offset, newest - window + 1), min(chunks, newest + 1)
        for position in range(length):
            indices = tuple((newest - chunk) * length + position for chunk in range(start, end))
            timesteps, prefix = tuple(levels[index] for index in indices), int(start > offset and position == 0)
            reach = [before] * prefix + [reaches[index * len(reaches) // steps] for index in indices]
            yield Step(stage, start, end, indices, timesteps, prefix, _ranges(start - prefix, reach))


def window_table(
    walked: Iterable[Step],
    frames: int,
    steps: int,
    *,
    ranges: Sequence[int] = (),
    guidance: Sequence[tuple[float, float, float]] = (),
    nearly_clean: float = 0.3,
) -> Table:
    """What the loop of these steps does; a slot is a chunk, numbered over the whole video.

    Velocities hang on the stage (which chunks are there), on how far each chunk looks back, how it is guided, and on
    whether the oldest one is blended, which is what contexts are.

    Args:
        frames: latent frames a chunk.
        steps: denoise steps of a chunk.
        ranges: `noise2clean_kvrange`.
        guidance: (`cfg_t_range`, `prev_chunk_scales`, `text_scales`) row by row; none without guidance.
        nearly_clean: `distill_nearly_clean_chunk_threshold`.

    Raises ValueError where a step does not have one timestep a chunk.
    """
    walked, contexts = list(walked), []
    mask = torch.zeros(len(walked), max((step.end for step in walked), default=0), dtype=torch.bool)
    timesteps = torch.zeros(mask.shape, dtype=torch.float64)
    for i, step in enumerate(walked):
        if len(step.timesteps) != step.end - step.start:
            raise ValueError(f"step {i}: {len(step.timesteps)} timesteps for chunks [{step.start}, {step.end})")
        mask[i, step.start : step.end] = True
        timesteps[i, step.start : step.end] = torch.tensor(step.timesteps, dtype=torch.float64)
        reach = tuple(index * max(len(ranges), 1) // steps for index in reversed(step.indices))
        scales = tuple(_scales(guidance, t) for t in step.timesteps) if guidance else ()
        contexts.append((step.stage, reach, scales, step.timesteps[0] > nearly_clean))
    intervals, prefixes = [(step.start, step.end) for step in walked], [step.clean_prefix for step in walked]
    return Table(timesteps, 1 - timesteps, mask, intervals, prefixes, contexts, frames, moving=True)


def _scales(guidance: Sequence[tuple[float, float, float]], t: float) -> tuple[float, float]:
    """`VideoDiTModel.get_cfg_scale`: the last range that has begun, of previous chunks and text."""
    row = sum(start - 1e-7 < t for start, _, _ in guidance) - 1
    return guidance[row][1:]


def prefix_kv_ranges(offset: int, *, ranges: Sequence[int] = (), clean: int = -1) -> list[Interval]:
    """What each chunk of a prefix attends to in the forward that caches it; arguments as of `walk`."""
    reach = clean if clean != -1 else ranges[-1] if ranges else 8  # itself included
    return _ranges(0, [reach] * offset)


def _ranges(first: int, reach: Sequence[int]) -> list[Interval]:
    """Of consecutive chunks from `first` on, each reaching back so many chunks, itself included."""
    return [(max(0, chunk + 1 - back), chunk + 1) for chunk, back in enumerate(reach, start=first)]


def magi_timesteps(steps: int, shortcut_mode: str = "8,16,16") -> list[float]:
    """Timesteps of a chunk, 0 (noise) .. 1 (clean), `steps + 1` of them; equal to upstream's `init_t` on a CPU.

    Args:
        steps: uniform before the shift, but 12: those are the shortcut's, of two sizes.
        shortcut_mode: "16,16,8" or "8,16,16"; the order of the two sizes. Read for 12 steps only.
    """
    if steps == 12:
        quarters = torch.linspace(0, 1, 5)
        sizes = quarters[:3] if shortcut_mode == "16,16,8" else quarters[[0, 2, 3]]
        t = (quarters[:, None] + sizes / 4).flatten()[: steps + 1]
    else:
        t = torch.linspace(0, 1, steps + 1)
    t, shift = t**2, 1 / 3.0
    shifted: list[float] = (shift * t / (1 + (shift - 1) * t)).tolist()
    return shifted
