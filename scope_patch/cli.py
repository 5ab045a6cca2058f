"""The command line: `python -m scope_patch run|plan|report|list|doctor`, also installed as `scope-patch`.

Nothing here imports torch: `run` must start as fast as the command behind it.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib import metadata

from . import launcher
from .environment import switch
from .errors import UsageError
from .interpreter import interpreter_of
from .planning.options import magi, skyreels
from .report import command as report
from .settings import NAMES, PRESETS, SIGNALS, resolve_with_origins, switched_off

USAGE_ERROR = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `run` only returns when its command could not be started."""
    logging.basicConfig(format="%(name)s: %(message)s")  # this process is ours alone, up to the exec
    words = list(sys.argv[1:] if argv is None else argv)
    # Split before any parser sees it: everything behind the first `--` is the user's, byte for byte.
    cut = words.index("--") if "--" in words else len(words)
    options = _parser().parse_args(words[:cut])
    command = words[cut + 1 :]
    try:
        if options.action == "run":
            return _run(options, command)
        if command:
            raise UsageError(f"{options.action} takes no command behind `--`; did you mean `run`?")
        if options.action == "list":
            from .listing import print_list

            return print_list()
        if options.action == "plan":
            from .planning.command import run

            return run(options)
        if options.action == "report":
            return report.run(options)
        from .doctor import print_doctor

        return print_doctor(options.repo)
    except UsageError as error:
        print(f"scope_patch: {error}", file=sys.stderr)
        return USAGE_ERROR
    except BrokenPipeError:  # `doctor | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scope_patch",
        description="Training-free acceleration of autoregressive video diffusion.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=_version())
    actions = parser.add_subparsers(dest="action", required=True, metavar="{run,plan,report,list,doctor}")
    run = actions.add_parser(
        "run",
        help="run a command with its video model patched",
        usage="python -m scope_patch run [OPTIONS] -- COMMAND [ARG ...]",
        description="Each option has an environment variable of the same name (SCOPE_PATCH_MAX_SKIP, ...); options "
        "win. SCOPE_PATCH=0 switches everything off.",
        allow_abbrev=False,
    )
    _deciding_options(run)
    run.add_argument("--report", metavar="FILE", help="write what was skipped, as JSON")
    run.add_argument("--strict", action="store_true", default=None, help="fail instead of running unpatched")
    run.add_argument("--dry-run", action="store_true", help="print what would be run, and run nothing")
    plan = actions.add_parser(
        "plan", help="decisions, forwards and FLOPs of a run, before it and without weights", allow_abbrev=False
    )
    hosts = plan.add_subparsers(dest="host", required=True, metavar="HOST")
    for name, add in (("skyreels-v2", skyreels), ("skyreels-v2-diffusers", skyreels), ("magi-1", magi)):
        host = hosts.add_parser(name, allow_abbrev=False)
        add(host)
        _deciding_options(host)
        host.add_argument("--json", action="store_true", help="for programs")
    shown = actions.add_parser("report", help="what a run did, as text, page or figure", allow_abbrev=False)
    report.add_arguments(shown)
    actions.add_parser("list", help="known architectures, policies and predictors, with their origin")
    doctor = actions.add_parser("doctor", help="what matches here, which check failed, can injection work")
    doctor.add_argument("--repo", metavar="DIR", help="look at this clone, reading its files without importing them")
    return parser


def _deciding_options(parser: argparse.ArgumentParser) -> None:
    """What is decided, in a run and in a plan alike."""
    parser.add_argument(
        "--preset", metavar="{" + ",".join(PRESETS) + "}", help="a speed-up of the paper's (default: fast)"
    )
    parser.add_argument(
        "--target-speedup", metavar="X", help="do 1/X of the DiT's work; planned before the first forward"
    )
    parser.add_argument(
        "--policy", metavar="NAME", help="scope (default), or never: patched, but every step recomputed"
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
        "--per-chunk",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="MAGI-1: decide chunk by chunk (default), or for the whole window alike",
    )
    parser.add_argument(
        "--signal", metavar="{" + ",".join(SIGNALS) + "}", help="what decisions are made from (default: the host's own)"
    )


def _version() -> str:
    try:
        return "scope-patch " + metadata.version("scope-patch")
    except metadata.PackageNotFoundError:
        return "scope-patch (a checkout that is not installed)"


def _run(options: argparse.Namespace, command: list[str]) -> int:
    from .listing import check_names, triggers

    if not command:
        raise UsageError("no command to run; write it behind `--`: python -m scope_patch run [OPTIONS] -- COMMAND")
    off = switched_off(os.environ)
    settings, origins = resolve_with_origins({name: getattr(options, name) for name in NAMES}, os.environ)
    check_names(settings)
    if settings.report is not None:
        launcher.check_report_path(settings.report)
    interpreter = interpreter_of(command, os.environ)
    obstacle = "SCOPE_PATCH=0 switches everything off" if off else interpreter.obstacle()
    environ = dict(os.environ) if off else launcher.child_environment(settings, os.environ, triggers())
    if options.dry_run or switch(os.environ.get("SCOPE_PATCH_DRY_RUN") or False, "SCOPE_PATCH_DRY_RUN"):
        from .dry_run import describe

        print(describe(settings, origins, command, environ, interpreter, obstacle))
        return 0
    if obstacle is not None:
        if settings.strict and not off:
            raise UsageError(f"nothing can be patched: {obstacle}; leave the flag out, or import scope_patch.auto")
        print(f"scope_patch: nothing will be patched: {obstacle}", file=sys.stderr)
    reason = obstacle or "no process of the command has imported a known host (or it dropped our PYTHONPATH)"
    if launcher.startable(command[0], environ):
        launcher.write_first_report(settings, reason)
    return launcher.execute(command, environ)
