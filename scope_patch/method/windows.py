"""Schedules of hosts that denoise a window of chunks which moves along the video (MAGI-1).

A slot is a chunk of latent frames, numbered over the whole video; its latent frames all stand at one noise level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .row import Row
from .schedule import Schedule


def build(rows: Sequence[Row], frames: int, noise_level: Callable[[Tensor], Tensor]) -> Schedule:
    """The schedule of all steps.

    Args:
        frames: latent frames a chunk.
        noise_level: the host's timestep -> sigma in 0 (clean) .. 1 (noise).

    Raises ValueError where a row does not have one timestep a chunk, they rise along the window, or it moves backwards.
    Hosts' timesteps run from 0 (noise) to 1 (clean).
    """
    slots = max((row.end for row in rows), default=0)
    mask = torch.zeros(len(rows), slots, dtype=torch.bool)
    timesteps = torch.zeros(len(rows), slots, dtype=torch.float64)
    before = Row(0, 0, ())
    for i, row in enumerate(rows):
        if len(row.timesteps) != row.end - row.start or not 0 <= row.lead <= row.start:
            raise ValueError(f"step {i}: {len(row.timesteps)} timesteps for chunks [{row.start}, {row.end})")
        if row.start < before.start or row.end < before.end:
            raise ValueError(f"step {i}: the window moves back from [{before.start}, {before.end})")
        if any(after > older for older, after in pairwise(row.timesteps)):
            raise ValueError(f"step {i}: chunks do not come cleanest first, their timesteps are {row.timesteps}")
        mask[i, row.start : row.end] = True
        timesteps[i, row.start : row.end] = torch.tensor(row.timesteps, dtype=torch.float64)
        before = row
    windows = [(row.start, row.end) for row in rows]
    return Schedule(
        mask=mask,
        timesteps=timesteps,
        noise_levels=noise_level(timesteps),
        ends=[row.end for row in rows],
        intervals=windows,
        baseline=[(row.start - row.lead, row.end) for row in rows],
        selective=False,
        leads=[row.lead for row in rows],
        contexts=[row.context for row in rows],
        frames=frames,
    )
