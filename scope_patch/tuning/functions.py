"""`scope_patch.tune`: the search on a function in this process, so that a model is loaded once."""

from __future__ import annotations

import inspect
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..compare.read import extra
from ..errors import NotApplied, UsageError
from ..patch.attach import patched
from ..report.sink import device_peak
from . import results, tables
from .commands import told
from .harness import Made, Maker, at_work, check_packages
from .points import Job
from .search import Bounds, find

_SHARE = 1e-3  # how far floats may lie outside of 0..1 and still be frames


@dataclass(frozen=True)
class Tuned:
    """What `tune` found: `target` (None: nothing keeps the bounds), `settings` for `patched`, `speedup` by the clock,
    the answer in `words`, the `table`, `rows` (a dict a run), and the `page` where a folder was given."""

    target: float | None
    settings: dict[str, Any]
    speedup: float | None
    words: str
    table: str
    rows: list[dict[str, Any]]
    page: Path | None

    def __str__(self) -> str:
        return f"{self.table}\n\n{self.words}"


def tune(
    make: Callable[[], Any],
    pipe: Any = None,
    *,
    psnr: float | None = None,
    ssim: float | None = None,
    lpips: float | None = None,
    seconds: float | None = None,
    budget: float | None = None,
    folder: str | Path | None = None,
    **settings: Any,
) -> Tuned:
    """The highest speed-up at which a function's videos keep a bound: `tune(lambda: pipe(prompt), lpips=0.05)`.

    Args:
        make: returns a video, the same at every call (draw its noise from a generator that is made anew). Frames are a
            pipeline's output, lists of PIL images, or arrays and tensors of 3 channels, uint8 or floats in 0..1;
            floats of another shape are latents.
        pipe: the pipeline or DiT that it runs; without it, the one that the function's own variables name.
        psnr, ssim: at least; lpips, seconds: at most. Without any: LPIPS 0.05, where its weights are installed, else
            SSIM 0.95, for latents PSNR 30.
        budget: seconds after which no further run is started.
        folder: keeps the runs, the table and the page; without it nothing is left behind.
        settings: of every run, as for `patched`.

    Raises UsageError where nothing can be compared, NotApplied where there is no known pipeline, and what `make` does.
    """
    check_packages()
    bounds = Bounds(psnr, ssim, lpips, seconds)
    maker = Function(make, pipe if pipe is not None else _pipeline_of(make, settings.get("registry")))
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch if folder is None else folder)
        until = time.monotonic() + (float("inf") if budget is None else budget)
        with at_work(maker, place, previews=folder is not None) as harness:
            answer = find(harness, [("", 0)], bounds, settings, until)
            if folder is not None:
                results.write(place, harness, answer.points, "scope_patch.tune(...)", answer.words, "", answer.target)
            table = tables.results(results.known(harness, answer.points)[1])
    rows = [*answer.originals, *(row for aim in sorted(answer.rows) for row in answer.rows[aim])]
    page = None if folder is None else place / results.PAGE
    if answer.target is None:
        return Tuned(None, {}, None, answer.words, table, rows, page)
    chosen = {"target_speedup": answer.target, **settings}
    return Tuned(answer.target, chosen, answer.times(answer.target), answer.words, table, rows, page)


class Function(Maker):
    """A function that makes a video with a pipeline, as what a harness runs."""

    def __init__(self, make: Callable[[], Any], pipe: Any) -> None:
        self.make_video, self.pipe = make, pipe
        self.name = f"{getattr(make, '__qualname__', repr(make))} with {type(pipe).__name__}"
        # Nobody can tell what a function hangs on: runs of another call are not taken for its own.
        self.fingerprint = f"{id(self)}-{time.time_ns()}"

    def make(self, job: Job, folder: Path) -> Made:
        with patched(self.pipe, **job.point.settings) as run:
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            begin, cpu = time.perf_counter(), time.process_time()
            videos = as_videos(self.make_video())
            cost = {"wall": time.perf_counter() - begin, "cpu": time.process_time() - cpu, "rss": None}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.json").write_text(json.dumps(run.report), encoding="utf-8")
        return Made(videos, {**cost, **told(run, job), "memory": device_peak() or None})


def as_videos(made: Any) -> list[Tensor]:
    """What a pipeline returns as videos, uint8 [F, H, W, 3], or latents. Raises UsageError for what is neither."""
    for name in ("frames", "videos", "images"):
        if hasattr(made, name):
            return as_videos(getattr(made, name))
    if isinstance(made, tuple) and len(made) == 1:
        return as_videos(made[0])
    if isinstance(made, Sequence) and made and not isinstance(made, str):
        if hasattr(made[0], "convert"):  # PIL images: the frames of one video
            numpy = extra("numpy", "numpy")
            return [torch.stack([torch.from_numpy(numpy.array(picture.convert("RGB"))) for picture in made])]
        return [video for each in made for video in as_videos(each)]
    if hasattr(made, "__array__") and not isinstance(made, Tensor):
        made = torch.from_numpy(extra("numpy", "numpy").array(made))
    if not isinstance(made, Tensor) or not made.numel():
        raise UsageError(f"the function returned {type(made).__name__}, which is no video: return frames or latents")
    return _of_tensor(made.detach().cpu())


def _of_tensor(video: Tensor) -> list[Tensor]:
    if video.is_complex() or video.dtype in (torch.bool, torch.int64, torch.int32):
        raise UsageError(f"the function returned a tensor of {video.dtype}; frames are uint8, or floats in 0..1")
    # Where 3 channels stand: last, before pictures, or before frames, the way of the official repositories.
    places = [place for place in (-1, -3, -4) if video.ndim >= max(3, -place) and video.shape[place] == 3]
    if not places:
        if not video.is_floating_point():
            raise UsageError(f"the function returned uint8 {list(video.shape)}, where no side is 3 channels")
        return [video.float()]
    video = video.movedim(places[0], -1)
    if video.is_floating_point():
        low, high = video.min().item(), video.max().item()
        if not -_SHARE <= low <= high <= 1 + _SHARE:
            raise UsageError(f"the function returned frames from {low:.2f} to {high:.2f}; floats must lie in 0..1")
        video = (video.float() * 255).round().clamp(0, 255).to(torch.uint8)
    return list(video.reshape(-1, *video.shape[-4:]) if video.ndim > 3 else video[None, None])


def _pipeline_of(make: Callable[[], Any], registry: str | None) -> Any:
    """The pipeline that a function's own variables name. Raises NotApplied where none or several are known."""
    named: Mapping[str, Any] = {}
    if inspect.isfunction(make):
        held = inspect.getclosurevars(make)
        named = {**held.globals, **held.nonlocals}
    known = {name: value for name, value in named.items() if _is_known(value, registry)}
    if len({id(value) for value in known.values()}) != 1:
        what = f"more than one ({', '.join(known)})" if known else "none"
        raise NotApplied(f"of the function's own variables {what} is a known pipeline: say which one it runs by pipe=")
    return next(iter(known.values()))


def _is_known(value: Any, registry: str | None) -> bool:
    try:
        with patched(value, policy="never", registry=registry):
            return True
    except NotApplied:
        return False
