"""`compare`: how near an output came to its reference. PSNR, SSIM, LPIPS, failures, a strip of pictures.

Works on files alone: nothing here knows a model, a method or a host. This file imports no torch: `run` builds the
options too. What else is needed is in the extra `report` and is imported where it is used.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

from ..errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("reference", type=Path, metavar="REFERENCE", help="a video, a folder of PNG, or latents")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="the same kind, length and size")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--strip", type=Path, metavar="FILE.png", help="draw frames and their differences")
    parser.add_argument("--strip-frames", type=int, default=8, metavar="N", help="columns of the strip (default: 8)")
    parser.add_argument("--gain", type=float, default=4.0, metavar="X", help="differences times X (default: 4)")
    words = "LPIPS on AlexNet (default: where its weights are installed)"
    parser.add_argument("--lpips", action=argparse.BooleanOptionalAction, default=None, help=words)


def extra(module: str, package: str) -> Any:
    """The module `module` of the distribution `package`. Raises UsageError where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"this needs {package}, which cannot be imported ({error}); it is in the extra `report`: "
            'pip install -c constraints.txt -e ".[report]"'
        ) from error
