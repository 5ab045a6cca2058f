"""What a path names, as one tensor: frames of a video (uint8), or latents (floats). Nothing in a file is ever run."""

from __future__ import annotations

import importlib
import pickle
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif")
LATENTS = (".pt", ".pth", ".safetensors")
_KINDS = f"a video ({', '.join(VIDEOS)}), a folder of .png, one .png, or latents ({', '.join(LATENTS)})"
_PPM = re.compile(rb"P6\s(\d+)\s(\d+)\s255\s")
ZIP = b"PK\x03\x04"  # what torch.save has written since 1.6 begins so


def read(path: Path) -> Tensor:
    """uint8 [F, H, W, 3], RGB, of a video, or a float tensor of any shape of latents, on the CPU.

    PNGs of a folder are taken in the order of the numbers in their names (2 before 10), transparency is dropped; of
    several latents in a file, those named `latents`. Raises UsageError for what is not there, is of another kind, is
    damaged, has two sizes or more than 8 bits a channel, or is not safe to read.
    """
    try:
        return _read(path)
    except OSError as error:  # no permission, a disk that fails
        raise UsageError(f"{path} cannot be read ({error}); see whether it is yours to read") from error


def is_video(tensor: Tensor) -> bool:
    """Whether `read` gave frames, and not latents."""
    return not tensor.is_floating_point()


def extra(module: str, package: str) -> Any:
    """The module `module` of the distribution `package`. Raises UsageError where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"this needs {package}, which cannot be imported ({error}); it is in the extra `report`: "
            'pip install -c constraints.txt -e ".[report]"'
        ) from error


def _read(path: Path) -> Tensor:
    if not path.exists():
        raise UsageError(f"there is no {path}; give {_KINDS}")
    ending = path.suffix.lower()
    if path.is_dir():
        pngs = [each for each in path.iterdir() if each.suffix.lower() == ".png"]
        pngs.sort(key=lambda each: [int(p) if p.isdecimal() else p for p in re.split(r"([0-9]+)", each.name)])
        if not pngs:
            raise UsageError(f"the folder {path} has no .png in it; a video is its frames as PNG, one file a frame")
        return _stack((frame for each in pngs for frame in _pictures(each, "PNG")), *pngs)
    if ending in (".png", ".gif"):
        return _stack(_pictures(path, ending[1:].upper()), path)
    if ending in VIDEOS:
        return _stack(_ffmpeg(path), path)
    if ending in LATENTS:
        return _latents(path)
    raise UsageError(f"{path} ends in {ending or 'nothing'}, which is no kind that is read here; give {_KINDS}")


def _pictures(path: Path, kind: str) -> Iterator[Tensor]:
    images, sequences = extra("PIL.Image", "pillow"), extra("PIL.ImageSequence", "pillow")
    try:
        with images.open(path, formats=[kind]) as image:
            for frame in sequences.Iterator(image):
                if frame.mode.startswith(("I", "F")):
                    raise ValueError(f"more than 8 bits a channel, Pillow's mode {frame.mode}: save it with 8")
                pixels = frame.convert("RGB")
                yield _frame(pixels.tobytes(), *pixels.size)
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
        yield _frame(data[found.end() : at], width, height)


def _frame(pixels: bytes | memoryview, width: int, height: int) -> Tensor:
    return torch.frombuffer(bytearray(pixels), dtype=torch.uint8).view(height, width, 3)


def _undecodable(path: Path, reason: str) -> UsageError:
    return UsageError(
        f"{path} cannot be decoded ({reason}); it is damaged, incomplete or of another kind than its ending says: "
        "write it again"
    )


def _stack(frames: Iterable[Tensor], *paths: Path) -> Tensor:
    kept: list[Tensor] = []
    for index, frame in enumerate(frames):
        if kept and frame.shape != kept[0].shape:
            (height, width), (other_height, other_width) = kept[0].shape[:2], frame.shape[:2]
            raise UsageError(
                f"{paths[0]} is {width} x {height} pixels, but {paths[min(index, len(paths) - 1)]} is {other_width} x "
                f"{other_height}: all frames of a video have one size; take out what does not belong to it"
            )
        kept.append(frame)
    if not kept:
        raise UsageError(f"{paths[0]} has no frames in it; write it again")
    return torch.stack(kept)


def _latents(path: Path) -> Tensor:
    held = _held(path)
    named = held if isinstance(held, Mapping) else {"latents": held}
    tensors = {str(name): value for name, value in named.items() if isinstance(value, Tensor)}
    if "latents" not in tensors and len(tensors) != 1:
        inside = f"{len(tensors)} tensors ({', '.join(sorted(tensors)[:8])})" if tensors else type(held).__name__
        raise UsageError(f"{path} holds {inside}; wanted is one tensor, or one of several named `latents`")
    found = tensors.get("latents", next(iter(tensors.values())))
    if not found.is_floating_point() or found.layout != torch.strided or not found.numel():
        kind = f"{str(found.dtype).removeprefix('torch.')} {list(found.shape)}"
        raise UsageError(f"{path} holds {kind}, which is no latents: a dense tensor of floats is wanted")
    return found.detach()


def _held(path: Path) -> Any:
    """What is in safetensors or a file of torch.save; of this by torch's own unpickler for tensors and containers."""
    if path.suffix.lower() == ".safetensors":
        load = partial(extra("safetensors.torch", "safetensors").load_file, device="cpu")
    else:
        load = partial(torch.load, map_location="cpu", weights_only=True)
        with path.open("rb") as file:
            if file.read(len(ZIP)) != ZIP:
                # The older formats went through weights_only with full pickle rights up to torch 2.5 (CVE-2025-32434).
                raise UsageError(f"{path} is not in the format that torch.save has written since 1.6: save it again")
    try:
        return load(path)
    except pickle.UnpicklingError as error:
        # torch surrounds the name with advice on reading without protection: only the name is passed on.
        name = re.search(r"GLOBAL (\S+)", str(error))
        more = f" ({name[1]})" if name else ""
        raise UsageError(
            f"{path} was refused: it holds more than tensors{more}, and reading that can run any code; "
            "save the tensor alone: torch.save(latents.detach().cpu(), path)"
        ) from error
    except Exception as error:  # cut, damaged, a header that lies: RuntimeError, EOFError, SafetensorError, ...
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UsageError(f"{path} cannot be read ({said}); it is damaged or incomplete: write it again") from error
