"""A file that several processes write to in turn: whoever has its turn reads it and replaces it in one step.

A process that is killed in its turn gives it up, and the file is as it was before.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

try:
    import fcntl
except ImportError:  # no such locks on this system
    fcntl = None  # type: ignore[assignment]

PATIENCE = 20.0
"""Seconds to wait for one's turn; each takes milliseconds."""
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""What somebody else has put in our place is neither followed nor waited for."""


class Turn(NamedTuple):
    """Attributes:
    target: the file, whatever symlinks lead there.
    part: one beside it, to be written in its place.
    locked: nobody else has a turn; False where there are no file locks.
    """

    target: Path
    part: Path
    locked: bool

    def write(self, text: str) -> None:
        """Replace the file. Raises OSError; it is as it was then."""
        self.part.write_text(text, encoding="utf-8")
        os.replace(self.part, self.target)


@contextmanager
def turn(path: Path) -> Iterator[Turn]:
    """One's turn. Raises OSError where the file cannot be written, is none, or stays locked for too long."""
    target = _target(path)
    if target.exists() and not target.is_file():
        raise OSError(f"{path} is no regular file")  # never put a file in the place of a device
    part, end = target.with_name(f"{target.name}.part"), time.monotonic() + PATIENCE
    while True:
        with open(part, "a", opener=lambda name, flags: os.open(name, flags | _FLAGS, 0o666)) as file:
            locked = _lock(file, end)
            if locked and not _is(file, part):
                continue  # whoever had the turn before has put it in place, and the next one is another file
            mine = part if locked else part.with_name(f"{part.name}-{os.getpid()}-{threading.get_ident()}")
            try:
                yield Turn(target, mine, locked)
            finally:
                for left in {mine, part}:
                    if left != part or _is(file, part):
                        left.unlink(missing_ok=True)
                if locked:
                    fcntl.flock(file, fcntl.LOCK_UN)  # a process forked meanwhile has it open, too
            return


def put(path: Path, text: str) -> None:
    """Write a text to `path` in one step, through a symlink if it is one; rank 0 only. Raises OSError."""
    if os.environ.get("RANK", "0") == "0":
        with turn(path) as mine:
            mine.write(text)


def _lock(file: IO[str], end: float) -> bool:
    """Wait until it is ours; False where there are no locks. Raises OSError after too long."""
    while fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                raise OSError(errno.EAGAIN, f"another process has locked {file.name}") from None
            time.sleep(0.005)
        except OSError:
            return False
    return False


def _is(file: IO[str], path: Path) -> bool:
    """Whether an open file is the one of that name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _target(path: Path) -> Path:
    """Where a path leads. Raises OSError, also where `resolve` would say it otherwise."""
    try:
        return path.resolve()
    except RuntimeError:  # before Python 3.13
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from None
    except ValueError as error:  # a NUL
        raise OSError(errno.EINVAL, str(error), str(path)) from None
