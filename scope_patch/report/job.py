"""Which job a process is of (all that descends from the first process of ours), which of them tells of it, and files
that they write to in turn.

Whoever has its turn reads a file and replaces it in one step. A process that is killed in its turn gives it up, and the
file is as it was before.
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from ..settings import JOB

try:
    import fcntl
except ImportError:  # no such locks on this system
    fcntl = None  # type: ignore[assignment]

_HELPERS = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")
"""Processes that Python starts beside its children, and that end after everything else."""
PATIENCE = 20.0  # seconds to wait for one's turn; each takes milliseconds
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""What somebody else has put in our place is neither followed nor waited for."""


@dataclass(frozen=True)
class Job:
    """One job.

    Attributes:
        id: when it began (nanoseconds since 1970), a dash, and the process id of its root: what `run` became, or else
            the process that the others were started by.
        speaker: the process that says on stderr what became of it: the first Python process above this one that came
            to know of us, or this one; None where none has.
    """

    id: str
    speaker: int | None = None

    @classmethod
    def here(cls) -> Job:
        """The job of this process, and of all that it starts from now on."""
        name, _, speaker = os.environ.get(JOB, "").partition(":")
        if not name:
            root = _above() or os.getpid()
            name = f"{_started(root)}-{root}"
            os.environ[JOB] = f"{name}:"
        return cls(name, int(speaker) if speaker.isdecimal() else None)

    @property
    def is_root(self) -> bool:
        """Whether the job ends with this process, unless others outlive it."""
        return self.id.rpartition("-")[2] == str(os.getpid())

    def is_before(self, other: str) -> bool:
        """Whether another job, by its id, began after this one."""
        begins = (each.partition("-")[0] for each in (self.id, other))
        mine, theirs = (int(text) if text.isdecimal() and len(text) < 30 else 0 for text in begins)
        return mine < theirs <= time.time_ns()  # none that is still to come: the clock was put back

    def scratch(self) -> Path | None:
        """Where a process without a report leaves what the speaker shall tell; None where nobody would read it.

        Raises OSError where it cannot be made, or somebody else has.
        """
        if self.speaker is None or self.speaker == os.getpid() or not _alive(self.speaker):
            return None
        path = self.scratch_of(self.speaker)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if os.lstat(path.parent).st_uid != os.getuid():
            raise OSError(f"{path.parent} is somebody else's")
        return path

    def scratch_of(self, speaker: int) -> Path:
        """The same for a speaker, whether it is there or not."""
        return Path(tempfile.gettempdir()) / f"scope_patch-{self.id}-{speaker}" / "job.json"

    def goes_on(self) -> bool:
        """Whether other processes of it are alive, as far as the system says so."""
        parallel = sys.modules.get("multiprocessing.process")
        if parallel is not None and parallel.active_children():
            return True
        if Path("/proc/self/environ").exists():
            return any(self._others())
        with suppress(AttributeError, ChildProcessError):
            return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None  # reaps nobody
        return False

    def _others(self) -> Iterator[Path]:
        """Its processes beside this one: those that were started with its name, and children of this one."""
        mine, name = str(os.getpid()).encode(), f"{JOB}={self.id}:".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended meanwhile, or is somebody else's
                state, parent = (folder / "stat").read_bytes().rpartition(b")")[2].split()[:2]
                if folder.name.encode() == mine or state in b"ZX":
                    continue
                ours = parent == mine or name in (folder / "environ").read_bytes()
                if ours and not any(helper in (folder / "cmdline").read_bytes() for helper in _HELPERS):
                    yield folder


def _above() -> int | None:
    """The process that has started this one and others like it, by Python's own means or torchrun's."""
    parallel = sys.modules.get("multiprocessing.process")
    parent = parallel.parent_process() if parallel is not None else None
    if parent is not None:
        return int(parent.pid)
    return os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None


def _started(pid: int) -> int:
    """When a process was started, in nanoseconds since 1970: whoever asks, the same; now, where that is not known."""
    with suppress(OSError, StopIteration, ValueError, IndexError):
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
        return int(boot.split()[1]) * 10**9 + ticks * 10**9 // os.sysconf("SC_CLK_TCK")
    return time.time_ns()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:  # or it is somebody else's
        return not isinstance(error, ProcessLookupError)
    return True


@contextmanager
def turn(path: Path) -> Iterator[tuple[Callable[[str], None], bool]]:
    """One's turn: what replaces the file by a text, and whether nobody else has a turn; False without file locks.

    Raises OSError where the file cannot be written, is none, or stays locked for too long; it is as it was then.
    """
    try:
        target = path.resolve()
    except RuntimeError:  # symlinks in a circle, before Python 3.13
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from None
    except ValueError as error:  # a NUL
        raise OSError(errno.EINVAL, str(error), str(path)) from None
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
                yield partial(_replace, mine, target), locked
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
        with turn(path) as (write, _):
            write(text)


def _replace(part: Path, target: Path, text: str) -> None:
    part.write_text(text, encoding="utf-8")
    os.replace(part, target)


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
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    return False
