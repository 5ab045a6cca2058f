"""Makes the runs that the log has not: the original of each first, then what is compared with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..compare import lpips
from ..compare.read import extra
from ..errors import ScopePatchError, UsageError
from .commands import Made, RunFailed, last_lines
from .log import FAILED, KEY, OK, UNAVAILABLE, Log, Row
from .machine import where
from .outputs import load, nearness, paired
from .page import PREVIEW, draw
from .points import ORIGINAL, Job, Point, digest

NEEDS = {
    "skimage.metrics": "scikit-image", "PIL.Image": "pillow", "imageio_ffmpeg": "imageio-ffmpeg",
    "filelock": "filelock", "matplotlib": "matplotlib", "jinja2": "jinja2", "tqdm": "tqdm",
}  # fmt: skip
"""Modules, and the packages they come from: what is missing is said before the first run, not after it."""


def check_packages() -> None:
    """Raises UsageError for the first that is not installed."""
    for module, package in NEEDS.items():
        extra(module, package)


class Maker(Protocol):
    """What makes videos: the user's command, or a function.

    Attributes:
        name: to be read, and to be copied where it can be.
        fingerprint: tells its runs from those of any other, or of what it was before.
        measured, clock: how `flops` and `seconds` of a row were counted.
    """

    measured: str
    clock: str

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def available(self, job: Job) -> str:
        """Why this run cannot be made; "" where it can."""

    def make(self, job: Job, folder: Path) -> Made:
        """Make it. Raises ScopePatchError, or whatever a host raises."""


@dataclass
class Harness:
    """`run` gives a run's row, making it where the log has none.

    Attributes:
        folder: where everything is kept: the log, `runs/` with a folder a run.
        previews: draw what the page shows.
        told: called with the words of what is under way, before a run is made.
    """

    maker: Maker
    log: Log
    folder: Path
    previews: bool = True
    told: Callable[[str], None] = lambda words: None
    distance: lpips.Lpips | None = None
    made: int = 0
    _begin: float = field(default_factory=time.monotonic)
    _here: dict[str, str] = field(default_factory=where)
    _original: tuple[Path, list[Tensor]] | None = None

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()  # a command may join {out} to a folder of its own, or work elsewhere

    def run(self, job: Job) -> Row:
        """Its row, from the log or of a run that is made now. Raises RunFailed where the original cannot be made."""
        known = self.log.found(job, self.maker.fingerprint)
        if known is not None:
            return known
        if why := self.maker.available(job):
            return self._noted(job, UNAVAILABLE, reason=why)
        self.original(job)
        folder = self.place(job)
        self.told(f"{job.point.method}, {job.point.name}")
        self.made += 1
        try:
            made = self.maker.make(job, folder)
            near = self._compared(job, made, folder)
        except UsageError as error:  # its own words, or the command's last lines
            said = folder / "output.txt"
            more = last_lines(said) if not isinstance(error, RunFailed) and said.is_file() else ""
            return self._noted(job, FAILED, reason=f"{error}{more}")
        except ScopePatchError as error:
            return self._noted(job, FAILED, reason=str(error))
        except Exception as error:  # whatever a method breaks in the host, the rest of the bench is worth having
            return self._noted(job, FAILED, reason=f"{type(error).__name__}: {error}")
        return self._noted(job, OK, **made.numbers, **near)

    def pace(self, remaining: int) -> Callable[[], float | None]:
        """Seconds for so many more runs, by those that were made."""
        each = (time.monotonic() - self._begin) / self.made if self.made else None
        return lambda: None if each is None else each * remaining

    def original(self, job: Job) -> Row:
        """The row of the original, whose files are there. Raises RunFailed, or what the host raises."""
        job = job.original
        known, folder = self.log.found(job, self.maker.fingerprint), self.place(job)
        if known is not None and all((folder / name).exists() for name in known["outputs"]):
            return known
        self.told("the original")
        self.made += 1
        try:
            made = self.maker.make(job, folder)
        except RunFailed as error:
            raise RunFailed(f"the original could not be made: {error}") from None
        folder.mkdir(parents=True, exist_ok=True)
        paths = [_kept(each, folder, k) for k, each in enumerate(made.outputs)]
        for path in paths:
            load(path)  # what cannot be read is said now, not after a second run
        names = [str(path.relative_to(folder)) for path in paths]
        near = {**nearness([], None), "failures": made.failures}
        return self._noted(job, OK, outputs=names, **made.numbers, **near)

    def place(self, job: Job) -> Path:
        """The folder of a run."""
        return self.folder / "runs" / digest(*job.key(self.maker.fingerprint))

    def _compared(self, job: Job, made: Made, folder: Path) -> dict[str, Any]:
        top, originals = self.place(job.original), self._tensors(job)
        paths = [path for path in made.outputs if isinstance(path, Path)]
        if paths:
            names = [top / name for name in self.original(job)["outputs"]]
            held = dict(zip(names, originals, strict=True))
            pairs = [(held[mine], load(path)) for mine, path in paired(names, paths, top, folder)]
        else:
            tensors = [each for each in made.outputs if isinstance(each, Tensor)]
            if len(tensors) != len(originals):
                raise UsageError(f"it made {len(tensors)} videos, and the original {len(originals)}")
            pairs = list(zip(originals, tensors, strict=True))
        near = nearness(pairs, self.distance)
        if self.previews:
            folder.mkdir(parents=True, exist_ok=True)
            draw(*pairs[0], folder / PREVIEW)
        outputs = [str(path.relative_to(folder)) for path in paths]
        near["failures"] |= made.failures
        return {**near, "outputs": outputs}

    def _tensors(self, job: Job) -> list[Tensor]:
        """The original's videos; kept in memory, since a video's runs follow one another."""
        top = self.place(job.original)
        if self._original is None or self._original[0] != top:
            self._original = top, [load(top / name) for name in self.original(job)["outputs"]]
        return self._original[1]

    def _noted(self, job: Job, status: str, **values: Any) -> Row:
        point = job.point
        row = dict(zip(KEY, job.key(self.maker.fingerprint), strict=True)) | self._here
        row |= {"settings": point.settings, "instead": point.instead, "video": point.video, "x": point.x}
        row |= {"status": status, **values, "folder": str(self.place(job).relative_to(self.folder))}
        self.log.add(row)
        return row


def _kept(video: Path | Tensor, folder: Path, k: int) -> Path:
    """The file of an output; one that is in memory is written, whole or not at all."""
    if isinstance(video, Path):
        return video
    path = folder / f"{k:03d}{'.pt' if video.is_floating_point() else '.frames.pt'}"
    part = path.with_suffix(".part")
    torch.save(video.contiguous(), part)
    part.replace(path)
    return path


def jobs(points: list[Point], cases: list[tuple[str, int]]) -> list[Job]:
    """All points on a video before the next video: its original is read once."""
    return [Job(point, prompt, seed) for prompt, seed in cases for point in points if point.method != ORIGINAL]
