"""What a run left behind: its files, which of them are compared, and how near they came to the original's."""

from __future__ import annotations

import os
import shutil
import statistics
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..compare import lpips, metrics
from ..compare.read import LATENTS, VIDEOS, ZIP, is_video, read
from ..errors import UsageError

CAP = 100.0
"""dB that stand for equal frames, which have no finite PSNR."""
_MOST = 200_000
"""Files of a working directory that are looked at."""


def collected(out: Path) -> list[Path]:
    """What was written to `{out}`: a folder, or files whose names begin so. Videos, else latents, else pictures."""
    found = [path for top in sorted(out.parent.glob(f"{out.name}*")) for path in _files(top)]
    return _kind([_named(path) for path in found])


class Snapshot:
    """The files of a working directory, to see what appears in it. `ours` is left out, and so are hidden folders."""

    def __init__(self, folder: Path, ours: Path) -> None:
        self.folder, self.ours = folder, ours.resolve().parent.parent
        self.before = self._look()

    def changed(self, into: Path) -> list[Path]:
        """Copies, in `into`, of what is new or another since: the next run may write to the same place."""
        new = sorted(path for path, stamp in self._look().items() if self.before.get(path) != stamp)
        copies = []
        for path in _kind(new):
            # Of a folder what is new, and no more: it may be the working directory itself.
            for each in [name for name in new if name.parent == path] if path.is_dir() else [path]:
                copy = into / each.relative_to(self.folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(each, copy)
            copies.append(into / path.relative_to(self.folder))
        return copies

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


def _files(top: Path) -> list[Path]:
    if top.is_file():
        return [top]
    return sorted(path for path in top.rglob("*") if path.is_file())


def _named(path: Path) -> Path:
    """A file of torch.save without an ending gets one, beside it."""
    if path.suffix or path.stat().st_size < len(ZIP):
        return path
    with path.open("rb") as file:
        if file.read(len(ZIP)) != ZIP:
            return path
    renamed = path.with_suffix(".pt")
    path.rename(renamed)
    return renamed


def _kind(found: Sequence[Path]) -> list[Path]:
    """Of one kind: videos, latents, or folders of pictures as one video each (a single picture as itself)."""
    for endings in (VIDEOS, LATENTS):
        kept = [path for path in found if path.suffix.lower() in endings]
        if kept:
            return kept
    pictures = [path for path in found if path.suffix.lower() == ".png"]
    folders = {path.parent: [each for each in pictures if each.parent == path.parent] for path in pictures}
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
    if path.name.endswith(".frames.pt"):
        held: Tensor = torch.load(path, map_location="cpu", weights_only=True)
        return held
    return read(path)


def nearness(pairs: Sequence[tuple[Tensor, Tensor]], distance: lpips.Lpips | None) -> dict[str, Any]:
    """PSNR, SSIM and LPIPS over pairs of videos (original, output): means, and each pair's in `each`; failures.

    Raises UsageError for pairs of different kinds, lengths or sizes.
    """
    each: dict[str, list[float | None]] = {"psnr": [], "ssim": [], "lpips": []}
    failures: dict[str, str] = {}
    for original, output in pairs:
        metrics.check(original, output, ("the original", "its output"))
        found = metrics.failures(output)
        failures |= {name: what for name, what in found.items() if name not in metrics.failures(original)}
        if is_video(original):
            frames = metrics.per_frame(original, output)
            each["psnr"].append(min(CAP, metrics.psnr(original, output)))
            each["ssim"].append(statistics.fmean(frames["ssim"]))
            able = distance is not None and min(original.shape[1:3]) >= lpips.SMALLEST
            each["lpips"].append(distance(original, output).mean().item() if distance and able else None)
        else:
            psnr = metrics.latent_psnr(original, output)
            each["psnr"].append(None if psnr is None else min(CAP, psnr))
            each["ssim"].append(None)
            each["lpips"].append(None)
    means = {name: _mean(values) for name, values in each.items()}
    return {**means, "each": each, "failures": failures}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if values and len(known) == len(values) else None
