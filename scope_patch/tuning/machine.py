"""What a row says of where it was made: the machine, and our code by its content."""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

from .. import registry

PACKAGE = Path(__file__).resolve().parent.parent


def where() -> dict[str, str]:
    """`machine`, `code` and `date`."""
    threads = os.environ.get("OMP_NUM_THREADS")
    return {
        "machine": f"{_device()}, torch {metadata.version('torch')}" + (f", {threads} threads" if threads else ""),
        "code": code(),
        "date": str(datetime.date.today()),
    }


@cache
def code() -> str:
    """Eight letters of the sources that decide and forward: not of what only measures them."""
    found = hashlib.sha256()
    for folder in (PACKAGE, Path(registry.__path__[0])):
        for path in sorted(folder.rglob("*.py")):
            if PACKAGE / "tuning" not in path.parents:
                found.update(path.read_bytes())
    return found.hexdigest()[:8]


def _device() -> str:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"{_processor()} ({platform.machine()}, {os.cpu_count()} cores)"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "CPU"
