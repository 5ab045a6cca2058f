"""The plan of an image that is made scale by scale (Infinity): what is done at each scale, and its FLOPs."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from typing import Any

from ..errors import UsageError
from ..hosts import infinity
from ..method import profile
from ..method.decision import Size
from ..method.resolved import method_of
from ..patch.scales import Scales
from ..settings import Settings
from .jobs import known_host, without_residual

SIDES = (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)
SCALES = {"0.06M": 7, "0.25M": 10, "0.60M": 12, "1M": 13}
"""Upstream's square pictures, by --pn."""


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Print it. Raises UsageError for options that cannot be used."""
    shape, image = infinity.NAMED[options.model], asked_for(options)
    host = known_host("infinity")
    method = method_of(settings, host.defaults_for(Size(shape.width, shape.layers)))
    without_residual(host, method)
    if settings.profile is not None:
        profile.read(settings.profile)  # a run says what is wrong with it, and so does a plan
    decided = infinity.decide(method, shape, image)
    if settings.verify:
        unverified = f"no skipped step is verified: {Scales.unverifiable}"
        decided = replace(decided, remarks=(*decided.remarks, unverified))
    print(json.dumps(as_dict(image, decided)) if options.json else "\n".join(lines(image, decided)))
    return 0


def asked_for(options: argparse.Namespace) -> infinity.Image:
    """Raises UsageError for grids or guidance that are none."""
    try:
        grids = [(side, side) for side in SIDES[: SCALES[options.pn]]]
        if options.grids:
            pairs = [pair.split("x") for pair in options.grids.split(",")]
            grids = [(int(height), int(width)) for height, width in pairs]
        cfg = [float(each) for each in options.cfg.split(",")]
    except ValueError as error:
        raise UsageError(f"--grids and --cfg are lists such as 1x1,2x2,3x4 and 4,4,1: {error}") from error
    cfg = cfg * len(grids) if len(cfg) == 1 else cfg
    if min(min(grid) for grid in grids) < 1 or not all(map(math.isfinite, cfg)):
        raise UsageError(
            f"--grids {options.grids} or --cfg {options.cfg}: sides are 1 or more, and guidance is a number"
        )
    if len(cfg) != len(grids):
        raise UsageError(f"--cfg has {len(cfg)} numbers for {len(grids)} scales; give one, or one a scale")
    tokens = options.text_tokens * options.batch
    return infinity.Image(tuple(grids), tuple(cfg), options.batch, (tokens, tokens), any(each != 1 for each in cfg))


def as_dict(image: infinity.Image, decided: infinity.Decided) -> dict[str, Any]:
    """For `--json`."""
    rows = zip(image.grids, decided.actions, decided.host, decided.baseline, decided.work, strict=True)
    return {
        **decided.summary,
        "scales": [
            {"grid": list(grid), "action": str(action), "host": host, "baseline": baseline, "work": work}
            for grid, action, host, baseline, work in rows
        ],
        "remarks": list(decided.remarks),
    }


def lines(image: infinity.Image, decided: infinity.Decided) -> list[str]:
    """For people."""
    host, baseline, work = (sum(each) for each in (decided.host, decided.baseline, decided.work))
    out = [f"{'scale':>5} {'grid':>9} {'done':>7} {'TFLOP of the host':>18} {'share':>6} {'planned':>9}"]
    for k, (grid, action) in enumerate(zip(image.grids, decided.actions, strict=True)):
        size = f"{grid[0]} x {grid[1]}"
        own, left = decided.host[k] / 1e12, decided.work[k] / 1e12
        out.append(f"{k + 1:>5} {size:>9} {action!s:>7} {own:>18.3f} {decided.host[k] / host:>6.1%} {left:>9.3f}")
    passes = sum(action.runs for action in decided.actions)
    out.append(
        f"planned: passes of the blocks {len(image.grids)} -> {passes}, {host / 1e12:.4g} -> {work / 1e12:.4g} TFLOP, "
        f"{baseline / work:.2f} times less"
        + (f" ({host / work:.2f} with the unconditional rows that are waste)" if host > baseline else "")
    )
    return [*out, *decided.remarks]
