"""Two files compared: all that is known of them, in one value."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ..errors import UsageError
from . import failures, lpips, metrics, weights
from .read import is_video


@dataclass(frozen=True)
class Side:
    """One file: where it lies, what is in it, and what failed in it (empty: nothing)."""

    path: Path
    tensor: Tensor
    failures: dict[str, str]


@dataclass
class Comparison:
    """In `total` and for every frame in `frames`, by metric; None: not defined here. `remarks` say what is missing."""

    reference: Side
    output: Side
    total: dict[str, float | None] = field(default_factory=dict)
    frames: dict[str, list[float]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def side(path: Path, tensor: Tensor) -> Side:
    return Side(path, tensor, failures.of_frames(tensor) if is_video(tensor) else failures.of_latents(tensor))


def compare(reference: Side, output: Side, with_lpips: bool | None = None) -> Comparison:
    """All metrics of two videos, or of two files of latents. `with_lpips`: None gives LPIPS where it can be given.

    Raises UsageError for different kinds, lengths or sizes, and where LPIPS is asked for and cannot be given.
    """
    metrics.check(reference.tensor, output.tensor, (reference.path, output.path))
    made = Comparison(reference, output)
    if not is_video(reference.tensor):
        if with_lpips:
            raise UsageError("LPIPS looks at pictures, and these are latents: leave out --lpips, or decode them first")
        made.total["psnr"] = metrics.latent_psnr(reference.tensor, output.tensor)
        made.total["relative_l2"] = metrics.relative_error(reference.tensor, output.tensor)
        if None in made.total.values():
            made.remarks.append("what is not given is not defined: values not finite, or a constant reference")
        return made
    distance = None if with_lpips is False else _distance(made, asked=bool(with_lpips))
    made.frames = metrics.per_frame(reference.tensor, output.tensor)
    made.total = {
        "psnr": metrics.psnr(reference.tensor, output.tensor),
        "ssim": statistics.fmean(made.frames["ssim"]),
    }
    if distance is not None:
        made.frames["lpips"] = distance(reference.tensor, output.tensor).tolist()
        made.total["lpips"] = statistics.fmean(made.frames["lpips"])
    return made


def _distance(made: Comparison, asked: bool) -> lpips.Lpips | None:
    """LPIPS, where it can be given; else a remark says why not, or, where it was asked for, a UsageError."""
    distance = lpips.load()
    if distance is None:
        obstacle = f"LPIPS is not given: its weights are not installed; to get them: {weights.INSTALL}"
    elif min(made.reference.tensor.shape[1:3]) < lpips.SMALLEST:
        obstacle = f"LPIPS is not given: it needs frames of {lpips.SMALLEST} x {lpips.SMALLEST} pixels or more"
    else:
        return distance
    if asked:
        raise UsageError(obstacle)
    made.remarks.append(obstacle)
    return None
