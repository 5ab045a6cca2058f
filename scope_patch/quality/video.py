"""Frames of a video: uint8 [F, H, W, 3], RGB, from MP4 and its like (ffmpeg), GIF or PNG (Pillow)."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from .extras import extra

ENDINGS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif")
_DEEP = ("I", "F")  # Pillow's names for more than 8 bits a channel begin so
_PPM = re.compile(rb"P6\s(\d+)\s(\d+)\s255\s")


def from_file(path: Path) -> Tensor:
    """All frames of a video file. Raises UsageError when it cannot be decoded from first to last."""
    if path.suffix.lower() == ".gif":
        return _stack(_pictures(path, "GIF"), path)
    return _stack(_ffmpeg(path), path)


def from_folder(folder: Path) -> Tensor:
    """The folder's PNGs in the order of the numbers in their names (2 before 10). Raises UsageError."""
    paths = sorted((path for path in folder.iterdir() if path.suffix.lower() == ".png"), key=_by_number)
    if not paths:
        raise UsageError(f"the folder {folder} has no .png in it; a video is its frames as PNG, one file a frame")
    return from_pngs(paths)


def from_pngs(paths: Sequence[Path]) -> Tensor:
    """One frame a file; transparency is dropped. Raises UsageError for damage, 16 bits, or two sizes."""
    return _stack((frame for path in paths for frame in _pictures(path, "PNG")), *paths)


def _pictures(path: Path, kind: str) -> Iterator[Tensor]:
    images, sequences = extra("PIL.Image", "pillow"), extra("PIL.ImageSequence", "pillow")
    numpy = extra("numpy", "numpy")
    try:
        with images.open(path, formats=[kind]) as image:
            for frame in sequences.Iterator(image):
                if frame.mode.startswith(_DEEP):
                    raise ValueError(f"more than 8 bits a channel, Pillow's mode {frame.mode}: save it with 8")
                yield torch.from_numpy(numpy.array(frame.convert("RGB")))
    except Exception as error:  # a decoder raises nearly everything: OSError, SyntaxError, ValueError, zlib.error, ...
        raise _undecodable(path, str(error) or type(error).__name__) from error


def _ffmpeg(path: Path) -> Iterator[Tensor]:
    """Frames as they are stored, none doubled or dropped for a steady rate.

    ffmpeg itself, and not imageio: that one takes the frames before a cut for the whole video, here a fault ends it.
    """
    try:
        program = extra("imageio_ffmpeg", "imageio-ffmpeg").get_ffmpeg_exe()
    except RuntimeError as error:  # a platform that its wheels do not cover
        raise UsageError(
            f"there is no ffmpeg ({error}); install one, or give the frames as a folder of .png"
        ) from error
    command = [program, "-nostdin", "-v", "error", "-xerror"]
    command += ["-protocol_whitelist", "file", "-i", f"file:{path.resolve()}"]  # a playlist in disguise fetches nothing
    command += ["-map", "0:v:0", "-fps_mode", "passthrough", "-f", "image2pipe", "-c:v", "ppm", "pipe:1"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or [f"ffmpeg exited with {done.returncode}"]
        raise _undecodable(path, re.sub(r"^\[[^]]*\] ", "", said[0]))
    data, at = memoryview(done.stdout), 0
    while found := _PPM.match(data, at):
        width, height = int(found[1]), int(found[2])
        at = found.end() + width * height * 3
        yield torch.frombuffer(bytearray(data[found.end() : at]), dtype=torch.uint8).view(height, width, 3)


def _undecodable(path: Path, reason: str) -> UsageError:
    return UsageError(
        f"{path} cannot be decoded ({reason}); it is damaged, incomplete or of another kind than its ending says: "
        "write it again"
    )


def _stack(frames: Iterable[Tensor], *paths: Path) -> Tensor:
    """The frames in one tensor. Raises UsageError for none, and for two sizes."""
    kept: list[Tensor] = []
    for index, frame in enumerate(frames):
        if kept and frame.shape != kept[0].shape:
            raise UsageError(
                f"{paths[0]} is {_size(kept[0])} pixels, but {paths[min(index, len(paths) - 1)]} is {_size(frame)}: "
                "all frames of a video have one size; take out what does not belong to it"
            )
        kept.append(frame)
    if not kept:
        raise UsageError(f"{paths[0]} has no frames in it; write it again")
    return torch.stack(kept)


def _size(frame: Tensor) -> str:
    return f"{frame.shape[1]} x {frame.shape[0]}"


def _by_number(path: Path) -> list[Any]:
    """Names by their numbers, where they have some: frame_2 before frame_10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", path.name)]
