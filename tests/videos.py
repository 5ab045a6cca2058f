"""Small videos and their files, for the tests of quality."""

from __future__ import annotations

import subprocess

import pytest
import torch

for module in ("imageio_ffmpeg", "safetensors", "skimage"):
    pytest.importorskip(module, reason="needs the extra report")
Image = pytest.importorskip("PIL.Image", reason="needs the extra report")
np = pytest.importorskip("numpy", reason="needs the extra report")

Y, X = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")


def moving(frames=6, step=4):
    """A disc over a ramp, uint8 [F, 64, 64, 3]."""
    ramp = torch.stack([X * 4, Y * 4, (X + Y) * 2], -1)
    disc = [((X - 16 - step * n) ** 2 + (Y - 32) ** 2 < 120)[..., None] for n in range(frames)]
    return torch.stack([torch.where(inside, 255, ramp) for inside in disc]).to(torch.uint8)


def encode(video, path, *options):
    """Lossless where the codec can, by the ffmpeg that reads it too."""
    from imageio_ffmpeg import get_ffmpeg_exe

    command = [get_ffmpeg_exe(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "64x64", "-r", "24"]
    command += ["-i", "-", "-c:v", "libx264rgb", "-qp", "0", *options, str(path)]
    subprocess.run(command, input=video.numpy().tobytes(), check=True)
    return path


def pngs(video, folder):
    folder.mkdir()
    for index, frame in enumerate(video):
        Image.fromarray(frame.numpy()).save(folder / f"frame_{index}.png")
    return folder
