"""One step of a moving window of chunks, as registry files state it. Imports no torch: `list` and `run` read those."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One denoise step of a window.

    Attributes:
        start, end: the chunks [start, end) are denoised.
        timesteps: the host's timestep of each of them, oldest first.
        context: what the velocities hang on beside latents and timesteps (which chunks are seen, how strong the
            guidance is). Velocities of different contexts are not of one curve.
        lead: clean chunks right before `start` that are forwarded along, so that their keys and values get cached.
    """

    start: int
    end: int
    timesteps: tuple[float, ...]
    context: Hashable = None
    lead: int = 0
