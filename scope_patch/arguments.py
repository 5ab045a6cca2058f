"""Every command's options, in one parser. Imports no torch: `run` must start as fast as the command behind it."""

from __future__ import annotations

import argparse
from importlib import metadata

from .outlook.options import magi, skyreels
from .quality import command as comparing
from .report import command as reporting
from .settings import LEVELS, PLACEMENTS, PRESETS, SIGNALS, VERIFY_BOUND


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="scope_patch",
        description="Training-free acceleration of autoregressive video diffusion.",
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=_version())
    actions = made.add_subparsers(
        dest="action", required=True, metavar="{run,plan,calibrate,report,compare,list,doctor}"
    )
    run = actions.add_parser(
        "run",
        help="run a command with its video model patched",
        usage="python -m scope_patch run [OPTIONS] -- COMMAND [ARG ...]",
        description="Each option has an environment variable of the same name (SCOPE_PATCH_MAX_SKIP, ...); options "
        "win. SCOPE_PATCH=0 switches everything off.",
        allow_abbrev=False,
    )
    _deciding_options(run)
    _running_options(run)
    calibrate = actions.add_parser(
        "calibrate",
        help="run a command unaccelerated and measure how fast its velocities change and bend",
        usage="python -m scope_patch calibrate [OPTIONS] -- COMMAND [ARG ...]",
        description="The profile it writes is for `run --profile FILE`, with any prompt and seed.",
        allow_abbrev=False,
    )
    calibrate.add_argument(
        "--profile", dest="calibrate", default="scope_profile.json", metavar="FILE", help="default: %(default)s"
    )
    calibrate.set_defaults(policy="never")
    _running_options(calibrate)
    plan = actions.add_parser(
        "plan", help="decisions, forwards and FLOPs of a run, before it and without weights", allow_abbrev=False
    )
    hosts = plan.add_subparsers(dest="host", required=True, metavar="HOST")
    for name, add in (("skyreels-v2", skyreels), ("skyreels-v2-diffusers", skyreels), ("magi-1", magi)):
        host = hosts.add_parser(name, allow_abbrev=False)
        add(host)
        _deciding_options(host)
        host.add_argument("--json", action="store_true", help="for programs")
    comparing.add_arguments(
        actions.add_parser(
            "compare", help="how near an output came to a reference: PSNR, SSIM, LPIPS", allow_abbrev=False
        )
    )
    shown = actions.add_parser("report", help="what a run did, as text, page or figure", allow_abbrev=False)
    reporting.add_arguments(shown)
    listed = actions.add_parser("list", help="known architectures, policies and predictors, with their origin")
    _registry_option(listed)
    doctor = actions.add_parser("doctor", help="what matches here, which check failed, can injection work")
    doctor.add_argument("--repo", metavar="DIR", help="look at this clone, reading its files without importing them")
    _registry_option(doctor)
    return made


def _registry_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--registry", metavar="FILE", help="one more architecture: a .py file that defines ARCHITECTURE"
    )


def _running_options(parser: argparse.ArgumentParser) -> None:
    """What holds wherever a command is started."""
    parser.add_argument("--report", metavar="FILE", help="write what was skipped, as JSON")
    parser.add_argument(
        "--rank-timeout",
        metavar="SECONDS",
        help="how long ranks that share a model wait for one another (default: 120)",
    )
    _registry_option(parser)
    parser.add_argument("--strict", action="store_true", default=None, help="fail instead of running unpatched")
    parser.add_argument("--dry-run", action="store_true", help="print what would be run, and run nothing")


def _deciding_options(parser: argparse.ArgumentParser) -> None:
    """What is decided, in a run and in a plan alike."""
    parser.add_argument(
        "--preset", metavar="{" + ",".join(PRESETS) + "}", help="a speed-up of the paper's (default: fast)"
    )
    parser.add_argument(
        "--target-speedup", metavar="X", help="do 1/X of the DiT's work; planned before the first forward"
    )
    parser.add_argument(
        "--placement",
        metavar="{" + ",".join(PLACEMENTS) + "}",
        help="for a speed-up, recompute where skipping would err most, or by thresholds on the signal",
    )
    parser.add_argument("--profile", metavar="FILE", help="what `calibrate` measured, for placing recomputes")
    parser.add_argument(
        "--policy",
        metavar="NAME[:KEY=VALUE,...]",
        help="scope (default), never (patched, but every step recomputed), or a rival with settings of its own; `list`",
    )
    parser.add_argument(
        "--level",
        metavar="{" + ",".join(LEVELS) + "}",
        help="skip the whole forward, or only its blocks (default: the policy's own; scope: velocity)",
    )
    parser.add_argument("--cache-threshold", metavar="X", help="below it, reuse the last velocity; wins over presets")
    parser.add_argument("--predict-threshold", metavar="X", help="below it, extrapolate; from it on, run the model")
    parser.add_argument("--max-skip", metavar="N", help="at most N skipped steps in a row (default: 5)")
    parser.add_argument(
        "--predict-decay", metavar="G", help="what a prediction leaves of the discrepancy (default: 0.75)"
    )
    parser.add_argument("--predictor", metavar="NAME", help="auto (default); `list` shows the others")
    parser.add_argument(
        "--selective", action=argparse.BooleanOptionalAction, default=None, help="leave out slots that have not started"
    )
    parser.add_argument(
        "--widths", metavar="N", help="at most N widths of what is forwarded: a compiled model is compiled once a width"
    )
    parser.add_argument(
        "--per-chunk",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="MAGI-1: decide chunk by chunk (default), or for the whole window alike",
    )
    parser.add_argument(
        "--history-limit",
        metavar="SIZE[:drop]",
        help="velocities beyond it (500MB, 1.5GB) move to the CPU, the oldest first; with :drop, they are dropped",
    )
    parser.add_argument(
        "--signal", metavar="{" + ",".join(SIGNALS) + "}", help="what decisions are made from (default: the host's own)"
    )
    parser.add_argument(
        "--verify", metavar="N", help="run every N-th skipped step all the same, and say how much its prediction erred"
    )
    parser.add_argument(
        "--verify-bound",
        metavar="X",
        help=f"skip less from a relative error above X on (default: {VERIFY_BOUND}); with --verify",
    )


def _version() -> str:
    try:
        return "scope-patch " + metadata.version("scope-patch")
    except metadata.PackageNotFoundError:
        return "scope-patch (a checkout that is not installed)"
