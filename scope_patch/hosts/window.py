"""Schedules of a window of chunks that moves along the video (MAGI-1), from its options.

What `SampleTransport.forward_velocity` and `init_t` (SandAI-org/MAGI-1 @ 6ff822e) make of them. A chunk is denoised in
`window` stages of `steps // window` steps each; a new chunk enters at every stage.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..method.schedule import Interval, Table

PREFIX_REACH = 8
"""Chunks that a chunk of a prefix sees, itself included, where no ranges are set."""


@dataclass(frozen=True)
class Row:
    """One denoise step of a window.

    Attributes:
        start, end: the chunks [start, end) are denoised.
        timesteps: the host's timestep of each of them, oldest first.
        context: what the velocities hang on beside latents and timesteps (which chunks are seen, how strong the
            guidance is). Velocities of different contexts are not of one curve.
        clean_prefix: clean chunks right before `start` that are forwarded along, to cache their keys and values.
    """

    start: int
    end: int
    timesteps: tuple[float, ...]
    context: Hashable = None
    clean_prefix: int = 0


def window_table(rows: Sequence[Row], frames: int) -> Table:
    """What the loop of these steps does; a slot is a chunk, numbered over the whole video.

    Args:
        frames: latent frames a chunk.

    Raises ValueError where a row does not have one timestep a chunk.
    """
    mask = torch.zeros(len(rows), max((row.end for row in rows), default=0), dtype=torch.bool)
    timesteps = torch.zeros(mask.shape, dtype=torch.float64)
    for i, row in enumerate(rows):
        if len(row.timesteps) != row.end - row.start:
            raise ValueError(f"step {i}: {len(row.timesteps)} timesteps for chunks [{row.start}, {row.end})")
        mask[i, row.start : row.end] = True
        timesteps[i, row.start : row.end] = torch.tensor(row.timesteps, dtype=torch.float64)
    return Table(
        timesteps,
        1 - timesteps,
        mask,
        [(row.start, row.end) for row in rows],
        [row.clean_prefix for row in rows],
        [row.context for row in rows],
        frames,
        moving=True,
    )


class Step(NamedTuple):
    """One step of the window.

    `stage` numbers the stages; chunks [start, end) are at the denoise steps `indices`, oldest chunk first;
    `clean_prefix` (0 or 1) chunks before them go along, clean.
    """

    stage: int
    start: int
    end: int
    indices: tuple[int, ...]
    clean_prefix: int


def walk(chunks: int, window: int, steps: int, offset: int = 0) -> Iterator[Step]:
    """Every step of a generation of chunks [offset, chunks); see `rows` for the arguments and errors."""
    if not 1 <= window <= steps or not 0 <= offset < chunks:
        raise ValueError(f"no window of {window} chunks and {steps} steps over chunks [{offset}, {chunks})")
    length = steps // window
    for stage in range(chunks - offset + window - 1):
        newest = offset + stage  # the chunk that enters, were there one
        start, end = max(offset, newest - window + 1), min(chunks, newest + 1)
        for position in range(length):
            indices = tuple((newest - chunk) * length + position for chunk in range(start, end))
            yield Step(stage, start, end, indices, int(start > offset and position == 0))


def rows(
    chunks: int,
    window: int,
    steps: int,
    timesteps: Sequence[float],
    offset: int = 0,
    *,
    ranges: Sequence[int] = (),
    guidance: Sequence[tuple[float, float, float]] = (),
    nearly_clean: float = 0.3,
) -> list[Row]:
    """Every step of a generation.

    Args:
        chunks: of the whole video, those of a prefix included.
        window: chunks denoised at once (`window_size`).
        steps: denoise steps of a chunk (`num_steps`).
        timesteps: `steps + 1` of them, 0 (noise) .. 1 (clean); see `timesteps`.
        offset: chunks of a prefix that are not denoised.
        ranges: `noise2clean_kvrange`.
        guidance: (`cfg_t_range`, `prev_chunk_scales`, `text_scales`) row by row; none without guidance.
        nearly_clean: `distill_nearly_clean_chunk_threshold`.

    Returns:
        Rows whose `context` is that of `context`.

    Raises ValueError for a window wider than the steps, an offset outside the video, or another number of timesteps.
    """
    if len(timesteps) != steps + 1:
        raise ValueError(f"{len(timesteps)} timesteps for {steps} steps")
    out = []
    for step in walk(chunks, window, steps, offset):
        levels = tuple(float(timesteps[index]) for index in step.indices)
        seen = context(step.stage, levels, step.indices, steps, len(ranges), guidance, nearly_clean)
        out.append(Row(step.start, step.end, levels, seen, step.clean_prefix))
    return out


def context(
    stage: int,
    timesteps: Sequence[float],
    indices: Sequence[int],
    steps: int,
    ranges: int,
    guidance: Sequence[tuple[float, float, float]],
    nearly_clean: float,
) -> tuple[int, tuple[int, ...], tuple[tuple[float, float], ...], bool]:
    """What a window's velocities hang on: the stage (which chunks are there), how far each chunk looks back, how it is
    guided, and whether the oldest is blended.

    Args:
        timesteps, indices: of the chunks, oldest first: the host's timestep, and which denoise step it is.
        ranges: number of `noise2clean_kvrange`; the others are as of `rows`.
    """
    reach = tuple(index * (ranges or 1) // steps for index in reversed(indices))
    scales = tuple(_scales(guidance, t) for t in timesteps) if guidance else ()
    return stage, reach, scales, timesteps[0] > nearly_clean


def kv_ranges(
    chunks: int, window: int, steps: int, offset: int = 0, *, ranges: Sequence[int] = (), clean: int = -1
) -> list[list[Interval]]:
    """For every step, the chunks [first, last) that each chunk in [start - clean_prefix, end) attends to.

    Args:
        ranges: `noise2clean_kvrange`: chunks seen, itself included, from the noisiest stage on; all if empty.
        clean: `clean_chunk_kvrange`, for the clean prefix; -1 stands for the last of `ranges`. It has no say without.

    Raises ValueError where `rows` does, and where `steps` is no multiple of the number of `ranges`.
    """
    if ranges and steps % len(ranges):
        raise ValueError(f"{steps} steps do not divide into {len(ranges)} ranges")
    reaches = ranges or [chunks]
    before = reaches[-1] if clean == -1 or not ranges else clean
    return [
        _ranges(
            step.start - step.clean_prefix,
            [before] * step.clean_prefix + [reaches[index * len(reaches) // steps] for index in step.indices],
        )
        for step in walk(chunks, window, steps, offset)
    ]


def prefix_kv_ranges(offset: int, *, ranges: Sequence[int] = (), clean: int = -1) -> list[Interval]:
    """What each chunk of a prefix attends to in the forward that caches it; arguments as of `kv_ranges`."""
    reach = clean if clean != -1 else ranges[-1] if ranges else PREFIX_REACH
    return _ranges(0, [reach] * offset)


def timesteps(steps: int, shortcut_mode: str = "8,16,16") -> list[float]:
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


def _ranges(first: int, reach: Sequence[int]) -> list[Interval]:
    """Of consecutive chunks from `first` on, each reaching back so many chunks, itself included."""
    return [(max(0, chunk + 1 - back), chunk + 1) for chunk, back in enumerate(reach, start=first)]


def _scales(guidance: Sequence[tuple[float, float, float]], t: float) -> tuple[float, float]:
    """`VideoDiTModel.get_cfg_scale`: the last range that has begun, of previous chunks and text."""
    row = sum(start - 1e-7 < t for start, _, _ in guidance) - 1
    return guidance[row][1:]
