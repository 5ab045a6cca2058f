"""What the page shows of a run: original, output and their difference side by side, in one small file."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..compare.read import extra, is_video

WIDEST = 320
"""Pixels of one of the three pictures."""
FRAMES, RATE, GAIN, GAP = 240, 24, 4, 4
"""Frames at most, how many a second, what differences are multiplied by, pixels between two pictures."""


def draw(original: Tensor, output: Tensor, path: Path) -> Path | None:
    """`path` with .mp4, or .png for a single frame; None for latents, which are no pictures, or without a writer.

    Videos are uint8 [F, H, W, 3]. Of more than FRAMES frames the first are shown.
    """
    if not is_video(original):
        return None
    original, output = original[:FRAMES], output[:FRAMES]
    difference = ((original.float() - output.float()).abs() * GAIN).clamp(0, 255).to(torch.uint8)
    panels = [_fitted(each) for each in (original, output, difference)]
    bar = torch.full_like(panels[0][:, :, :GAP], 255)
    side_by_side = torch.cat([panels[0], bar, panels[1], bar, panels[2]], dim=2)
    if len(side_by_side) == 1:
        made = path.with_suffix(".png")
        extra("PIL.Image", "pillow").fromarray(side_by_side[0].numpy()).save(made)
        return made
    made = path.with_suffix(".mp4")
    frames, height, width, _ = side_by_side.shape
    writer = extra("imageio_ffmpeg", "imageio-ffmpeg").write_frames(
        str(made), (width, height), fps=RATE, codec="libx264", macro_block_size=2, output_params=["-crf", "23"]
    )
    writer.send(None)
    for k in range(frames):
        writer.send(side_by_side[k].contiguous().numpy())
    writer.close()
    return made


def _fitted(video: Tensor) -> Tensor:
    """Smaller where it is wide, larger by a whole factor where it is tiny; even sides, as the codec wants them."""
    height, width = video.shape[1:3]
    if width > WIDEST:
        size = max(2, round(height * WIDEST / width) // 2 * 2), WIDEST
        small = F.interpolate(video.permute(0, 3, 1, 2).float(), size=size, mode="area")
        return small.round().to(torch.uint8).permute(0, 2, 3, 1)
    factor = max(1, WIDEST // 2 // width)
    grown = video.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    return grown[:, : max(2, grown.shape[1] // 2 * 2), : max(2, grown.shape[2] // 2 * 2)]
