"""Which job a process is of (all that descends from the first process of ours), and which of them tells of it."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..settings import JOB

_HELPERS = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")
"""Processes that Python starts beside its children, and that end after everything else."""


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

    def speaking(self) -> Job:
        """The same, with this process as its speaker."""
        os.environ[JOB] = f"{self.id}:{os.getpid()}"
        return Job.here()

    @property
    def is_root(self) -> bool:
        """Whether the job ends with this process, unless others outlive it."""
        return self.id.rpartition("-")[2] == str(os.getpid())

    def is_before(self, other: str) -> bool:
        """Whether another job, by its id, began after this one."""
        mine, theirs = (_number(each.partition("-")[0]) for each in (self.id, other))
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
        try:
            return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None  # reaps nobody
        except (AttributeError, ChildProcessError):
            return False

    def _others(self) -> Iterator[Path]:
        """Its processes beside this one: those that were started with its name, and children of this one."""
        mine, name = str(os.getpid()).encode(), f"{JOB}={self.id}:".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                state, parent = (folder / "stat").read_bytes().rpartition(b")")[2].split()[:2]
                if folder.name.encode() == mine or state in b"ZX":
                    continue
                ours = parent == mine or name in (folder / "environ").read_bytes()
                if ours and not any(helper in (folder / "cmdline").read_bytes() for helper in _HELPERS):
                    yield folder
            except OSError:  # it has ended meanwhile, or is somebody else's
                continue


def new_id() -> str:
    """The id of a job whose root this process becomes by exec."""
    return f"{time.time_ns()}-{os.getpid()}"


def _above() -> int | None:
    """The process that has started this one and others like it, by Python's own means or torchrun's."""
    parallel = sys.modules.get("multiprocessing.process")
    parent = parallel.parent_process() if parallel is not None else None
    if parent is not None:
        return int(parent.pid)
    return os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None


def _started(pid: int) -> int:
    """When a process was started, in nanoseconds since 1970: whoever asks, the same; now, where that is not known."""
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
        return int(boot.split()[1]) * 10**9 + ticks * 10**9 // os.sysconf("SC_CLK_TCK")
    except (OSError, StopIteration, ValueError, IndexError):
        return time.time_ns()


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 30 else 0


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        pass
    return True
