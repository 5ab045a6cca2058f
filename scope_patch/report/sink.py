"""Where a run's report goes: a file, as soon as there is something to tell, and a summary on stderr at the end.

One file a job: only rank 0 writes. A process that did nothing (a helper that inherited us) writes nothing, since the
launcher has already left a "not applied" report there.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import json
import logging
import os
import sys
import threading
from pathlib import Path

from ..settings import LAUNCHER
from . import summary
from .record import Run

logger = logging.getLogger("scope_patch")


class Sink:
    """Writes the report after every generation and at interpreter exit; prints the summary at exit.

    A report that cannot be written costs a warning, never the generation.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.process = os.getpid()
        self.closed = False
        atexit.register(self.close)

    def write(self) -> None:
        """Write the report file, if one was asked for and this is the process to do it."""
        if self.run.settings.report is not None and self._speaks():
            write_or_warn(Path(self.run.settings.report), self.run)

    def close(self) -> None:
        """Write the report and print the summary, once; later calls do nothing."""
        if self.closed:
            return
        self.closed = True
        atexit.unregister(self.close)
        self.write()
        if self._speaks():
            with contextlib.suppress(OSError, ValueError):  # a closed stderr: there is nobody to tell
                print("\n".join(summary.lines(self.run)), file=sys.stderr, flush=True)

    def _speaks(self) -> bool:
        """Whether this process is the one to tell: not a fork of it, rank 0, and something was going on."""
        busy = bool(self.run.generations or self.run.reasons)
        return os.getpid() == self.process and _is_rank_zero() and (busy or _is_command())


def write_or_warn(path: Path, run: Run) -> None:
    """A report that cannot be written must cost no generation: one warning says so."""
    try:
        write(path, run)
    except OSError as error:
        logger.warning("the report could not be written to %s (%s); the generation is not affected", path, error)


def write(path: Path, run: Run) -> None:
    """Write a run's report to `path`. Raises OSError."""
    put(path, json.dumps(run.report, indent=1) + "\n")


def put(path: Path, text: str) -> None:
    """Write a text to `path` in one step, through a symlink if it is one; rank 0 only. Raises OSError."""
    if not _is_rank_zero():
        return
    target = _target(path)
    if target.exists() and not target.is_file():
        raise OSError(f"{path} is no regular file")  # never put a file in the place of a device
    part = target.with_name(f"{target.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _target(path: Path) -> Path:
    """Where a path leads. Raises OSError, also where `resolve` would say it otherwise."""
    try:
        return path.resolve()
    except RuntimeError:  # before Python 3.13
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from None
    except ValueError as error:  # a NUL
        raise OSError(errno.EINVAL, str(error), str(path)) from None


def _is_rank_zero() -> bool:
    """Whether this is the one process of the job that tells (torchrun sets RANK)."""
    return os.environ.get("RANK", "0") == "0"


def _is_command() -> bool:
    """Whether this process is the very one that `run` became (exec keeps the process id), or there was no `run`."""
    launcher = os.environ.get(LAUNCHER, "")
    return not launcher or launcher.split(":", 1)[0] == str(os.getpid())
