"""What a run left behind: its files, which of them are compared, how near they came to the original's, a preview."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..compare import lpips, metrics
from ..compare.read import LATENTS, VIDEOS, ZIP, extra, is_video, read
from ..errors import UsageError

CAP = 100.0  # dB that stand for equal frames, which have no finite PSNR
PREVIEW = "preview"  # of a run's folder: the file that the page shows, whatever it ends in
WIDEST = 320  # pixels of one of its three pictures
FRAMES, RATE, GAIN, GAP = 240, 24, 4, 4
"""Frames at most, how many a second, what differences are multiplied by, pixels between two pictures."""
_MOST = 200_000  # files of a working directory that are looked at


def collected(out: Path) -> list[Path]:
    """What was written to `{out}`: a folder, or files whose names begin so. Videos, else latents, else pictures."""
    tops = sorted(out.parent.glob(f"{out.name}*"))
    return _kind([_named(path) for top in tops for path in (top, *sorted(top.rglob("*"))) if path.is_file()])


class Snapshot:
    """The files of a working directory, to see what appears in it. `ours` is left out, and so are hidden folders."""

    def __init__(self, folder: Path, ours: Path) -> None:
        self.folder, self.ours = folder, ours.resolve().parent.parent
        self.before = self._look()

    def changed(self, into: Path) -> list[Path]:
        """Copies, in `into`, of what is new or another since: the next run may write to the same place."""
        new = sorted(path for path, stamp in self._look().items() if self.before.get(path) != stamp)
        found = _kind(new)
        for path in found:
            # Of a folder what is new, and no more: it may be the working directory itself.
            for each in [name for name in new if name.parent == path] if path.is_dir() else [path]:
                copy = into / each.relative_to(self.folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(each, copy)
        return [into / path.relative_to(self.folder) for path in found]

    def _look(self) -> dict[Path, tuple[int, int]]:
        found: dict[Path, tuple[int, int]] = {}
        for place, folders, names in os.walk(self.folder):
            folders[:] = [n for n in folders if not n.startswith(".") and Path(place, n).resolve() != self.ours]
            for name in names:
                path = Path(place, name)
                if path.suffix.lower() in (*VIDEOS, *LATENTS, ".png"):
                    with suppress(OSError):  # a link to nowhere, or gone meanwhile
                        stat = path.stat()
                        found[path] = stat.st_mtime_ns, stat.st_size
            if len(found) > _MOST:
                raise UsageError(f"{self.folder} has too many files to see what appears; write {{out}} in the command")
        return found


def _named(path: Path) -> Path:
    """A file of torch.save without an ending gets one, beside it."""
    if path.suffix:
        return path
    with path.open("rb") as file:
        if file.read(len(ZIP)) != ZIP:
            return path
    return path.rename(path.with_suffix(".pt"))


def _kind(found: Sequence[Path]) -> list[Path]:
    """Of one kind: videos, latents, or folders of pictures as one video each (a single picture as itself)."""
    for endings in (VIDEOS, LATENTS):
        kept = [path for path in found if path.suffix.lower() in endings]
        if kept:
            return kept
    folders: dict[Path, list[Path]] = {}
    for path in found:
        if path.suffix.lower() == ".png":
            folders.setdefault(path.parent, []).append(path)
    return [each[0] if len(each) == 1 else folder for folder, each in folders.items()]


def paired(originals: Sequence[Path], outputs: Sequence[Path], top: Path, other: Path) -> list[tuple[Path, Path]]:
    """Files of two runs by name below their folders; where names hold a time, in the order they were written.

    Raises UsageError where there are not as many.
    """
    if len(originals) != len(outputs):
        raise UsageError(f"it wrote {len(outputs)} files, and the original {len(originals)}")
    names = {path.relative_to(top): path for path in originals}
    if all(path.relative_to(other) in names for path in outputs):
        return [(names[path.relative_to(other)], path) for path in outputs]
    by_time = [sorted(paths, key=lambda path: path.stat().st_mtime_ns) for paths in (originals, outputs)]
    return list(zip(*by_time, strict=True))


def load(path: Path) -> Tensor:
    """A file of ours or the user's: frames uint8 [F, H, W, 3], or latents."""
    frames = path.name.endswith(".frames.pt")
    held: Tensor = torch.load(path, map_location="cpu", weights_only=True) if frames else read(path)
    return held


def nearness(pairs: Sequence[tuple[Tensor, Tensor]], distance: lpips.Lpips | None) -> dict[str, Any]:
    """PSNR, SSIM and LPIPS over pairs of videos (original, output): means, and each pair's in `each`; failures.

    Raises UsageError for pairs of different kinds, lengths or sizes.
    """
    each: dict[str, list[Any]] = {"psnr": [], "ssim": [], "lpips": []}
    failures: dict[str, str] = {}
    for original, output in pairs:
        metrics.check(original, output, ("the original", "its output"))
        known = metrics.failures(original)
        failures |= {name: what for name, what in metrics.failures(output).items() if name not in known}
        frames = is_video(original)
        psnr = metrics.psnr(original, output) if frames else metrics.latent_psnr(original, output)
        each["psnr"].append(None if psnr is None else min(CAP, psnr))
        each["ssim"].append(metrics.ssim(original, output) if frames else None)
        able = distance is not None and frames and min(original.shape[1:3]) >= lpips.SMALLEST
        each["lpips"].append(distance(original, output).mean().item() if distance and able else None)
    means = {name: fmean(values) if values and None not in values else None for name, values in each.items()}
    return {**means, "each": each, "failures": failures}


def draw(original: Tensor, output: Tensor, path: Path) -> Path | None:
    """What the page shows of a run: original, output and their difference side by side, in one small file.

    `path` with .mp4, or .png for a single frame; None for latents, which are no pictures. Videos are uint8
    [F, H, W, 3]. Of more than FRAMES frames the first are shown.
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
    _, height, width, _ = side_by_side.shape
    writer = extra("imageio_ffmpeg", "imageio-ffmpeg").write_frames(
        str(made), (width, height), fps=RATE, codec="libx264", macro_block_size=2, output_params=["-crf", "23"]
    )
    writer.send(None)
    for frame in side_by_side:
        writer.send(frame.contiguous().numpy())
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
