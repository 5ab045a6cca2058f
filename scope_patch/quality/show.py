"""A comparison as text, and as what becomes JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .comparison import Comparison, Side
from .metrics import shown
from .read import is_video

NAMES = {"psnr": "PSNR dB", "ssim": "SSIM", "lpips": "LPIPS (alex)", "relative_l2": "relative L2"}
_DIGITS = {"psnr": 2, "ssim": 4, "lpips": 4, "relative_l2": 5}
_WIDTH = 14


def as_dict(made: Comparison) -> dict[str, Any]:
    """For programs. JSON has no infinity: the PSNR of what is equal is the text "inf", which Python's float() reads."""
    return {
        "reference": _side(made.reference),
        "output": _side(made.output),
        "total": {name: _plain(value) for name, value in made.total.items()},
        "frames": {name: [_plain(value) for value in values] for name, values in made.frames.items()},
        "remarks": made.remarks,
    }


def lines(made: Comparison) -> list[str]:
    """A table: in total first, then a line a frame."""
    table = [
        f"{name}: {side.path}, {shown(side.tensor)}"
        for name, side in (("reference", made.reference), ("output", made.output))
    ]
    for name, side in (("reference", made.reference), ("output", made.output)):
        table += [f"FAILURE in the {name}: {kind}: {what}" for kind, what in side.failures.items()]
    table += [f"remark: {remark}" for remark in made.remarks]
    table.append(f"{'':10}" + "".join(f"{NAMES[name]:>{_WIDTH}}" for name in made.total))
    table.append(_row("in total", made.total))
    count = len(next(iter(made.frames.values()), []))
    for index in range(count):
        table.append(_row(f"frame {index}", {name: values[index] for name, values in made.frames.items()}))
    return table


def _row(label: str, values: Mapping[str, float | None]) -> str:
    cells = ["-" if value is None else f"{value:.{_DIGITS[name]}f}" for name, value in values.items()]
    return f"{label:10}" + "".join(f"{cell:>{_WIDTH}}" for cell in cells)


def _side(side: Side) -> dict[str, Any]:
    return {
        "path": str(side.path),
        "kind": "video" if is_video(side.tensor) else "latents",
        "shape": list(side.tensor.shape),
        "failures": side.failures,
    }


def _plain(value: float | None) -> float | str | None:
    return "inf" if value == math.inf else value
