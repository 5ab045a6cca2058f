"""The command `compare`: two paths in, a table out. Light at the top: `run` and `plan` build these options too."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `compare`."""
    parser.add_argument("reference", type=Path, metavar="REFERENCE", help="a video, a folder of PNG, or latents")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="the same kind, length and size")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--strip", type=Path, metavar="FILE.png", help="draw frames and their differences")
    parser.add_argument("--strip-frames", type=int, default=8, metavar="N", help="columns of the strip (default: 8)")
    parser.add_argument("--gain", type=float, default=4.0, metavar="X", help="differences times X (default: 4)")
    parser.add_argument(
        "--lpips",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="LPIPS on AlexNet (default: where its weights are installed)",
    )


def run(options: argparse.Namespace) -> int:
    """Print how near OUTPUT came to REFERENCE. Raises UsageError for files and options that cannot be used."""
    if options.strip_frames < 1 or not options.gain > 0:
        raise UsageError("--strip-frames is 1 or more, and --gain more than 0")
    from . import strip
    from .comparison import compare, side
    from .read import read
    from .show import as_dict, lines

    if options.strip is not None:
        strip.check_path(options.strip)
    reference, output = (side(path, read(path)) for path in (options.reference, options.output))
    made = compare(reference, output, options.lpips)
    if options.strip is not None:
        image = strip.draw(made.reference.tensor, made.output.tensor, options.strip_frames, options.gain)
        strip.write(image, options.strip)
    print(json.dumps(as_dict(made), allow_nan=False) if options.json else "\n".join(lines(made)))
    return 0
