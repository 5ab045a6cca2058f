"""Runs what is missing of a suite: references first, then the runs, each written down as it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from pathlib import Path
from typing import Any

from tqdm import tqdm

from . import hosts
from .log import Log
from .machine import where
from .points import CALIBRATED, Job, Point
from .worker import Worker


def run(points: Iterable[Point], videos: list[tuple[str, int]], log: Log, folder: Path, threads: int, jobs: int) -> int:
    """Make every run that the log has not; returns how many were made."""
    folder.mkdir(parents=True, exist_ok=True)
    here = Worker(folder, threads, where(threads, jobs))
    points = _usable(here, points, log)
    wanted = [Job(point, prompt, seed) for prompt, seed in videos for point in points]
    missing = [job for job in wanted if not log.made(job.key(hosts.fingerprint()))]
    if not missing:
        return 0
    with closing(_Pool(here, threads, jobs)) as pool:
        alone = {here.path(job): job for job in missing if not here.path(job).exists()}
        for _ in tqdm(pool.each(_make, list(alone.values())), "references", len(alone), disable=not alone):
            pass
        for job in missing:  # in this process: two others would calibrate twice
            if (job.point.settings or {}).get("profile") == CALIBRATED:
                here.calibrated(job.point)
        with tqdm(desc="runs", total=len(wanted), initial=len(wanted) - len(missing), unit="video") as bar:
            for row in pool.each(_run, missing):
                log.add(row)
                bar.set_postfix_str(f"{row['method']}, {row['point']}", refresh=False)
                bar.update()
    return len(missing)


def _usable(here: Worker, points: Iterable[Point], log: Log) -> list[Point]:
    """The points that can be made here; of the others a row says why, and a line on stderr."""
    usable, reasons = [], {}
    for point in points:
        row = here.probe(point)
        if row is None:
            usable.append(point)
        else:
            log.add(row)
            reasons.setdefault(row["reason"], []).append(f"{point.method}, {point.name}")
    for reason, names in reasons.items():
        print(f"not available here: {'; '.join(names)}: {reason}", file=sys.stderr)
    return usable


class _Pool:
    """This process, or `jobs` others."""

    def __init__(self, here: Worker, threads: int, jobs: int) -> None:
        self.here, self.pool = here, None
        if jobs > 1:
            context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
            self.pool = ProcessPoolExecutor(jobs, context, _begin, (here.folder, threads, here.where))

    def each(self, what: Callable[[Job, Worker | None], Any], given: list[Job]) -> Iterator[Any]:
        """Results as they come."""
        if self.pool is None:
            return (what(job, self.here) for job in given)
        return (done.result() for done in as_completed([self.pool.submit(what, job) for job in given]))

    def close(self) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)


_worker: Worker | None = None


def _begin(folder: Path, threads: int, told: dict[str, str]) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all: the first process lets the videos under way end
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = Worker(folder, threads, told)


def _end_with_parent() -> None:
    """A pool's processes wait for ever when the first one was killed."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _make(job: Job, worker: Worker | None = None) -> None:
    (worker or _worker).make(job)


def _run(job: Job, worker: Worker | None = None) -> Any:
    return (worker or _worker).run(job)
