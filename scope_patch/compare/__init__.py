"""`compare`: how near an output came to its reference. PSNR, SSIM, LPIPS, failures, a strip of pictures.

Two paths in; a table or JSON, and perhaps a strip, out. Works on files alone: nothing here knows a model, a method or a
host. What it needs beside torch is in the extra `report` and is imported where it is used.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from . import lpips, metrics
from .read import extra, is_video, read

# Of the table: name and digits of a metric.
_COLUMNS = {
    "psnr": ("PSNR dB", 2), "ssim": ("SSIM", 4), "lpips": ("LPIPS (alex)", 4), "relative_l2": ("relative L2", 5),
}  # fmt: skip
_WIDEST, _NARROWEST = 320, 96  # pixels of one picture in the strip
_LABEL, _GAP = 14, 2
_GROUND, _INK = (40, 40, 40), (230, 230, 230)


def run(options: argparse.Namespace) -> int:
    """Print how near OUTPUT came to REFERENCE. Raises UsageError for files and options that cannot be used."""
    strip: Path | None = options.strip
    paths: dict[str, Path] = {"reference": options.reference, "output": options.output}
    if options.strip_frames < 1 or not options.gain > 0:
        raise UsageError("--strip-frames is 1 or more, and --gain more than 0")
    # Told before the minutes that the metrics may take.
    if strip is not None and (strip.suffix.lower() != ".png" or not strip.parent.is_dir()):
        raise UsageError(f"the strip cannot be {strip}: give a name that ends in .png, in a folder that is there")
    if strip is not None and strip.resolve() in [path.resolve() for path in paths.values()]:
        raise UsageError(f"--strip {strip} would overwrite what is compared; give another name")
    tensors = {name: read(path) for name, path in paths.items()}
    found = compare(paths, tensors, options.lpips)
    if strip is not None:
        reference, output = tensors.values()
        image = draw(reference, output, options.strip_frames, options.gain)
        try:
            image.save(strip)
        except OSError as error:
            raise UsageError(f"the strip cannot be written ({error}); give another path") from error
    if options.json:
        total = {name: _plain(value) for name, value in found["total"].items()}
        frames = {name: [_plain(value) for value in values] for name, values in found["frames"].items()}
        print(json.dumps({**found, "total": total, "frames": frames}, allow_nan=False))
    else:
        print("\n".join(lines(found, tensors)))
    return 0


def compare(paths: Mapping[str, Path], tensors: Mapping[str, Tensor], with_lpips: bool | None) -> dict[str, Any]:
    """All metrics of two videos, or of two files of latents (`reference`, `output`), much as `--json` gives them.

    In `total` and for every frame in `frames`, by metric; None: not defined here. `remarks` say what is missing.
    `with_lpips`: None gives LPIPS where it can be given.

    Raises UsageError for different kinds, lengths or sizes, and where LPIPS is asked for and cannot be given.
    """
    a, b = tensors.values()
    metrics.check(a, b, list(paths.values()))
    sides = {
        name: {
            "path": str(paths[name]),
            "kind": "video" if is_video(tensor) else "latents",
            "shape": list(tensor.shape),
            "failures": metrics.failures(tensor),
        }
        for name, tensor in tensors.items()
    }
    total: dict[str, float | None]
    if not is_video(a):
        if with_lpips:
            raise UsageError("LPIPS looks at pictures, and these are latents: leave out --lpips, or decode them first")
        total = {"psnr": metrics.latent_psnr(a, b), "relative_l2": metrics.relative_error(a, b)}
        undefined = "what is not given is not defined: values not finite, or a constant reference"
        return {**sides, "total": total, "frames": {}, "remarks": [undefined] if None in total.values() else []}
    distance, obstacle = None if with_lpips is False else lpips.load(), ""
    if with_lpips is not False and distance is None:
        obstacle = f"LPIPS is not given: its weights are not installed; to get them: {lpips.INSTALL}"
    elif distance is not None and min(a.shape[1:3]) < lpips.SMALLEST:
        obstacle = f"LPIPS is not given: it needs frames of {lpips.SMALLEST} x {lpips.SMALLEST} pixels or more"
    if obstacle and with_lpips:
        raise UsageError(obstacle)
    frames = metrics.per_frame(a, b)
    total = {"psnr": metrics.psnr(a, b), "ssim": fmean(frames["ssim"])}
    if distance is not None and not obstacle:
        frames["lpips"] = distance(a, b).tolist()
        total["lpips"] = fmean(frames["lpips"])
    return {**sides, "total": total, "frames": frames, "remarks": [obstacle] if obstacle else []}


def _plain(value: float | None) -> float | str | None:
    """JSON has no infinity: the PSNR of what is equal is the text "inf", which Python's float() reads."""
    return "inf" if value == math.inf else value


def lines(found: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> list[str]:
    """A table: in total first, then a line a frame."""
    table = [f"{name}: {found[name]['path']}, {metrics.shown(tensor)}" for name, tensor in tensors.items()]
    for name in tensors:
        table += [f"FAILURE in the {name}: {kind}: {what}" for kind, what in found[name]["failures"].items()]
    table += [f"remark: {remark}" for remark in found["remarks"]]
    columns = [_COLUMNS[name] for name in found["total"]]
    table.append(f"{'':10}" + "".join(f"{title:>14}" for title, _ in columns))
    frames = enumerate(zip(*found["frames"].values(), strict=True))
    for label, values in [("in total", found["total"].values()), *((f"frame {k}", each) for k, each in frames)]:
        cells = zip(values, columns, strict=True)
        row = ["-" if value is None else f"{value:.{digits}f}" for value, (_, digits) in cells]
        table.append(f"{label:10}" + "".join(f"{cell:>14}" for cell in row))
    return table


def draw(reference: Tensor, video: Tensor, frames: int, gain: float) -> Any:
    """A Pillow image of three labelled rows: reference, output, |difference| x gain.

    Videos are uint8 [F, H, W, 3]; at most `frames` columns, from the first frame to the last. Raises UsageError.
    """
    if not is_video(reference):
        raise UsageError(f"a strip shows frames, and these are {metrics.shown(reference)}; decode them first")
    images, pens = extra("PIL.Image", "pillow"), extra("PIL.ImageDraw", "pillow")
    picked = torch.linspace(0, len(reference) - 1, min(frames, len(reference))).round().long()
    a, b = reference[picked], video[picked]
    difference = ((a.float() - b.float()).abs() * gain).round().clamp(0, 255).to(torch.uint8)
    # Small pictures are enlarged by a whole factor so that labels fit, large ones made smaller.
    height, width = reference.shape[1:3]
    scale = -(-_NARROWEST // width) if width < _NARROWEST else min(1, _WIDEST / width)
    size = round(width * scale), max(1, round(height * scale))
    line = size[1] + _LABEL + _GAP
    sheet = images.new("RGB", (len(picked) * (size[0] + _GAP), 3 * line), _GROUND)
    pen = pens.Draw(sheet)
    rows = {"reference": a, "output": b, f"|difference| x {gain:g}": difference}
    for row, (label, pictures) in enumerate(rows.items()):
        for column, picture in enumerate(pictures):
            left, top = column * (size[0] + _GAP), row * line
            words = label if column == 0 else f"frame {picked[column]}" if row == 0 else ""
            pen.text((left + 2, top), words, fill=_INK)
            how = images.Resampling.NEAREST if scale > 1 else images.Resampling.BOX
            sheet.paste(images.fromarray(picture.cpu().numpy()).resize(size, how), (left, top + _LABEL))
    return sheet
