"""Our small models as what a harness runs: a function in this process, with the DiT's work counted as it runs."""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

import scope_patch
from scope_patch.tuning.commands import told
from scope_patch.tuning.harness import Made, Maker
from scope_patch.tuning.points import Job, Point, code, digest

from . import hosts
from .prompts import CALIBRATION, CALIBRATION_SEED
from .work import Work

CALIBRATED = "(calibrated here)"
"""Stands for the path of the profile that the bench makes, in a point's settings."""


class Demo(Maker):
    """Makes a job's video with the model that its point's host is.

    Args:
        folder: where profiles are kept.
        names: of the hosts that are asked for.
        threads: of torch.
    """

    name = "small models of ours (examples/demo_model, examples/physics, examples/magi_demo)"
    measured = (
        "counted as torch ran it: matrix products, and attention where its mask lets it through (with the masked "
        "pairs, which torch computes too, narrower forwards would save more)"
    )
    clock = "in CPU time, which other load on the machine moves less than the clock's"

    def __init__(self, folder: Path, names: frozenset[str], threads: int = 1) -> None:
        torch.set_num_threads(threads)
        self.folder, self.names, self.film = folder, names, lru_cache(hosts.film)

    @property
    def fingerprint(self) -> str:
        """Of the weights and of our code."""
        return digest(hosts.fingerprint(self.names), code(), torch.__version__)

    def available(self, job: Job) -> str:
        """Why these settings cannot be used here. Generates nothing."""
        try:
            target = self.film(job.point.host).target
            with scope_patch.patched(target, **self._settings(job.point, make=False), strict=True):
                return ""
        except scope_patch.ScopePatchError as error:
            return str(error)

    def make(self, job: Job, folder: Path) -> Made:
        """One video, uint8 [F, H, W, 3], in memory. Raises what the host raises."""
        point = job.point
        film = self.film(point.host)
        with scope_patch.patched(film.target, **self._settings(point), strict=True) as run, Work(film.dit) as work:
            begin, cpu = time.perf_counter(), time.process_time()
            latents = film.sample(job.prompt, seed=job.seed, **{**point.video, **point.instead})
            cost = {"wall": time.perf_counter() - begin, "seconds": time.process_time() - cpu}
        counted = {"flops": work.flops, "forwards": work.forwards, "latent_frames": work.frames}
        finite = {} if latents.isfinite().all() else {"non-finite": "in the latents"}
        return Made([film.decode(latents.nan_to_num())], {**told(run, job), **cost, **counted}, finite)

    def calibrated(self, point: Point) -> Path:
        """The profile for this point's host and video, made where there is none; on prompts of its own."""
        film = self.film(point.host)
        path = self.folder / f"profile-{digest(self.fingerprint, point.host, point.video)}.json"
        if not path.exists():
            part = path.with_suffix(".part")
            with scope_patch.patched(film.target, policy="never", calibrate=str(part), strict=True):
                for k, prompt in enumerate(CALIBRATION):
                    film.sample(prompt, seed=CALIBRATION_SEED + k, **point.video)
            part.replace(path)
        return path

    def _settings(self, point: Point, make: bool = True) -> dict[str, Any]:
        settings = dict(point.settings)
        if settings.get("profile") == CALIBRATED:
            settings["profile"] = str(self.calibrated(point)) if make else None
        return settings
