"""The command line: `python -m scope_patch COMMAND`, also installed as `scope-patch`.

Nothing here imports torch: `run` must start as fast as the command behind it.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from . import catalogue, launch, outlook, report, tuning
from .errors import UsageError
from .report.record import Run
from .report.sink import begin
from .settings import JOB, NAMES, OPTIONS, Settings, flag, resolve_with_origins, switched_off, variable
from .values import reader, switch


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `run` only returns when its command could not be started."""
    logging.basicConfig(format="%(name)s: %(message)s")  # this process is ours alone, up to the exec
    words = list(sys.argv[1:] if argv is None else argv)
    # Split before any parser sees it: everything behind the first `--` is the user's, byte for byte.
    cut = words.index("--") if "--" in words else len(words)
    parsing = parser()
    options, rest = parsing.parse_known_args(words[:cut])
    command = words[cut + 1 :]
    try:
        if not command and options.action in ("run", "calibrate", "tune", "bench"):
            form = f"write it behind `--`: python -m scope_patch {options.action} [OPTIONS] -- COMMAND"
            if rest:
                raise UsageError(f"{' '.join(rest)}: is that the command? Then {form}")
            raise UsageError(f"no command to run; {form}")
        if rest:
            parsing.error(f"unrecognized arguments: {' '.join(rest)}")
        if options.action in ("run", "calibrate"):
            return _run(options, command)
        if options.action in ("tune", "bench"):
            return tuning.run(options, command)
        if command:
            raise UsageError(f"{options.action} takes no command behind `--`; did you mean `run`?")
        if options.action == "compare":
            from . import compare  # torch with it

            return compare.run(options)
        if options.action == "plan":
            return outlook.run(options)
        if options.action == "report":
            return report.run(options)
        # A registry file that the user names, by an option or else by a variable.
        registry = options.registry or os.environ.get(variable("registry")) or None
        if options.action == "list":
            return catalogue.print_list(registry)
        from .doctor import print_doctor

        return print_doctor(options.repo, registry)
    except UsageError as error:
        print(f"scope_patch: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `doctor | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def parser() -> argparse.ArgumentParser:
    """Every command's options, those of `Settings` among them."""
    top = argparse.ArgumentParser(
        prog="scope_patch",
        description="Training-free acceleration of autoregressive video diffusion.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=_version())
    commands = top.add_subparsers(
        dest="action", required=True, metavar="{run,tune,bench,plan,calibrate,report,compare,list,doctor}"
    )
    command = partial(commands.add_parser, allow_abbrev=False)
    variables = (
        "Each option has an environment variable of the same name (SCOPE_PATCH_MAX_SKIP, ...); options win. "
        "SCOPE_PATCH=0 switches everything off."
    )
    profile = "The profile it writes is for `run --profile FILE`, with any prompt and seed."
    placeholders = (
        "In the command {out} stands for the folder or file of a run (without it: what appears in the working "
        "directory), {prompt} and {seed} for those of a video."
    )
    for name, words, more in (
        ("run", "run a command with its video model patched", variables),
        ("calibrate", "run a command unaccelerated and measure how fast its velocities change and bend", profile),
        ("tune", "find the highest speed-up that keeps a bound, by running a command of yours", placeholders),
        ("bench", "methods and speed-ups side by side, on a command of yours", placeholders),
    ):
        usage = f"python -m scope_patch {name} [OPTIONS] -- COMMAND [ARG ...]"
        running = command(name, help=words, usage=usage, description=more)
        if name in ("run", "calibrate"):
            _add_settings(running, name)
            running.add_argument("--dry-run", action="store_true", help="print what would be run, and run nothing")
        else:
            tuning.add_options(running, bench=name == "bench")
            _add_settings(running, "run", without=tuning.CHOSEN)
        if name == "calibrate":
            running.set_defaults(policy="never", calibrate="scope_profile.json")
    plan = command("plan", help="decisions, forwards and FLOPs of a run, before it and without weights")
    hosts = plan.add_subparsers(dest="host", required=True, metavar="HOST")
    for name, add in (
        ("skyreels-v2", outlook.skyreels),
        ("skyreels-v2-diffusers", outlook.skyreels),
        ("magi-1", outlook.magi),
        ("infinity", outlook.infinity),
    ):
        host = hosts.add_parser(name, allow_abbrev=False)
        add(host)
        _add_settings(host, "plan")
        host.add_argument("--json", action="store_true", help="for programs")
    compared = command("compare", help="how near an output came to a reference: PSNR, SSIM, LPIPS")
    compared.add_argument("reference", type=Path, metavar="REFERENCE", help="a video, a folder of PNG, or latents")
    compared.add_argument("output", type=Path, metavar="OUTPUT", help="the same kind, length and size")
    compared.add_argument("--json", action="store_true", help="for programs")
    compared.add_argument("--strip", type=Path, metavar="FILE.png", help="draw frames and their differences")
    compared.add_argument("--strip-frames", type=int, default=8, metavar="N", help="columns of the strip (default: 8)")
    compared.add_argument("--gain", type=float, default=4.0, metavar="X", help="differences times X (default: 4)")
    words = "LPIPS on AlexNet (default: where its weights are installed)"
    compared.add_argument("--lpips", action=argparse.BooleanOptionalAction, default=None, help=words)
    told = command("report", help="what a run did, as text, page or figure")
    told.add_argument("run_json", metavar="RUN.json", help="what `run --report RUN.json` wrote")
    told.add_argument("--html", metavar="FILE", help="one page, with everything in it")
    told.add_argument("--png", metavar="FILE", help="the timelines as a figure (needs matplotlib)")
    _add_settings(command("list", help="known hosts, policies and predictors, with their origin"), "list")
    doctor = command("doctor", help="what matches here, which check failed, can injection work")
    doctor.add_argument("--repo", metavar="DIR", help="look at this clone, reading its files without importing them")
    _add_settings(doctor, "doctor")
    return top


def _add_settings(parser: argparse.ArgumentParser, command: str, without: Sequence[str] = ()) -> None:
    """The settings that `command` has as options; one that is not given is None, so that weaker sources are asked."""
    for setting in fields(Settings):
        option, default = OPTIONS[setting.name], setting.default
        if command not in option.commands or setting.name in without:
            continue
        takes, words = option.takes, option.help
        more: dict[str, Any] = {"metavar": takes if isinstance(takes, str) else "{" + ",".join(takes) + "}"}
        if reader(setting.type) is switch:
            more = {"action": "store_true" if default is False else argparse.BooleanOptionalAction, "default": None}
        elif default is not None:
            words += f" (default: {default:g})" if isinstance(default, int | float) else f" (default: {default})"
        parser.add_argument(flag(setting.name), dest=setting.name, help=words, **more)


def _version() -> str:
    try:
        return "scope-patch " + metadata.version("scope-patch")
    except metadata.PackageNotFoundError:
        return "scope-patch (a checkout that is not installed)"


def _run(options: argparse.Namespace, command: list[str]) -> int:
    off = switched_off(os.environ)
    settings, origins = resolve_with_origins({name: getattr(options, name, None) for name in NAMES}, os.environ)
    launch.check(settings)
    interpreter = launch.interpreter_of(command, os.environ)
    obstacle = "SCOPE_PATCH=0 switches everything off" if off else interpreter.obstacle()
    environ = dict(os.environ)
    if not off:
        hosts = catalogue.usable_hosts(settings.registry)
        triggers = dict.fromkeys(name for host, _ in hosts for name in host.triggers)
        environ = launch.child_environment(settings, os.environ, triggers)
    if options.dry_run or switch(os.environ.get("SCOPE_PATCH_DRY_RUN") or False, "SCOPE_PATCH_DRY_RUN"):
        print(launch.describe(settings, origins, command, environ, interpreter, obstacle))
        return 0
    if obstacle is not None:
        if settings.strict and not off:
            raise UsageError(f"nothing can be patched: {obstacle}; leave the flag out, or import scope_patch.auto")
        print(f"scope_patch: nothing will be patched: {obstacle}", file=sys.stderr)
    if launch.startable(command[0], environ) and not launch.joins(settings, os.environ):
        begin(Run(settings, reasons=[obstacle] if obstacle else []), environ.get(JOB, "").partition(":")[0])
    return launch.execute(command, environ)
