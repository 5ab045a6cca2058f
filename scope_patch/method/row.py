"""One step of a moving window of chunks, as registry files state it. Imports no torch: `list` and `run` read those."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One denoise step of a window.

    Attributes:
        start, end: the chunks [start, end) are denoised.
        timesteps: the host's timestep of each of them, oldest first.
        lead: clean chunks right before `start` that are forwarded along, so that their keys and values get cached.
    """

    start: int
    end: int
    timesteps: tuple[float, ...]
    lead: int = 0
