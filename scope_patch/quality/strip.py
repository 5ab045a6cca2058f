"""Pictures to look at: evenly spaced frames of the reference, of the output, and where they differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from .extras import extra
from .metrics import check, shown

WIDEST, NARROWEST = 320, 96  # pixels of one picture in the strip
_LABEL, _GAP = 14, 2
_GROUND, _INK = (40, 40, 40), (230, 230, 230)


def draw(reference: Tensor, video: Tensor, frames: int = 8, gain: float = 4.0) -> Any:
    """A Pillow image of three labelled rows: reference, output, |difference| x gain.

    Videos are uint8 [F, H, W, 3]; at most `frames` columns, from the first frame to the last. Raises UsageError.
    """
    check(reference, video)
    if reference.is_floating_point():
        raise UsageError(f"a strip shows frames, and these are {shown(reference)}; decode them first")
    images, pens = extra("PIL.Image", "pillow"), extra("PIL.ImageDraw", "pillow")
    picked = torch.linspace(0, len(reference) - 1, min(frames, len(reference))).round().long()
    a, b = reference[picked], video[picked]
    difference = ((a.float() - b.float()).abs() * gain).round().clamp(0, 255).to(torch.uint8)
    width, height = _fitted(reference.shape[2], reference.shape[1])
    line = height + _LABEL + _GAP
    sheet = images.new("RGB", (len(picked) * (width + _GAP), 3 * line), _GROUND)
    pen = pens.Draw(sheet)
    for row, (label, pictures) in enumerate(
        (("reference", a), ("output", b), (f"|difference| x {gain:g}", difference))
    ):
        for column, picture in enumerate(pictures):
            left, top = column * (width + _GAP), row * line
            words = label if column == 0 else f"frame {picked[column]}" if row == 0 else ""
            pen.text((left + 2, top), words, fill=_INK)
            how = images.Resampling.NEAREST if width > reference.shape[2] else images.Resampling.BOX
            sheet.paste(images.fromarray(picture.cpu().numpy()).resize((width, height), how), (left, top + _LABEL))
    return sheet


def check_path(path: Path) -> None:
    """Raises UsageError where no strip can be written: told before the minutes that the metrics may take."""
    if path.suffix.lower() != ".png" or not path.parent.is_dir():
        raise UsageError(f"the strip cannot be {path}: give a name that ends in .png, in a folder that is there")


def write(image: Any, path: Path) -> None:
    """Write the strip as PNG. Raises UsageError."""
    try:
        image.save(path)
    except OSError as error:
        raise UsageError(f"the strip cannot be written ({error}); give another path") from error


def _fitted(width: int, height: int) -> tuple[int, int]:
    """The size of one picture: small ones enlarged by a whole factor so that labels fit, large ones made smaller."""
    if width < NARROWEST:
        factor = -(-NARROWEST // width)
        return width * factor, height * factor
    narrowed = min(width, WIDEST)
    return narrowed, max(1, round(height * narrowed / width))
