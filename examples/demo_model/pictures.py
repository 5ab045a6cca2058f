"""Write videos and contact sheets."""

from __future__ import annotations

from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import torch
from PIL import Image, ImageDraw


def enlarge(video: torch.Tensor, scale: int) -> np.ndarray:
    """[T, H, W, 3] uint8 frames, every pixel drawn as scale x scale."""
    return video.repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2).numpy()


def write_video(video: torch.Tensor, path: Path, fps: int = 24, scale: int = 4) -> None:
    """Write [T, H, W, 3] uint8 frames as MP4 or GIF, by the ending of the path."""
    frames = enlarge(video, scale)
    if path.suffix == ".gif":
        imageio.mimwrite(path, list(frames), duration=1000 / fps, loop=0)
    else:
        imageio.mimwrite(path, list(frames), fps=fps, quality=9, macro_block_size=1)


def contact_sheet(rows: list[tuple[str, torch.Tensor]], columns: int = 13, scale: int = 1) -> Image.Image:
    """One row a video, evenly spaced frames from first to last, its prompt above; videos are [T, H, W, 3] uint8."""
    height, width = rows[0][1].shape[1] * scale, rows[0][1].shape[2] * scale
    label, gap = 12, 2
    sheet = Image.new("RGB", (columns * (width + gap), len(rows) * (height + label + gap)), (40, 40, 40))
    pen = ImageDraw.Draw(sheet)
    for row, (text, video) in enumerate(rows):
        top = row * (height + label + gap)
        pen.text((2, top), text, fill=(230, 230, 230))
        picked = torch.linspace(0, len(video) - 1, columns).round().long()
        for column, frame in enumerate(enlarge(video[picked], scale)):
            sheet.paste(Image.fromarray(frame), (column * (width + gap), top + label))
    return sheet
