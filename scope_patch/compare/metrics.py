"""PSNR and SSIM of a video against a reference (scikit-image), of latents what is defined for them, and failures.

Frames are uint8 [F, H, W, 3]; latents are floats of any shape.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..errors import UsageError
from .read import extra

PEAK = 255.0  # the range of 8-bit frames
WINDOW = 7  # pixels a side, scikit-image's default
SPREAD = 8  # grey levels: a frame whose every channel varies less is of one colour, after lossy coding too
STILL = 2  # grey levels: lossy coding changes equal frames by no more
RUN = 8  # frames: a third of a second; shorter stops are found in sound videos


def psnr(reference: Tensor, video: Tensor) -> float:
    """Decibels over the whole video, from the mean squared error of all its frames; inf when they are equal."""
    return _decibels(statistics.fmean(_errors(reference, video)), PEAK)


def ssim(reference: Tensor, video: Tensor) -> float:
    """Structural similarity, the mean over frames; 1 when they are equal."""
    return statistics.fmean(_similarities(reference, video))


def per_frame(reference: Tensor, video: Tensor) -> dict[str, list[float]]:
    """`psnr` (dB) and `ssim` of every frame. The PSNR of a video is not the mean of its frames' PSNR."""
    decibels = [_decibels(error, PEAK) for error in _errors(reference, video)]
    return {"psnr": decibels, "ssim": _similarities(reference, video)}


def latent_psnr(reference: Tensor, latents: Tensor) -> float | None:
    """Decibels with the reference's largest minus smallest value as data range; None where that is 0 or not finite."""
    check(reference, latents)
    a, b = reference.double(), latents.double()
    span = (a.max() - a.min()).item()
    error = (a - b).square().mean().item()
    return _decibels(error, span) if span > 0 and math.isfinite(span) and math.isfinite(error) else None


def relative_error(reference: Tensor, latents: Tensor) -> float | None:
    """|latents - reference| / |reference|, L2 norms; None where that is not defined (a zero or a value not finite)."""
    check(reference, latents)
    norm = torch.linalg.vector_norm(reference.double()).item()
    error = torch.linalg.vector_norm(latents.double() - reference.double()).item()
    return error / norm if norm > 0 and math.isfinite(norm) and math.isfinite(error) else None


def failures(tensor: Tensor) -> dict[str, str]:
    """What is wrong with one video or one tensor of latents, whatever it is compared with: empty for a sound one.

    black: every frame is of nearly one colour, be it black, grey or green. frozen: RUN frames in a row, or all
    where there are fewer, equal the first of them; an unchanging scene counts, so look at the reference's failures.
    non-finite, of latents: NaN or infinity.
    """
    if tensor.is_floating_point():
        bad = int((~torch.isfinite(tensor)).sum())
        return {"non-finite": f"{bad} of {tensor.numel()} values are NaN or infinite"} if bad else {}
    found = {}
    channels = tensor.flatten(1, 2)
    if int((channels.amax(1).int() - channels.amin(1).int()).max()) <= SPREAD:
        colour = channels.float().mean((0, 1)).round().int().tolist()
        found["black"] = f"all {len(tensor)} frames are of one colour each, RGB {colour} in the mean"
    # Each frame is held against the first one that it equals, not against its neighbour: fades are slow.
    starts = [0]
    for index in range(1, len(tensor)):
        if int((tensor[starts[-1]].int() - tensor[index].int()).abs().max()) > STILL:
            starts.append(index)
    stops = zip(starts, [*starts[1:], len(tensor)], strict=True)
    if runs := [(start, end) for start, end in stops if end - start >= max(2, min(RUN, len(tensor)))]:
        found["frozen"] = f"frames {', '.join(f'{start} to {end - 1}' for start, end in runs)} are equal"
    return found


def check(reference: Tensor, other: Tensor, names: Sequence[object] = ("reference", "output")) -> None:
    """Raises UsageError, with both shapes, unless both are videos or both latents, of equal shape."""
    for tensor, name in zip((reference, other), names, strict=True):
        if not tensor.is_floating_point() and (tensor.dtype != torch.uint8 or tensor.ndim != 4 or tensor.shape[3] != 3):
            raise UsageError(f"{name} is {tensor.dtype} {list(tensor.shape)}; frames are uint8 [F, H, W, 3]")
        if not tensor.numel():
            raise UsageError(f"{name} is empty: {list(tensor.shape)}; there is nothing to compare")
    both = f"{names[0]} is {shown(reference)}, {names[1]} is {shown(other)}"
    if reference.is_floating_point() != other.is_floating_point():
        raise UsageError(f"{both}: frames are compared with frames, latents with latents; decode the latents first")
    if reference.shape != other.shape:
        raise UsageError(
            f"{both}: only equal lengths and sizes can be compared; make both with the same number of frames, height "
            "and width"
        )


def frames_of(reference: Tensor, video: Tensor, smallest: int, who: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of frames on the CPU. Raises UsageError unless both are videos, of equal shape and of `smallest` pixels a
    side or more."""
    check(reference, video)
    if reference.is_floating_point():
        raise UsageError(f"{who} is defined for frames, uint8 [F, H, W, 3]; here are {shown(reference)}")
    if min(reference.shape[1:3]) < smallest:
        raise UsageError(f"{who} needs frames of {smallest} x {smallest} pixels or more; here are {shown(reference)}")
    return zip(reference.cpu(), video.cpu(), strict=True)


def shown(tensor: Tensor) -> str:
    """`97 frames of 960 x 544`, or `latents [1, 16, 25, 68, 120]`."""
    if tensor.is_floating_point():
        return f"latents {list(tensor.shape)}"
    frames, height, width, _ = tensor.shape
    return f"{frames} frame{'s' if frames > 1 else ''} of {width} x {height}"


def _errors(reference: Tensor, video: Tensor) -> list[float]:
    measure = extra("skimage.metrics", "scikit-image").mean_squared_error
    return [float(measure(a.numpy(), b.numpy())) for a, b in frames_of(reference, video, 1, "PSNR")]


def _similarities(reference: Tensor, video: Tensor) -> list[float]:
    measure = extra("skimage.metrics", "scikit-image").structural_similarity
    pairs = frames_of(reference, video, WINDOW, "SSIM")
    return [float(measure(a.numpy(), b.numpy(), channel_axis=2, data_range=PEAK)) for a, b in pairs]


def _decibels(error: float, span: float) -> float:
    return math.inf if error == 0 else 10 * math.log10(span**2 / error)
