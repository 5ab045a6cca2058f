"""Is ours below anything at equal DiT work? Each other point against our own points to both sides of it.

Ours is interpolated linearly in the logarithm of the work saved, video by video, so that differences are paired.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from .points import OURS
from .sums import Group, Mean, Video
from .tables import markdown

SLACK = 1.02
"""A point up to 2 % outside our range is compared with our nearest."""
SURE = 2.0
"""Standard errors from which on a difference is told as one."""
METRICS = (("psnr", "PSNR", 2, " dB"), ("ssim", "SSIM", 4, ""))


def table(found: list[Group]) -> str:
    """Markdown; "" where ours is not among the points, or nothing else is."""
    lines: list[list[str]] = []
    below: dict[str, list[tuple[Group, Mean]]] = {metric: [] for metric, *_ in METRICS}
    compared = 0
    found = [group for group in found if group.ratio is not None and all(group.mean(key) for key, *_ in METRICS)]
    hosts = dict.fromkeys(group.name[0] for group in found)
    for host in hosts:
        ours = sorted((g for g in found if g.name[:2] == (host, OURS)), key=_ratio)
        for group in distinct(g for g in found if ours and g.name[0] == host and g.name[1] != OURS):
            cells = [*group.name[1:], f"{_ratio(group):.2f}"]
            differences = {metric: difference(ours, group, metric) for metric, *_ in METRICS}
            known = {metric: each for metric, each in differences.items() if each is not None}
            if len(known) < len(METRICS):
                lines.append([*cells, "", *["no point of ours to both sides", ""] * len(METRICS)])
                continue
            rival = not group.name[1].startswith(OURS)  # not one of our own variants
            compared += rival
            cells.append(str(len(shared([*ours, group]))))
            for metric, _, places, unit in METRICS:
                other = Mean.of(group.rows[video][metric] for video in shared([*ours, group]))
                cells += [f"{other.mean:.{places}f}", verdict(known[metric], places, unit)]
                if rival and known[metric].mean < 0:
                    below[metric].append((group, known[metric]))
            lines.append(cells)
    if not lines:
        return ""
    head = ["method", "point", "DiT FLOPs", "n", *(x for _, title, *_ in METRICS for x in (title, f"{OURS} is"))]
    told = [_summary(title, below[metric], compared) for metric, title, *_ in METRICS]
    return markdown(head, lines) + "\n\n" + "\n".join(told)


def _ratio(group: Group) -> float:
    assert group.ratio is not None, "others were left out"
    return group.ratio


def distinct(found: Iterable[Group]) -> list[Group]:
    """Without points at which a method did just what it did at an earlier one: aims beyond its range count once."""
    kept: dict[tuple[Any, ...], Group] = {}
    for group in found:
        made = [(*video, row["flops"], row["psnr"]) for video, row in group.rows.items()]
        kept.setdefault((*group.name[:2], *made), group)
    return list(kept.values())


def difference(ours: list[Group], other: Group, metric: str) -> Mean | None:
    """Ours minus the other's at its FLOPs; None where we have no points to both sides, or no video in common.

    Args:
        ours: by ascending ratio.
    """
    weights = _weights([_ratio(group) for group in ours], _ratio(other))
    videos = shared([*ours, other])
    if weights is None or not videos:
        return None
    return Mean.of(
        sum(weight * ours[k].rows[video][metric] for k, weight in weights.items()) - other.rows[video][metric]
        for video in videos
    )


def shared(found: list[Group]) -> list[Video]:
    """The videos that all of them have."""
    return [video for video in found[0].rows if all(video in group.rows for group in found)]


def verdict(value: Mean, places: int, unit: str) -> str:
    """`above by 1.20 ± 0.31 dB`; what lies within two standard errors is marked as unsure."""
    size = f"{abs(value.mean):.{places}f}"
    if float(size) == 0:
        return "equal"
    error = "" if math.isnan(value.error) else f" ± {value.error:.{places}f}"
    if math.isnan(value.error):
        doubt = " (one video)"
    else:
        doubt = "" if abs(value.mean) >= SURE * value.error else " (unsure)"
    return f"{'above' if value.mean >= 0 else 'below'} by {size}{error}{unit}{doubt}"


def _weights(ratios: list[float], at: float) -> dict[int, float] | None:
    for k, (low, high) in enumerate(pairwise(ratios)):
        if low <= at <= high:
            share = math.log(at / low) / math.log(high / low) if high > low else 0.0
            return {k: 1 - share, k + 1: share}
    for k in (0, -1):
        if ratios[k] / SLACK <= at <= ratios[k] * SLACK:
            return {k: 1.0}
    return None


def _summary(title: str, below: list[tuple[Group, Mean]], compared: int) -> str:
    sure = [group for group, value in below if abs(value.mean) >= SURE * value.error]
    where = "; ".join(f"{group.name[1]}, {group.name[2]}" for group in sure)
    return (
        f"* {title}: {OURS} is not below in {compared - len(below)} of {compared} comparisons with other methods; "
        f"below by {SURE:g} standard errors or more in {len(sure)}" + (f": {where}" if where else "")
    )
