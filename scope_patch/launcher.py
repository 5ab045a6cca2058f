"""Becoming the command: its environment, the report's place, and the exec. Never imports torch."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .environment import LAUNCHER, TRIGGERS
from .errors import UsageError
from .report.record import Run
from .report.sink import write
from .settings import Settings

BOOTSTRAP = str(Path(__file__).resolve().parent / "bootstrap")
NOT_EXECUTABLE, NOT_FOUND = 126, 127


def pythonpath(inherited: str | None) -> str:
    """Our directory in front, the rest byte for byte: an empty element in it means the working directory and stays."""
    if not inherited:  # to Python, an empty PYTHONPATH is none at all; a trailing separator would add the directory
        return BOOTSTRAP
    if inherited.split(os.pathsep)[0] == BOOTSTRAP:  # a run within a run
        return inherited
    return BOOTSTRAP + os.pathsep + inherited


def child_environment(settings: Settings, environ: Mapping[str, str], triggers: Iterable[str]) -> dict[str, str]:
    """The command's environment: `environ` with the resolved settings and what bootstrap/sitecustomize.py needs."""
    child = {**environ, **settings.to_environ()}
    child["PYTHONPATH"] = pythonpath(environ.get("PYTHONPATH"))
    child[TRIGGERS] = ",".join(triggers)
    # exec keeps the process id: the Python that has it is the command itself, not one of its helpers.
    child[LAUNCHER] = f"{os.getpid()}:{sys.version_info[0]}.{sys.version_info[1]}:{sys.executable}"
    return child


def check_report_path(path: str) -> None:
    """Raises UsageError when no report could be written to `path` at the end of a long generation."""
    folder = os.path.dirname(os.path.realpath(path))
    if os.path.exists(path) and not os.path.isfile(path):  # it is written in one step, by replacing what is there
        raise UsageError(f"--report {path} is a directory or a device; give the name of a file")
    if not os.path.isdir(folder):
        raise UsageError(f"--report {path} cannot be written, because there is no directory {folder}; create it first")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"--report {path} cannot be written (no write permission in {folder}); give another path")


def write_first_report(settings: Settings, reason: str) -> None:
    """Leave a `not-applied` report, which the patched host overwrites.

    A report of an earlier run that stayed where it was would be taken for this one's when nothing gets patched.
    Raises UsageError when the file cannot be written after all.
    """
    if settings.report is None:
        return
    run = Run(settings, reasons=[reason])
    try:
        write(Path(settings.report), run)
    except OSError as error:
        why = error.strerror
        raise UsageError(f"--report {settings.report} cannot be written ({why}); give another path") from None


def startable(name: str, environ: Mapping[str, str]) -> bool:
    """Whether the command exists and may be executed; if not, `execute` says why."""
    return shutil.which(name, path=environ.get("PATH")) is not None


def execute(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Replace this process by `command`. Returns, with the exit code and one line on stderr, only when that fails."""
    sys.stdout.flush()
    sys.stderr.flush()
    # Python ignores these at start-up, and exec hands ignored signals on: `run -- yes | head` would not end by SIGPIPE.
    for name in ("SIGPIPE", "SIGXFZ", "SIGXFSZ"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    try:
        os.execvpe(command[0], list(command), dict(environ))
    except (FileNotFoundError, NotADirectoryError):
        if shutil.which(command[0], path=environ.get("PATH")) is None:
            print(f"scope_patch: command not found: {command[0]}; check its name and PATH", file=sys.stderr)
            return NOT_FOUND
        print(f"scope_patch: cannot run {command[0]}: the interpreter in its #! line does not exist", file=sys.stderr)
    except PermissionError:
        print(
            f"scope_patch: cannot run {command[0]}: not an executable file; chmod +x it, or put python in front",
            file=sys.stderr,
        )
    except (OSError, ValueError) as error:
        print(f"scope_patch: cannot run {command[0]}: {error}; put python or bash in front of it?", file=sys.stderr)
    return NOT_EXECUTABLE
