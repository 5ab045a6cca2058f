"""Becoming the command: its environment, the report's place, the interpreter it starts, and the exec.

Never imports torch.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path

from . import catalogue
from .errors import UsageError
from .method import profile
from .settings import JOB, LAUNCHER, Settings, flag, variable

BOOTSTRAP = str(Path(__file__).resolve().parent / "bootstrap")
NOT_EXECUTABLE, NOT_FOUND = 126, 127
TRIGGERS = "_SCOPE_PATCH_TRIGGERS"
"""To bootstrap/sitecustomize.py: the top-level packages whose import arms us."""

_PYTHON = re.compile(r"(python|pypy)[0-9.]*$")
_BLOCKING = {"I": "isolated mode", "E": "ignores PYTHON* variables", "S": "skips the site module"}
_OPTION = re.compile(r"-(?=[^-])([^cmWX]*)([cmWX]?)(.*)", re.DOTALL)
"""Letters of an interpreter's options; -W and -X have a value, -c and -m end them."""


def child_environment(settings: Settings, environ: Mapping[str, str], triggers: Iterable[str]) -> dict[str, str]:
    """The command's environment: `environ` with the resolved settings and what bootstrap/sitecustomize.py needs."""
    child = {**environ, **settings.to_environ(), TRIGGERS: ",".join(triggers)}
    # Ours in front, the rest byte for byte: an empty element in it means the working directory. To Python, an empty
    # PYTHONPATH is none at all; a trailing separator would add the directory.
    inherited = environ.get("PYTHONPATH", "")
    if inherited.split(os.pathsep)[0] != BOOTSTRAP:  # else it is a run within a run
        child["PYTHONPATH"] = f"{BOOTSTRAP}{os.pathsep}{inherited}" if inherited else BOOTSTRAP
    # exec keeps the process id: the Python that has it is the command itself, not one of its helpers.
    name, _, speaker = environ.get(JOB, "").partition(":")
    if not joins(settings, environ):
        child[JOB] = f"{time.time_ns()}-{os.getpid()}:"
    elif speaker == str(os.getpid()):  # this very process, which will be gone; a Python after it takes its place
        child[JOB] = f"{name}:"
    child[LAUNCHER] = f"{os.getpid()}:{sys.version_info[0]}.{sys.version_info[1]}:{sys.executable}"
    return child


def joins(settings: Settings, environ: Mapping[str, str]) -> bool:
    """Whether this is a run within a run, and a part of that job, because it writes the same report."""
    within = bool(environ.get(JOB, "").partition(":")[2])  # somebody above tells of it at the end
    return within and (environ.get(variable("report")) or None) == settings.report


def check(settings: Settings) -> None:
    """Raises UsageError for what would else be told in the midst of a run: names, and files that cannot be used."""
    catalogue.check_names(settings)
    if settings.profile is not None and settings.calibrate is None:
        profile.read(settings.profile)
    for name, path in ((flag("report"), settings.report), (flag("calibrate"), settings.calibrate)):
        if path is None:
            continue
        place = os.path.dirname(os.path.realpath(path))
        if os.path.exists(path) and not os.path.isfile(path):  # it is written in one step, by replacing what is there
            raise UsageError(f"{name} {path} is a directory or a device; give the name of a file")
        if not os.path.isdir(place):
            raise UsageError(f"{name} {path} cannot be written, because there is no directory {place}; create it first")
        if not os.access(place, os.W_OK):
            raise UsageError(f"{name} {path} cannot be written (no write permission in {place}); give another path")


def startable(name: str, environ: Mapping[str, str]) -> bool:
    """Whether the command exists and may be executed; if not, `execute` says why."""
    return shutil.which(name, path=environ.get("PATH")) is not None


def execute(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Replace this process by `command`. Returns, with the exit code and one line on stderr, only when that fails."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed before we began
            stream.flush()
    # Python ignores these at start-up, and exec hands ignored signals on: `run -- yes | head` would not end by SIGPIPE.
    for name in ("SIGPIPE", "SIGXFZ", "SIGXFSZ"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    try:
        os.execvpe(command[0], list(command), dict(environ))
    except (FileNotFoundError, NotADirectoryError):
        if not startable(command[0], environ):
            print(f"scope_patch: command not found: {command[0]}; check its name and PATH", file=sys.stderr)
            return NOT_FOUND
        why = "the interpreter in its #! line does not exist"
    except PermissionError:
        why = "not an executable file; chmod +x it, or put python in front"
    except (OSError, ValueError) as error:
        why = f"{error}; put python or bash in front of it?"
    print(f"scope_patch: cannot run {command[0]}: {why}", file=sys.stderr)
    return NOT_EXECUTABLE


@dataclass(frozen=True)
class Interpreter:
    """`path` is None when it cannot be told (`bash run.sh` decides by itself); `blocking`: flags that keep us out."""

    path: str | None
    blocking: tuple[str, ...] = ()

    def obstacle(self) -> str | None:
        """Why injection cannot work there, as half a sentence; None when nothing speaks against it."""
        reasons = ", ".join(f"-{flag} ({_BLOCKING[flag]})" for flag in self.blocking)
        return f"the interpreter is started with {reasons}, so it never reads our sitecustomize" if reasons else None


def interpreter_of(command: Sequence[str], environ: Mapping[str, str]) -> Interpreter:
    """Look at `python …`, `env A=b python …` and at scripts with a `#!` line that names a Python."""
    words, search = _without_env(list(command)), environ.get("PATH")
    script = shutil.which(words[0], path=search) if words else None
    for program in (words, _without_env(_shebang(script)) if script else []):
        if program and _PYTHON.match(os.path.basename(program[0])):
            return Interpreter(shutil.which(program[0], path=search), blocking_flags(program[1:]))
    return Interpreter(None)


def blocking_flags(arguments: Sequence[str]) -> tuple[str, ...]:
    """Those of -I, -E, -S among an interpreter's own options, also joined as in `-BE`; the script's come later."""
    found: list[str] = []
    rest = iter(arguments)
    for word in rest:
        if word.startswith("--") and word != "--":
            continue
        option = _OPTION.fullmatch(word)
        if option is None:
            break
        letters, last, value = option.groups()
        found += letters
        if last in ("c", "m"):
            break
        if last and not value:
            next(rest, None)
    return tuple(dict.fromkeys(letter for letter in found if letter in _BLOCKING))


def _without_env(words: list[str]) -> list[str]:
    """`env A=b python x` -> `python x`; an `env` with options of its own is left alone, as `cannot be told`."""
    if not words or os.path.basename(words[0]) != "env":
        return words
    rest = words[2:] if words[1:2] == ["-S"] else words[1:]
    return list(dropwhile(lambda word: "=" in word and not word.startswith("-"), rest))


def _shebang(path: str) -> list[str]:
    try:
        with open(path, "rb") as file:
            first = file.readline(512)
    except OSError:
        return []
    return os.fsdecode(first[2:]).split() if first.startswith(b"#!") else []


def describe(
    settings: Settings,
    origins: Mapping[str, str],
    command: Sequence[str],
    environ: Mapping[str, str],
    interpreter: Interpreter,
    obstacle: str | None,
) -> str:
    """The lines that --dry-run prints."""
    lines = ["settings:"]
    for name, value in vars(settings).items():
        lines.append(f"  {name:<18} {'-' if value is None else value!s:<10} {origins[name]}")
    lines.append(f"command:     {shlex.join(command)}")
    lines.append(f"PYTHONPATH:  {environ.get('PYTHONPATH', '')}")
    lines.append(f"interpreter: {interpreter.path or 'cannot be told: the command decides'}")
    if interpreter.path is not None and interpreter.path != sys.executable:
        lines.append(f"             (this is {sys.executable}; the other one needs torch, wrapt and packaging)")
    hosts = environ.get(TRIGGERS, "").replace(",", ", ")
    verdict = f"cannot work: {obstacle}" if obstacle else f"can work; armed by an import of {hosts}"
    lines.append(f"injection:   {verdict}")
    return "\n".join(lines)
