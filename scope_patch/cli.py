"""The command line: `python -m scope_patch COMMAND`, also installed as `scope-patch`.

Nothing here imports torch: `run` must start as fast as the command behind it.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from . import launcher
from .arguments import parser
from .environment import named, switch
from .errors import UsageError
from .interpreter import interpreter_of
from .quality import command as comparing
from .report import command as reporting
from .settings import NAMES, resolve_with_origins, switched_off

USAGE_ERROR = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `run` only returns when its command could not be started."""
    logging.basicConfig(format="%(name)s: %(message)s")  # this process is ours alone, up to the exec
    words = list(sys.argv[1:] if argv is None else argv)
    # Split before any parser sees it: everything behind the first `--` is the user's, byte for byte.
    cut = words.index("--") if "--" in words else len(words)
    options = parser().parse_args(words[:cut])
    command = words[cut + 1 :]
    try:
        if options.action in ("run", "calibrate"):
            return _run(options, command)
        if command:
            raise UsageError(f"{options.action} takes no command behind `--`; did you mean `run`?")
        if options.action == "list":
            from .listing import print_list

            return print_list(named(options.registry))
        if options.action == "plan":
            from .outlook.options import run

            return run(options)
        if options.action == "compare":
            return comparing.run(options)
        if options.action == "report":
            return reporting.run(options)
        from .doctor import print_doctor

        return print_doctor(options.repo, named(options.registry))
    except UsageError as error:
        print(f"scope_patch: {error}", file=sys.stderr)
        return USAGE_ERROR
    except BrokenPipeError:  # `doctor | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(options: argparse.Namespace, command: list[str]) -> int:
    from .listing import check_names, triggers
    from .method.profile import read

    if not command:
        form = f"python -m scope_patch {options.action} [OPTIONS] -- COMMAND"
        raise UsageError(f"no command to run; write it behind `--`: {form}")
    off = switched_off(os.environ)
    settings, origins = resolve_with_origins({name: getattr(options, name, None) for name in NAMES}, os.environ)
    check_names(settings)
    if settings.profile is not None:
        read(settings.profile)
    for path in filter(None, (settings.report, settings.calibrate)):
        launcher.check_report_path(path)
    interpreter = interpreter_of(command, os.environ)
    obstacle = "SCOPE_PATCH=0 switches everything off" if off else interpreter.obstacle()
    environ = dict(os.environ) if off else launcher.child_environment(settings, os.environ, triggers(settings.registry))
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
