"""What a path names, as one tensor: frames of a video (uint8), or latents (floats)."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ..errors import UsageError
from . import latents, video

KINDS = f"a video ({', '.join(video.ENDINGS)}), a folder of .png, one .png, or latents ({', '.join(latents.ENDINGS)})"


def read(path: Path) -> Tensor:
    """uint8 [F, H, W, 3] of a video, or a float tensor of any shape of latents.

    Raises UsageError for what is not there, is of another kind, is damaged, or is not safe to read.
    """
    try:
        return _read(path)
    except OSError as error:  # no permission, a disk that fails
        raise UsageError(f"{path} cannot be read ({error}); see whether it is yours to read") from error


def is_video(tensor: Tensor) -> bool:
    """Whether `read` gave frames, and not latents."""
    return not tensor.is_floating_point()


def _read(path: Path) -> Tensor:
    if not path.exists():
        raise UsageError(f"there is no {path}; give {KINDS}")
    if path.is_dir():
        return video.from_folder(path)
    ending = path.suffix.lower()
    if ending == ".png":
        return video.from_pngs([path])
    if ending in video.ENDINGS:
        return video.from_file(path)
    if ending in latents.ENDINGS:
        return latents.from_file(path)
    raise UsageError(f"{path} ends in {ending or 'nothing'}, which is no kind that is read here; give {KINDS}")
