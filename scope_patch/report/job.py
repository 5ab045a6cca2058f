"""Which job a process is of (all that descends from the first process of ours), and which of them tells of it."""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..settings import JOB, LAUNCHER

_HELPERS = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")
"""Processes that Python starts beside its children, and that end after everything else."""
_own: list[tuple[str, int]] = []
"""The job that was begun in this process, and its pid: a fork has this list, too."""


@dataclass(frozen=True)
class Job:
    """One job.

    Attributes:
        id: when it began (nanoseconds since 1970), a dash, and what nobody can guess.
        speaker: the process that says on stderr what became of it: the first Python process above this one that came
            to know of us, or this one; None where none has.
    """

    id: str
    speaker: int | None = None

    @classmethod
    def here(cls) -> Job:
        """The job of this process; where there is none, it begins now, and processes started from now on are of it."""
        name, _, speaker = os.environ.get(JOB, "").partition(":")
        if not name:
            name = new_id()
            _own[:] = [(name, os.getpid())]
            os.environ[JOB] = f"{name}:"
        return cls(name, int(speaker) if speaker.isdecimal() else None)

    def speaking(self) -> Job:
        """This process becomes the speaker, unless another is."""
        if self.speaker is not None:
            return self
        os.environ[JOB] = f"{self.id}:{os.getpid()}"
        return Job.here()

    @property
    def is_speaker(self) -> bool:
        """Whether that is this process."""
        return self.speaker == os.getpid()

    @property
    def is_root(self) -> bool:
        """Whether the job ends with this process: it is the command of `run`, or began the job."""
        launcher = os.environ.get(LAUNCHER, "").split(":", 1)[0]
        return launcher == str(os.getpid()) or (self.id, os.getpid()) in _own

    def is_before(self, other: str) -> bool:
        """Whether another job, by its id, began after this one."""
        mine, theirs = began(self.id), began(other)
        return mine < theirs <= time.time_ns()  # none that is still to come: the clock was put back

    @property
    def scratch(self) -> Path | None:
        """Where processes without a report leave what the speaker shall tell; None where nobody would read it."""
        if self.speaker is None or self.is_speaker or not _alive(self.speaker):
            return None
        return self.scratch_of(self.speaker)

    def scratch_of(self, speaker: int) -> Path:
        """The same, as the speaker sees it."""
        return Path(tempfile.gettempdir()) / f"scope_patch-{self.id}-{speaker}" / "job.json"

    def goes_on(self) -> bool:
        """Whether other processes of it are alive, as far as the system says so."""
        parallel = sys.modules.get("multiprocessing.process")
        if parallel is not None and parallel.active_children():
            return True
        if Path("/proc/self/environ").exists():
            return any(True for _ in self._others())
        try:
            return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None  # reaps nobody
        except (AttributeError, ChildProcessError):
            return False

    def _others(self) -> Iterator[str]:
        """Its processes beside this one: those that were started with its name, and children of this one."""
        mine, name = str(os.getpid()).encode(), f"{JOB}={self.id}:".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                state, parent = (folder / "stat").read_bytes().rpartition(b")")[2].split()[:2]
                if folder.name.encode() == mine or state in b"ZX":
                    continue
                ours = parent == mine or name in (folder / "environ").read_bytes()
                if ours and not any(helper in (folder / "cmdline").read_bytes() for helper in _HELPERS):
                    yield folder.name
            except OSError:  # it has ended meanwhile, or is somebody else's
                continue


def new_id() -> str:
    """The id of a job that begins now."""
    return f"{time.time_ns()}-{secrets.token_hex(8)}"


def began(name: str) -> int:
    """When a job of this id began; 0 where it is no id."""
    head = name.partition("-")[0]
    return int(head) if head.isdecimal() and len(head) < 30 else 0


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        pass
    return True
