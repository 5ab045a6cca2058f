"""What a host is going to do, as far as its options say it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from ..catalogue import usable_hosts
from ..errors import UsageError
from ..method import policies
from ..method.asked import Asked, Terms, asked, placing, planner, unverifiable, verified
from ..method.changes import EXPECTED, Changes, expected, of_feature, placed_by
from ..method.discrepancy import Feature
from ..method.plan import EVERYTHING, Plan, Planner, Work
from ..method.policies.traits import traits
from ..method.profile import read
from ..method.schedule import Interval, Schedule
from ..method.verifying import State
from ..patch.architecture import Architecture
from ..settings import NO_LIMIT, Settings
from ..values import Limit


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
class Known:
    """A timestep signal that is known without a run. Attributes: feature; name, for people."""

    feature: Feature
    name: str


@dataclass(frozen=True)
class Job:
    """A whole run.

    Attributes:
        parts: in order.
        terms: what presets mean there.
        signal: that decides: timestep, embedding, latent, expected or none.
        history_bytes: of what is kept, where nothing limits it.
        points: velocities or residuals a history in them.
        timestep: the timestep signal, where the model's weights are at hand.
        kept: "velocities" or "residuals".
        remarks: what the user should know of the settings.
    """

    parts: tuple[Part, ...]
    terms: Terms
    signal: str
    history_bytes: int
    points: int
    timestep: Known | None = None
    kept: str = "velocities"
    remarks: tuple[str, ...] = ()

    def held(self, limit: Limit | None) -> tuple[int, int]:
        """Bytes that are kept on the model's device, and elsewhere, at the most (see `method.memory`)."""
        if limit is None:
            return self.history_bytes, 0
        least = self.history_bytes // self.points if limit.drop else 0
        here = min(self.history_bytes, max(limit.size, least))
        return here, 0 if limit.drop else self.history_bytes - here


@dataclass(frozen=True)
class Outlook:
    """Plans of all parts.

    Attributes:
        exact: what a run is going to do. Otherwise the signal needs the model, and there are bounds: `least` (nothing
            is skipped) and `most` (everything that the horizon and forced forwards allow).
        signal: what the decisions are made from; None where it has no say, or is not known.
        limit: of the memory of what is kept.
    """

    job: Job
    exact: tuple[Asked, ...]
    least: tuple[Plan, ...]
    most: tuple[Plan, ...]
    signal: str | None
    limit: Limit | None = None


def known_architecture(name: str) -> Architecture:
    """An architecture of `registry/` by its name."""
    return next(architecture for architecture, _ in usable_hosts() if architecture.name == name)


def look(job: Job, settings: Settings) -> Outlook:
    """The plans of a job, made by the code that decides in a run."""
    told: str | None = None
    make: Callable[[Schedule], Changes] = expected
    placed = placing(settings, job.terms)
    policy = policies.create(settings)
    fixed = not policy.active or job.signal == "none" or settings.thresholds in (NO_LIMIT, (0.0, 0.0))
    if placed:
        told = placed_by(settings.profile)
    elif not fixed and job.signal == "expected":
        told = EXPECTED
    elif not fixed and job.signal == "timestep" and job.timestep is not None:
        told, make = job.timestep.name, partial(of_feature, job.timestep.feature)
    plans = [planner(settings, job.terms, part.schedule, make(part.schedule), part.work) for part in job.parts]
    if fixed or told is not None:
        profile = read(settings.profile) if placed and settings.profile else None
        made = [asked(settings, job.terms, each, profile) for each in plans]
        return Outlook(job, _verified(job, settings, plans, made), (), (), told, settings.limit)
    if traits(policy).own:
        needed = "--weights DIR" if job.signal == "timestep" else "a run"
        raise UsageError(f"policy {settings.policy} decides from the {job.signal} signal, which needs {needed}")
    bounds = [[Asked(each.at((0.0, end)), None, "") for each in plans] for end in (0.0, EVERYTHING)]
    least, most = (tuple(one.plan for one in _verified(job, settings, plans, made)) for made in bounds)
    return Outlook(job, (), least, most, None, settings.limit)


def _verified(job: Job, settings: Settings, plans: Sequence[Planner], made: Sequence[Asked]) -> tuple[Asked, ...]:
    """With the skipped iterations that --verify runs; which ones is counted over all parts."""
    if not settings.verify or unverifiable(settings, job.terms):
        return tuple(made)
    state, out = State(), []
    for each, plan in zip(made, plans, strict=True):
        done, state = verified(each, plan, settings.verify, state)
        out.append(done)
    return tuple(out)
