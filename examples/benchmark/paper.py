"""Table 1 as the paper has it: every method at its slow and its fast operating point."""

from __future__ import annotations

from .markdown import plus_minus, table
from .sums import Group

LEVELS = ("slow", "fast")
"""Points so named, with a colon behind."""
HEAD = ("method", "", "DiT FLOPs", "speed-up", "PSNR", "SSIM", "LPIPS")


def table_1(found: list[Group]) -> str:
    """Markdown; "" where no point is one of the two."""
    lines = []
    for group in found:
        _, method, point = group.name
        level = point.partition(":")[0]
        if level in LEVELS:
            numbers = [plus_minus(group.mean(key), places) for key, places in (("psnr", 2), ("ssim", 4), ("lpips", 4))]
            lines.append([method, level, f"{group.ratio:.2f}", f"{group.speedup:.2f}", *numbers])
    return table(HEAD, sorted(lines, key=lambda line: LEVELS.index(line[1]))) if lines else ""
