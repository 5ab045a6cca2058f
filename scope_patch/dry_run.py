"""`run --dry-run`: what would be run, with which settings and where each came from."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence

from .environment import TRIGGERS
from .interpreter import Interpreter
from .settings import NAMES, Settings


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
    for name in NAMES:
        value = getattr(settings, name)
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
