"""The figures of the suites: speed against quality, and what a setting over its range does."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from itertools import count

from scope_patch.tuning.tables import Group

TICKS = (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 14, 20)
QUALITY = (("psnr", "PSNR, dB"), ("ssim", "SSIM"))
INK, SOFT = "#1A1D21", "#5A616B"  # as in the figures of `report`
WIDE, DOTS, COLOURS = 7.2, 180, 96
LOOKS = {
    "scope": ("#0072B2", "o", "-", 2.0),
    "scope, thresholds": ("#56B4E9", "s", "--", 1.0),
    "scope, calibrated": ("#009E73", "D", "-.", 1.0),
    "reduced steps": ("#1A1D21", "X", ":", 1.0),
    "teacache": ("#E69F00", "^", "-", 1.0),
    "taylorseer": ("#D55E00", "v", "-", 1.0),
    "taylorseer, order 2": ("#8A3A00", "<", (0, (4, 1.5)), 1.0),
    "delta-dit": ("#CC79A7", "P", "-", 1.0),
    "flowcache": ("#B3A600", "*", (0, (5, 1)), 1.0),
}
"""Colour, marker, line and its width. Okabe and Ito's colours, which colour-blind readers tell apart, and shapes for
print in grey; their yellow is darkened: on paper it is not seen."""


def figure(about: str, axis: str, found: list[Group]) -> bytes | None:
    """A PNG, with the same bytes from the same data; None where there is nothing to draw.

    Args:
        axis: what each point's `x` is; "" for the plane of speed and quality.
    """
    found = [group for group in found if (_x(group) if axis else group.ratio) is not None]
    if not found:
        return None
    panels = [(label, key) for key, label in QUALITY]
    if axis:
        panels.append(("DiT FLOPs, times fewer", "ratio"))
    if axis == "video frames":
        panels.append(("speed-up in time", "speedup"))
    return _png(about, axis, panels, found)


def _x(group: Group) -> float | None:
    """Where it stands on an axis over a setting."""
    return next(iter(group.rows.values()))["x"]


def _png(about: str, axis: str, panels: list[tuple[str, str]], found: list[Group]) -> bytes:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    place: Callable[[Group], float] = _x if axis else (lambda group: group.ratio)
    looks = _looks(list(dict.fromkeys(group.name[1] for group in found)))
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rc("font", size=7.5)
        figure = Figure(figsize=(WIDE, 0.9 + (2.6 if len(panels) < 3 else 1.9) * len(panels)), dpi=DOTS)
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
        for one, (label, key) in zip(axes, panels, strict=True):
            for name, look in looks.items():
                _line(one, sorted((g for g in found if g.name[1] == name), key=place), place, key, name, look)
            one.set_ylabel(label, color=INK)
            one.grid(True, color=SOFT, alpha=0.16, linewidth=0.5)
            one.spines[["top", "right"]].set_visible(False)
        if not axis:
            axes[-1].set_xscale("log")
        ticks = sorted({place(group) for group in found}) if axis else _ticks([place(group) for group in found])
        axes[-1].set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes[-1].set_xticks([], minor=True)
        axes[-1].set_xlabel(axis or "DiT FLOPs: how many times fewer than the original's")
        figure.suptitle(f"{about}\n{_below(found)}", fontsize=8, x=0.02, ha="left", color=INK)
        figure.align_ylabels(axes)
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="center left", bbox_to_anchor=(0.80, 0.5), frameon=False
        )
        figure.tight_layout(rect=(0, 0, 0.8, 1))
        buffer = BytesIO()
        figure.savefig(buffer, format="png", bbox_inches="tight", metadata={"Software": None})
    return _small(buffer)


def _line(axis, groups: list[Group], place, key: str, name: str, look) -> None:
    if not groups:
        return
    colour, marker, line, wide = look
    means = [group.mean(key) for group in groups] if key in dict(QUALITY) else None
    heights = [mean.mean for mean in means] if means else [_times(group, key) for group in groups]
    errors = [0.0 if mean.error != mean.error else mean.error for mean in means] if means else None
    axis.errorbar(
        [place(group) for group in groups], heights, errors, label=name, color=colour, linestyle=line, marker=marker,
        linewidth=0.9 * wide, elinewidth=0.6, markersize=4.6, markeredgecolor="white", markeredgewidth=0.5,
        zorder=3 if wide > 1 else 2,
    )  # fmt: skip


def _times(group: Group, key: str) -> float:
    return (group.ratio if key == "ratio" else group.times("seconds")) or float("nan")


def _looks(names: list[str]) -> dict[str, tuple]:
    """The look of every name: its own, or one that none of the others has."""
    spare = (look for _ in count() for look in LOOKS.values())
    taken = {LOOKS[name] for name in names if name in LOOKS}
    made = {}
    for name in names:
        look = LOOKS.get(name)
        if look is None:
            look = next(each for each in spare if each not in taken or len(taken) >= len(LOOKS))
            taken.add(look)
            look = (*look[:3], 1.0)
        made[name] = look
    return made


def _ticks(ratios: list[float]) -> list[float]:
    return [tick for tick in TICKS if min(ratios) * 0.95 <= tick <= max(ratios) * 1.05]


def _below(found: list[Group]) -> str:
    most = max(len(group.rows) for group in found)
    return "one video" if most == 1 else f"means over {most} videos; bars are standard errors"


def _small(drawn: BytesIO) -> bytes:
    """The same picture in a palette, a third of the bytes."""
    from PIL import Image

    buffer = BytesIO()
    picture = Image.open(drawn).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(buffer, format="png", optimize=True, dpi=(DOTS, DOTS))
    return buffer.getvalue()
