"""`plan`: the decisions, forwards and FLOPs of a run before it, from its options and the weights of a time embedding.

Without GPU or host; without weights too, where the signal does not need them. One way through: options (those of the
hosts' own commands, as far as a plan hangs on them) make a job (`jobs`, with the `signal` from the weights), a job is
planned and told (`plans`). Imports no torch before a plan is made: `run` builds the options too.
"""

from __future__ import annotations

import argparse
import json
import os

from ..errors import UsageError
from ..settings import NAMES, Settings

DTYPES = ("bfloat16", "float16", "float32")
_LEAST = {
    **dict.fromkeys(("num_frames", "base_num_frames", "overlap_history", "causal_block_size", "steps", "fps"), 1),
    **dict.fromkeys(("height", "width", "batch", "text_tokens"), 1),
    **dict.fromkeys(("ar_step", "addnoise_condition", "prefix_frames", "guidance_scale"), 0),
}
"""Of a host's own options."""
_WEIGHTS = "the model's safetensors files: the timestep signal is made with the time embedding in them"


def skyreels(parser: argparse.ArgumentParser) -> None:
    """Names and defaults of upstream's own script."""
    add = parser.add_argument
    add("--num-frames", type=int, default=97)
    add("--base-num-frames", type=int, default=97)
    add("--overlap-history", type=int, help="frames that a segment of a long video has from the last one")
    add("--ar-step", type=int, default=0)
    add("--causal-block-size", type=int, default=1)
    add("--causal-attention", action="store_true", help="upstream's (diffusers: blocks above 1 are)")
    add("--addnoise-condition", type=int, default=0)
    add("--steps", type=int, default=30, help="--inference_steps")
    add("--shift", type=float, default=8.0)
    add("--guidance-scale", type=float, default=6.0)
    add("--height", type=int, default=544)
    add("--width", type=int, default=960)
    add("--text-tokens", type=int, help="diffusers' max_sequence_length (default: 512, for FLOPs)")
    add("--fps", type=int, default=24, help="counts with --weights, where the model embeds it")
    add("--model", help="1.3B or 14B (default: as --weights has it, or else 1.3B)")
    add("--weights", metavar="DIR", help=_WEIGHTS)
    add("--dtype", choices=DTYPES, default=DTYPES[0], help="that the host loads the weights in (default: %(default)s)")


def magi(parser: argparse.ArgumentParser) -> None:
    """What stands in the configuration file may be given anew."""
    add = parser.add_argument
    add("--config", required=True, metavar="FILE", help="upstream's JSON, as given to --config_file")
    add("--num-frames", type=int)
    add("--steps", type=int)
    add("--height", type=int)
    add("--width", type=int)
    add("--kv-ranges", type=int, nargs="*", help="noise2clean_kvrange; none: every chunk sees all before it")
    add("--prefix-frames", type=int, default=0, help="1: image to video, more: video to video")
    add("--text-tokens", type=int, default=128, help="of the prompt, special tokens included (for FLOPs)")
    add("--weights", metavar="DIR", help=_WEIGHTS)


def infinity(parser: argparse.ArgumentParser) -> None:
    """An image: its size, its guidance, its prompt's length."""
    add = parser.add_argument
    add("--pn", choices=("0.06M", "0.25M", "0.60M", "1M"), default="1M", help="default: %(default)s")
    add("--grids", metavar="1x1,2x2,...", help="tokens of every scale, where it is no square picture")
    add("--model", choices=("2B", "8B"), default="2B", help="default: %(default)s")
    add("--cfg", default="4", help="guidance, one number or one a scale (default: 4)")
    add("--batch", type=int, default=1)
    add("--text-tokens", type=int, default=64, help="of a prompt, for FLOPs (default: %(default)s)")


def run(options: argparse.Namespace) -> int:
    """Print the plan of a host. Raises UsageError for options that cannot be used."""
    from . import jobs, plans

    for name, least in _LEAST.items():
        value = getattr(options, name, None)
        if value is not None and not value >= least:
            raise UsageError(f"--{name.replace('_', '-')} is {value}; give {least} or more")
    if not getattr(options, "shift", 1) > 0:
        raise UsageError(f"--shift is {options.shift}; give more than 0")
    flags = {name: getattr(options, name, None) for name in NAMES}
    environ = {name: value for name, value in os.environ.items() if name != "SCOPE_PATCH_REPORT"}
    settings = Settings.resolve(flags, environ)
    if options.host == "infinity":
        figures = plans.scales(*jobs.image(options, settings))
        lines = plans.scale_lines(figures)
    else:
        job = (jobs.magi_1 if options.host == "magi-1" else jobs.skyreels)(options, settings)
        figures = plans.look(job)
        lines = plans.lines(job, figures)
    print(json.dumps(figures) if options.json else "\n".join(lines))
    return 0
