"""The plan that a user's settings ask for: one function for runs and for plans without a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

from ..settings import NO_LIMIT, Settings, Thresholds
from . import policies, predictors
from .changes import Changes
from .fold import Fold, Verdict
from .plan import EVERYTHING, Plan, Planner, Work, fold
from .schedule import Schedule


@dataclass(frozen=True)
class Terms:
    """What presets mean on a host.

    Attributes:
        presets: name -> speed-up of the DiT's work.
        limit: the highest predict threshold that a preset may take to get there.
        each: decisions slot by slot (chunks of a moving window).
        patient: too few points to predict are enough to repeat the last velocity.
    """

    presets: Mapping[str, float]
    limit: float = EVERYTHING
    each: bool = False
    patient: bool = False


@dataclass(frozen=True)
class Asked:
    """Attributes: plan; target, the speed-up aimed at (None where thresholds or the policy decide); remark, or ""."""

    plan: Plan
    target: float | None
    remark: str


def planner(settings: Settings, terms: Terms, schedule: Schedule, changes: Changes, work: Work) -> Planner:
    """Plans of a schedule under these settings, at any thresholds."""
    keeps, known = predictors.create(settings.predictor).keeps, cache(changes)

    def make(early: Thresholds, late: Thresholds, turn: int) -> list[Verdict]:
        pair = [
            policies.create(replace(settings, cache_threshold=low, predict_threshold=high, target_speedup=None))
            for low, high in (early, late)
        ]

        def start() -> Fold:
            return Fold(schedule, lambda i: pair[i >= turn], keeps, each=terms.each, patient=terms.patient)

        return fold(start, known)

    baseline = sum(work(i, slots) for i, slots in enumerate(schedule.baseline))
    return Planner(make, work, baseline, len(schedule))


def asked(settings: Settings, terms: Terms, plans: Planner) -> Asked:
    """The plan that the settings ask for."""
    thresholds = settings.thresholds
    if thresholds is not None or not policies.create(settings).active:
        return Asked(plans.at(thresholds or NO_LIMIT), None, "")
    target = settings.target(terms.presets)
    limit = EVERYTHING if settings.target_speedup is not None else min(terms.limit, EVERYTHING)
    plan = plans.for_speedup(target, limit)
    why = "--max-skip and forced forwards allow" if limit == EVERYTHING else "the preset takes on so few steps"
    remark = f"a speed-up of {target:g} was aimed at; {plan.speedup:.2f} is the most that {why}" if plan.bound else ""
    return Asked(plan, target, remark)
