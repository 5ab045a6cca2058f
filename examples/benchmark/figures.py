"""The figures of the suites: speed against quality, and what a setting over its range does."""

from __future__ import annotations

from collections.abc import Callable

from .charts import Dot, Panel, png
from .points import Suite
from .sums import Group

TICKS = (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 14, 20)
QUALITY = (("psnr", "PSNR, dB"), ("ssim", "SSIM"))


def figure(suite: Suite, found: list[Group]) -> bytes | None:
    """The figure of a suite; None where it has none, or nothing to draw."""
    found = [group for group in found if suite.figure == "plane" or group.x is not None]
    if not suite.figure or not found:
        return None
    return _plane(suite, found) if suite.figure == "plane" else _lines(suite, found)


def _plane(suite: Suite, found: list[Group]) -> bytes:
    panels = [Panel(label, _dots(found, _ratio, key)) for key, label in QUALITY]
    ratios = [group.ratio for group in found]
    ticks = [tick for tick in TICKS if min(ratios) * 0.95 <= tick <= max(ratios) * 1.05]
    return png(
        suite.about, _below(found), "DiT FLOPs: how many times fewer than the original's", panels, ticks, log=True
    )


def _lines(suite: Suite, found: list[Group]) -> bytes:
    panels = [Panel(label, _dots(found, _x, key)) for key, label in QUALITY]
    panels.append(Panel("DiT FLOPs, times fewer", _dots(found, _x, "ratio")))
    if suite.axis == "video frames":
        panels.append(Panel("speed-up in time", _dots(found, _x, "speedup")))
    ticks = sorted({group.x for group in found})
    return png(suite.about, _below(found), suite.axis, panels, ticks)


def _ratio(group: Group) -> float:
    return group.ratio


def _x(group: Group) -> float:
    return group.x or 0.0


def _dots(found: list[Group], x: Callable[[Group], float], key: str) -> dict[str, list[Dot]]:
    lines: dict[str, list[Dot]] = {}
    for group in found:
        if key in ("ratio", "speedup"):
            dot = (x(group), getattr(group, key), float("nan"))
        else:
            value = group.mean(key)
            dot = (x(group), value.mean, value.error)
        lines.setdefault(group.name[1], []).append(dot)
    return {name: sorted(dots) for name, dots in lines.items()}


def _below(found: list[Group]) -> str:
    most = max(len(group.rows) for group in found)
    if most == 1:
        return "one video against the original"
    return f"means over {most} videos against the original; bars are standard errors"
