"""The runs of a folder as one page: the answer, the table, videos side by side, timelines. Nothing is loaded.

Of a run it shows a preview, which is drawn as the run ends: original, output and their difference in one small file.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..compare.read import extra, is_video
from ..errors import UsageError
from ..report.page import png, template
from ..report.read import read
from .log import Row
from .sums import Group
from .tables import PLACES, cells

MOST = 200e6
"""Bytes of a page: from there on runs are without pictures, which stay in their folders."""
PREVIEW = "preview"
"""Of a run's folder: the file that the page shows, whatever it ends in."""
WIDEST = 320
"""Pixels of one of the three pictures."""
FRAMES, RATE, GAIN, GAP = 240, 24, 4, 4
"""Frames at most, how many a second, what differences are multiplied by, pixels between two pictures."""


def page(
    folder: Path, command: str, found: Sequence[Group], words: str, line: str, left: str, reading: str,
    answer: float | None,
) -> str:  # fmt: skip
    """The whole page, as UTF-8 text. Raises UsageError without jinja2.

    Args:
        words, line, answer: what is said of the search, the line to copy, the target; empty for a bench.
        left: what is not in the table, and why.
    """
    shown, size = [], 0
    for group in found:
        row = _shown(group)
        picture = _picture(folder / row["folder"]) if size < MOST and row.get("folder") else None
        size += 0 if picture is None else len(picture["data"])
        drawn = _timeline(folder / row["folder"]) if size < MOST and row.get("folder") else ""
        size += len(drawn)
        chosen = answer is not None and row["x"] == answer and group.name[1] == "scope"
        shown.append({"group": group, "row": row, "picture": picture, "timeline": drawn, "chosen": chosen})
    return template(__package__).render(
        command=command, words=words, line=line, left=left, reading=reading,
        tables=cells(found), shown=shown, gain=GAIN, frames=FRAMES, places=PLACES,
    )  # fmt: skip


def _shown(group: Group) -> Row:
    """Of a point's videos the one that came out worst."""
    rows = list(group.rows.values())
    for name, best in (("lpips", False), ("psnr", True)):
        if all(row.get(name) is not None for row in rows):
            return sorted(rows, key=lambda row: row[name], reverse=not best)[0]
    return rows[0]


def _picture(folder: Path) -> dict[str, Any] | None:
    for ending, kind in ((".mp4", "video/mp4"), (".png", "image/png")):
        path = folder / f"{PREVIEW}{ending}"
        if path.is_file():
            return {"kind": kind, "data": b64encode(path.read_bytes()).decode()}
    return None


def _timeline(folder: Path) -> str:
    """The decisions as a PNG; "" where there are none, or no matplotlib."""
    try:
        return b64encode(png(read(str(folder / "report.json")))).decode()
    except UsageError:
        return ""


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
