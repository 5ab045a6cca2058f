"""Which Python a command line starts, as far as that can be told without starting it, and what keeps us out of it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_PYTHON = re.compile(r"(python|pypy)[0-9.]*$")
_BLOCKING = {"I": "isolated mode", "E": "ignores PYTHON* variables", "S": "skips the site module"}
_WITH_VALUE = "WX"  # -W arg, -X arg; -c and -m end the options


@dataclass(frozen=True)
class Interpreter:
    """`path` is None when it cannot be told (`bash run.sh` decides by itself); `blocking`: flags that keep us out."""

    path: str | None
    blocking: tuple[str, ...] = ()

    def obstacle(self) -> str | None:
        """Why injection cannot work there, as half a sentence; None when nothing speaks against it."""
        if not self.blocking:
            return None
        reasons = ", ".join(f"-{flag} ({_BLOCKING[flag]})" for flag in self.blocking)
        return f"the interpreter is started with {reasons}, so it never reads our sitecustomize"


def interpreter_of(command: Sequence[str], environ: Mapping[str, str]) -> Interpreter:
    """Look at `python …`, `env A=b python …` and at scripts with a `#!` line that names a Python."""
    words = _without_env(list(command))
    if not words:
        return Interpreter(None)
    path = shutil.which(words[0], path=environ.get("PATH"))
    if _PYTHON.match(os.path.basename(words[0])):
        return Interpreter(path, blocking_flags(words[1:]))
    shebang = _without_env(_shebang(path)) if path else []
    if shebang and _PYTHON.match(os.path.basename(shebang[0])):
        return Interpreter(shutil.which(shebang[0], path=environ.get("PATH")), blocking_flags(shebang[1:]))
    return Interpreter(None)


def blocking_flags(arguments: Sequence[str]) -> tuple[str, ...]:
    """Those of -I, -E, -S among an interpreter's own options, also joined as in `-BE`; the script's come later."""
    found: list[str] = []
    rest = iter(arguments)
    for word in rest:
        if not word.startswith("-") or word in ("-", "--"):
            break
        if word.startswith("--"):
            continue
        for position, letter in enumerate(word[1:], start=1):
            if letter in "cm":
                return tuple(found)
            if letter in _WITH_VALUE:
                if position == len(word) - 1:
                    next(rest, None)
                break
            if letter in _BLOCKING and letter not in found:
                found.append(letter)
    return tuple(found)


def _without_env(words: list[str]) -> list[str]:
    """`env A=b python x` -> `python x`; an `env` with options of its own is left alone, as `cannot be told`."""
    if not words or os.path.basename(words[0]) != "env":
        return words
    rest = words[1:]
    if rest[:1] == ["-S"]:
        rest = rest[1:]
    while rest and "=" in rest[0] and not rest[0].startswith("-"):
        rest = rest[1:]
    return rest


def _shebang(path: str) -> list[str]:
    try:
        with open(path, "rb") as file:
            first = file.readline(512)
    except OSError:
        return []
    return os.fsdecode(first[2:]).split() if first.startswith(b"#!") else []
