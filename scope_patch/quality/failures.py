"""What is wrong with one video or with one file of latents, whatever it is compared with.

Each function returns what failed and where: an empty dict is a sound one.
"""

from __future__ import annotations

import torch
from torch import Tensor

SPREAD = 8  # grey levels: a frame whose every channel varies less is of one colour, after lossy coding too
STILL = 2  # grey levels: lossy coding changes equal frames by no more
RUN = 8  # frames: a third of a second; shorter stops are found in sound videos


def of_frames(frames: Tensor, run: int = RUN) -> dict[str, str]:
    """`black` and `frozen` of uint8 frames [F, H, W, 3].

    black: every frame is of nearly one colour, be it black, grey or green. frozen: `run` frames in a row, or all
    where there are fewer, equal the first of them; an unchanging scene counts, so look at the reference's failures.
    """
    found = {}
    channels = frames.flatten(1, 2)
    if int((channels.amax(1).int() - channels.amin(1).int()).max()) <= SPREAD:
        colour = channels.float().mean((0, 1)).round().int().tolist()
        found["black"] = f"all {len(frames)} frames are of one colour each, RGB {colour} in the mean"
    runs = [(start, end) for start, end in _runs(frames) if end - start >= max(2, min(run, len(frames)))]
    if runs:
        where = ", ".join(f"{start} to {end - 1}" for start, end in runs)
        found["frozen"] = f"frames {where} are equal"
    return found


def of_latents(latents: Tensor) -> dict[str, str]:
    """`non-finite` of a float tensor: NaN or infinity."""
    bad = int((~torch.isfinite(latents)).sum())
    return {"non-finite": f"{bad} of {latents.numel()} values are NaN or infinite"} if bad else {}


def _runs(frames: Tensor) -> list[tuple[int, int]]:
    """(first, behind the last) of each stretch whose frames equal its first one. Not its neighbour: fades are slow."""
    runs, start = [], 0
    for index in range(1, len(frames) + 1):
        if index == len(frames) or not _equal(frames[start], frames[index]):
            runs.append((start, index))
            start = index
    return runs


def _equal(a: Tensor, b: Tensor) -> bool:
    return int((a.int() - b.int()).abs().max()) <= STILL
