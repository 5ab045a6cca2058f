"""What a host is going to do, as far as its options say it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..method.asked import Asked, Terms, asked, placing, planner
from ..method.changes import expected
from ..method.plan import EVERYTHING, Plan, Work
from ..method.profile import read
from ..method.schedule import Interval, Schedule
from ..patch.architecture import Architecture
from ..patch.known import architectures
from ..settings import NO_LIMIT, Settings


@dataclass(frozen=True)
class Part:
    """One segment of a long video, or the walk along one.

    Attributes:
        schedule: what is denoised when.
        work: FLOPs of forwarding slots at an iteration, all runs of the network together.
        size: slots in such a forward, all runs of the network together.
        runs: of the network in one such forward (guidance branches).
        extra: FLOPs of forwards that are none of a denoise step's own, and run in any case.
    """

    schedule: Schedule
    work: Work
    size: Callable[[int, Interval], int]
    runs: int
    extra: float = 0.0


@dataclass(frozen=True)
class Job:
    """A whole run: its parts in order, what presets mean there, the host's own signal, and bytes of kept velocities."""

    parts: tuple[Part, ...]
    terms: Terms
    signal: str
    history_bytes: int


@dataclass(frozen=True)
class Outlook:
    """Plans of all parts.

    Attributes:
        exact: what a run is going to do. Otherwise the signal needs the model, and there are bounds: `least` (nothing
            is skipped) and `most` (everything that the horizon and forced forwards allow).
    """

    job: Job
    exact: tuple[Asked, ...]
    least: tuple[Plan, ...]
    most: tuple[Plan, ...]


def known_architecture(name: str) -> Architecture:
    """An architecture of `registry/` by its name."""
    return next(architecture for architecture, _ in architectures() if architecture.name == name)


def look(job: Job, settings: Settings) -> Outlook:
    """The plans of a job, made by the code that decides in a run."""
    signal = settings.signal or job.signal
    known = (
        placing(settings, job.terms)
        or signal == "expected"
        or settings.policy == "never"
        or settings.thresholds in (NO_LIMIT, (0.0, 0.0))
    )
    plans = [planner(settings, job.terms, part.schedule, expected(part.schedule), part.work) for part in job.parts]
    if known:
        profile = read(settings.profile) if settings.profile else None
        return Outlook(job, tuple(asked(settings, job.terms, each, profile) for each in plans), (), ())
    least, most = (tuple(each.at((0.0, end)) for each in plans) for end in (0.0, EVERYTHING))
    return Outlook(job, (), least, most)
