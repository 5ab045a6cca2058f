"""Makes the videos: one process's hosts, references and runs."""

from __future__ import annotations

import time
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import scope_patch
from scope_patch.compare import lpips, metrics

from . import hosts, references
from .log import FAILED, KEY, OK, UNAVAILABLE, Row
from .points import CALIBRATED, Job, Point, digest
from .prompts import CALIBRATION, CALIBRATION_SEED
from .references import Reference
from .work import Work

CAP = 100.0
"""dB that stand for equal frames, which have no finite PSNR."""


class Worker:
    """`reference`, `run` and `probe`, all in this process.

    Args:
        folder: where references and profiles are kept.
        where: what every row says of the machine and the code (see machine.py).
    """

    def __init__(self, folder: Path, threads: int, where: dict[str, str]) -> None:
        torch.set_num_threads(threads)
        self.folder, self.where = folder, where
        self.pipe = lru_cache(hosts.build)
        self.reference = lru_cache(maxsize=4)(self._reference)  # a video's runs follow one another

    def run(self, job: Job) -> Row:
        """The row of one run; of one that failed, with the reason."""
        row = dict(zip(KEY, job.key(hosts.fingerprint()), strict=True)) | self.where
        try:
            return row | {"status": OK} | self._measured(job)
        except scope_patch.ScopePatchError as error:
            return row | {"status": FAILED, "reason": str(error)}
        except Exception as error:  # whatever another accelerator breaks, the rest of the bench is worth having
            return row | {"status": FAILED, "reason": f"{type(error).__name__}: {error}"}

    def probe(self, point: Point) -> Row | None:
        """A row that says why these settings cannot be used here, or None where they can. Generates nothing."""
        if point.settings is None:
            return None
        try:
            with scope_patch.patched(self.pipe(point.host), **self._settings(point, make=False), strict=True):
                return None
        except scope_patch.ScopePatchError as error:
            row = dict(zip(KEY, Job(point, "", 0).key(hosts.fingerprint()), strict=True))
            return row | self.where | {"status": UNAVAILABLE, "reason": str(error)}

    def path(self, job: Job) -> Path:
        """Where the reference of this run lies."""
        name = digest(hosts.fingerprint(), job.point.host, job.point.video, job.prompt, job.seed)
        return self.folder / "references" / f"{name}.pt"

    def make(self, job: Job) -> None:
        """Make sure of the reference of this run."""
        if references.load(self.path(job)) is None:
            latents, cost, work = self._generate(job.point.host, job.prompt, job.seed, job.point.video)
            video = self._decoded(job.point.host, latents)
            found = metrics.failures(video) | metrics.failures(latents)
            made = Reference(video, *cost, work.flops, work.forwards, work.frames, found)
            references.save(made, self.path(job))

    def calibrated(self, point: Point) -> Path:
        """The profile for this point's host and video, made where there is none; on prompts of its own."""
        path = self.folder / f"profile-{digest(hosts.fingerprint(), point.host, point.video)}.json"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            with scope_patch.patched(self.pipe(point.host), policy="never", calibrate=str(part), strict=True):
                for k, prompt in enumerate(CALIBRATION):
                    self._generate(point.host, prompt, CALIBRATION_SEED + k, point.video)
            part.replace(path)
        return path

    @cached_property
    def _distance(self) -> lpips.Lpips | None:
        return lpips.load()

    def _reference(self, path: Path) -> Reference:
        found = references.load(path)
        assert found is not None, f"{path} was made before its runs"
        return found

    def _settings(self, point: Point, make: bool = True) -> dict[str, Any]:
        settings = dict(point.settings or {})
        if settings.get("profile") == CALIBRATED:
            settings["profile"] = str(self.calibrated(point)) if make else None
        return settings

    def _generate(
        self, host: str, prompt: str, seed: int, options: dict[str, Any]
    ) -> tuple[Tensor, tuple[float, float], Work]:
        """Latents; seconds by the clock and of this process's CPU time; what the DiT did."""
        from demo_model import pipeline

        pipe = self.pipe(host)
        with Work(pipe.transformer) as work:
            begin, cpu = time.perf_counter(), time.process_time()
            latents = pipeline.sample(pipe, prompt, seed=seed, **options)
            cost = time.perf_counter() - begin, time.process_time() - cpu
        return latents, cost, work

    def _decoded(self, host: str, latents: Tensor) -> Tensor:
        from demo_model import pipeline

        return pipeline.decode(self.pipe(host), latents.nan_to_num())[0]

    def _measured(self, job: Job) -> Row:
        point, generation = job.point, {}
        self.make(job)
        reference = self.reference(self.path(job))
        options = {**point.video, **point.instead}
        if point.settings is None:
            latents, cost, work = self._generate(point.host, job.prompt, job.seed, options)
        else:
            with scope_patch.patched(self.pipe(point.host), **self._settings(point), strict=True) as run:
                latents, cost, work = self._generate(point.host, job.prompt, job.seed, options)
            generation = run.report["generations"][0]
        video = self._decoded(point.host, latents)
        distance = self._distance
        return {
            "settings": point.settings,
            "instead": point.instead,
            "video": point.video,
            "x": point.x,
            "seconds": cost[0],
            "cpu": cost[1],
            "flops": work.flops,
            "forwards": work.forwards,
            "latent_frames": work.frames,
            "reference": {
                "seconds": reference.seconds,
                "cpu": reference.cpu,
                "flops": reference.flops,
                "forwards": reference.forwards,
                "latent_frames": reference.frames,
                "failures": reference.failures,
            },
            "overhead": generation.get("seconds", {}).get("overhead"),
            "planned": [plan.get("speedup") for plan in generation.get("planned", [])],
            "bytes": generation.get("history_bytes_peak", 0) + generation.get("frozen_bytes_peak", 0),
            "psnr": min(CAP, metrics.psnr(reference.video, video)),
            "ssim": metrics.ssim(reference.video, video),
            "lpips": None if distance is None else distance(reference.video, video).mean().item(),
            "failures": metrics.failures(video) | metrics.failures(latents),
        }
