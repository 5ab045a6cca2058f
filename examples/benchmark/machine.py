"""What a row says of where it was made: the machine, and the code by its content."""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def where(threads: int, jobs: int) -> dict[str, str]:
    """`machine`, `code` (eight letters of our sources) and `date`, for every row."""
    import torch

    at_once = f"{jobs} processes at once, " if jobs > 1 else ""
    return {
        "machine": f"{_processor()} ({platform.machine()}, {os.cpu_count()} cores), {at_once}{threads} thread"
        f"{'s' if threads > 1 else ''} each, torch {torch.__version__}",
        "code": _code(),
        "date": str(datetime.date.today()),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "CPU"


def _code() -> str:
    found = hashlib.sha256()
    for folder in ("scope_patch", "registry"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()[:8]
