"""Makes the runs that the log has not: the original of each first, then what is compared with it."""

from __future__ import annotations

import datetime
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..compare import lpips
from ..compare.read import extra
from ..errors import ScopePatchError, UsageError
from .outputs import PREVIEW, draw, load, nearness, paired
from .points import FAILED, KEY, LOG, OK, UNAVAILABLE, Case, Job, Log, Point, Row, code, digest

SAID = "output.txt"  # of a run's folder: what a command said


def check_packages() -> None:
    """Raises UsageError for the first that is not installed: it is said before the first run, not after it."""
    extra("skimage.metrics", "scikit-image")
    extra("PIL.Image", "pillow")
    extra("imageio_ffmpeg", "imageio-ffmpeg")
    for package in ("filelock", "matplotlib", "jinja2", "tqdm"):
        extra(package, package)


@dataclass
class Made:
    """What a run left: `outputs`, its files, or videos where they are in memory (frames uint8 [F, H, W, 3], latents);
    `numbers` of the row, by name (None: not known here); and `failures` that its pictures do not show."""

    outputs: Sequence[Path | Tensor]
    numbers: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


class Maker:
    """What makes videos: the user's command, or a function; `name` is to be read, and to be copied where it can be.

    `fingerprint` tells its runs from those of any other, or of what it was before; `measured`, `clock`: how `flops` and
    `seconds` of a row were counted.
    """

    name: str
    fingerprint: str
    measured, clock = "by the cost model of its plans", "by the clock"

    def available(self, job: Job) -> str:
        """Why this run cannot be made; "" where it can."""
        return ""

    def make(self, job: Job, folder: Path) -> Made:
        """Make it. Raises ScopePatchError, or whatever a host raises."""
        raise NotImplementedError


class Progress:
    """One line on stderr: what is under way, and about how long it will still take; without a terminal a line a run.

    Attributes: left, seconds that all remaining runs will take, the present one with them; None where nobody knows.
    """

    def __init__(self) -> None:
        self.left: float | None = None
        self._begin, self._words = time.monotonic(), ""
        self._bar: Any = None
        if sys.stderr is not None and sys.stderr.isatty():
            tqdm = extra("tqdm", "tqdm").tqdm
            self._bar = tqdm(bar_format="{desc}", dynamic_ncols=True, file=sys.stderr, leave=False)

    def close(self) -> None:
        """Leave nothing of it on the terminal."""
        if self._bar is not None:
            self._bar.close()

    def told(self, words: str) -> None:
        """A run begins."""
        self._begin, self._words = time.monotonic(), words
        if self._bar is None and sys.stderr is not None:
            print(self._line(), file=sys.stderr, flush=True)
        self.tick()

    def tick(self) -> None:
        """Time goes by."""
        if self._bar is not None:
            self._bar.set_description_str(self._line())

    def _line(self) -> str:
        spent = time.monotonic() - self._begin
        words = f"scope_patch: {self._words}" + (f", {_clock(spent)}" if spent >= 1 else "")
        return words if self.left is None else f"{words}; about {_clock(max(self.left - spent, 1))} left"


def _clock(seconds: float) -> str:
    """`12 s`, `3 min`, `1.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Harness:
    """`run` gives a run's row, making it where the log has none; `made`: runs that were begun.

    `folder` keeps everything: the log, and `runs/` with a folder a run. `previews`: draw what the page shows.
    """

    def __init__(self, maker: Maker, folder: Path, progress: Progress, previews: bool) -> None:
        self.maker, self.progress, self.previews, self.made = maker, progress, previews, 0
        self.log = Log(folder / LOG)
        self.folder = folder.resolve()  # a command may join {out} to a folder of its own, or work elsewhere
        self._distance, self._begin, self._here = lpips.load(), time.monotonic(), _here()
        self._top, self._originals = Path(), list[Tensor]()  # the original last read: a video's runs follow one another

    def run_all(self, points: Sequence[Point], cases: Sequence[Case]) -> None:
        """All points on a video before the next video: its original is read once. The pace tells what is left."""
        jobs = [Job(point, *case) for case in cases for point in points]
        for number, job in enumerate(jobs):
            if self.made:
                self.progress.left = (time.monotonic() - self._begin) / self.made * (len(jobs) - number)
            self.run(job)

    def run(self, job: Job) -> Row:
        """Its row, from the log or of a run that is made now. Raises UsageError where the original cannot be made."""
        if known := self.log.found(job, self.maker.fingerprint):
            return known
        if why := self.maker.available(job):
            return self._noted(job, UNAVAILABLE, reason=why)
        original, folder = self.original(job), self.place(job)
        self.progress.told(f"{job.point.method}, {job.point.name}")
        self.made += 1
        try:
            made = self.maker.make(job, folder)
            near = self._compared(job, original, made, folder)
        except ScopePatchError as error:
            return self._noted(job, FAILED, reason=f"{error}{_last_lines(folder)}")
        except Exception as error:  # whatever a method breaks in the host, the rest of the bench is worth having
            return self._noted(job, FAILED, reason=f"{type(error).__name__}: {error}")
        return self._noted(job, OK, **made.numbers, **near)

    def original(self, job: Job) -> Row:
        """The row of the original, whose files are there. Raises UsageError, or what the host raises."""
        job = job.original
        known, folder = self.log.found(job, self.maker.fingerprint), self.place(job)
        if known is not None and all((folder / name).exists() for name in known["outputs"]):
            return known
        self.progress.told("the original")
        self.made += 1
        try:
            made = self.maker.make(job, folder)
        except UsageError as error:
            if said := _last_lines(folder):
                raise UsageError(f"the original could not be made: {error}{said}") from None
            raise
        folder.mkdir(parents=True, exist_ok=True)
        paths = [_kept(each, folder, k) for k, each in enumerate(made.outputs)]
        for path in paths:
            load(path)  # what cannot be read is said now, not after a second run
        names = [str(path.relative_to(folder)) for path in paths]
        near = {**nearness([], None), "failures": made.failures}
        return self._noted(job, OK, outputs=names, **made.numbers, **near)

    def place(self, job: Job) -> Path:
        return self.folder / "runs" / digest(*job.key(self.maker.fingerprint))

    def _compared(self, job: Job, original: Row, made: Made, folder: Path) -> dict[str, Any]:
        top = self.place(job.original)
        names = [top / name for name in original["outputs"]]
        if self._top != top:
            self._top, self._originals = top, [load(name) for name in names]
        paths = [path for path in made.outputs if isinstance(path, Path)]
        if paths:
            held = dict(zip(names, self._originals, strict=True))
            pairs = [(held[mine], load(path)) for mine, path in paired(names, paths, top, folder)]
        else:
            tensors = [each for each in made.outputs if isinstance(each, Tensor)]
            if len(tensors) != len(self._originals):
                raise UsageError(f"it made {len(tensors)} videos, and the original {len(self._originals)}")
            pairs = list(zip(self._originals, tensors, strict=True))
        near = nearness(pairs, self._distance)
        if self.previews:
            folder.mkdir(parents=True, exist_ok=True)
            draw(*pairs[0], folder / PREVIEW)
        near["failures"] |= made.failures
        return {**near, "outputs": [str(path.relative_to(folder)) for path in paths]}

    def _noted(self, job: Job, status: str, **values: Any) -> Row:
        point = job.point
        row = dict(zip(KEY, job.key(self.maker.fingerprint), strict=True)) | self._here
        row |= {"settings": point.settings, "instead": point.instead, "video": point.video, "x": point.x}
        row |= {"status": status, **values, "folder": str(self.place(job).relative_to(self.folder))}
        self.log.add(row)
        return row


@contextmanager
def at_work(maker: Maker, folder: Path, previews: bool = True) -> Iterator[Harness]:
    """A harness on a folder that is nobody else's meanwhile. Raises UsageError where it is, or cannot be written."""
    filelock = extra("filelock", "filelock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock", timeout=0).acquire()
    except filelock.Timeout:
        raise UsageError(
            f"another process is writing to {folder}; wait for its end, or give another place by --folder"
        ) from None
    except OSError as error:
        raise UsageError(f"--folder {folder} cannot be written ({error.strerror}); give another one") from error
    with lock, closing(Progress()) as progress:
        yield Harness(maker, folder, progress, previews)


def _kept(video: Path | Tensor, folder: Path, k: int) -> Path:
    """The file of an output; one that is in memory is written, whole or not at all."""
    if isinstance(video, Path):
        return video
    path = folder / f"{k:03d}{'.pt' if video.is_floating_point() else '.frames.pt'}"
    part = path.with_suffix(".part")
    torch.save(video.contiguous(), part)
    part.replace(path)
    return path


def _last_lines(folder: Path) -> str:
    """What a command said last, for the end of a message; "" where there was no command."""
    said = folder / SAID
    if not said.is_file():
        return ""
    text = said.read_bytes()[-20_000:].decode(errors="replace").replace("\r", "\n")
    lines = [line for line in text.splitlines() if line.strip()][-12:]
    return "; its last lines:\n" + "\n".join(f"  | {line}" for line in lines) if lines else "; it said nothing"


def _here() -> dict[str, str]:
    """What a row says of where it was made: `machine`, `code` and `date`."""
    if torch.cuda.is_available():
        machine = str(torch.cuda.get_device_name())
    else:
        machine = f"{_processor()} ({platform.machine()}, {os.cpu_count()} cores)"
    threads = os.environ.get("OMP_NUM_THREADS")
    return {
        "machine": f"{machine}, torch {metadata.version('torch')}" + (f", {threads} threads" if threads else ""),
        "code": code(),
        "date": str(datetime.date.today()),
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "CPU"
