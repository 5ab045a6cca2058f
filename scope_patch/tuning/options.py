"""The options of `tune` and `bench`. Imports no torch: `--help` must not wait for it."""

from __future__ import annotations

import argparse
from pathlib import Path

CHOSEN = ("target_speedup", "preset", "cache_threshold", "predict_threshold", "policy", "report", "calibrate")
"""Settings of `run` that `tune` and `bench` choose themselves."""


def add(parser: argparse.ArgumentParser, bench: bool) -> None:
    """The options of `tune`, or of `bench`, beside those of `run`."""
    parser.add_argument("--folder", type=Path, default=Path("scope_tune"), help="where all goes (default: %(default)s)")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="a prompt a line, for {prompt} in the command")
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds 0 to N-1 for {seed} in the command (default: 1)")
    parser.add_argument("--steps", metavar="N", help="what {steps} in the command usually is")
    if bench:
        methods = ["scope:2", "scope:3", "scope:4", "scope:5"]
        words = "scope:3 scope:fast scope-thresholds:0.18,0.42 teacache:0.1 taylorseer:4 flowcache:0.15 steps:10 ..."
        parser.add_argument("--methods", nargs="+", metavar="METHOD", default=methods, help=words)
        return
    bounds = parser.add_argument_group("bounds", "in the mean over all videos; LPIPS 0.05 unless one is given")
    bounds.add_argument("--psnr", type=float, metavar="DB", help="at least")
    bounds.add_argument("--ssim", type=float, metavar="X", help="at least")
    bounds.add_argument("--lpips", type=float, metavar="X", help="at most")
    bounds.add_argument("--seconds", type=float, metavar="S", help="at most, for the pipeline's calls in one command")
    parser.add_argument("--budget", metavar="TIME", help="start no further run after so long: 90, 20m, 2h")
