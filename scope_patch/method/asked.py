"""The plan that a user's settings ask for: one function for runs and for plans without a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

from ..settings import DEFAULT_POLICY, NO_LIMIT, Settings, Thresholds
from . import policies, predictors, verifying
from .changes import Changes
from .fold import Fold, Verdict
from .plan import EVERYTHING, Plan, Planner, Work, fold
from .policies import Policy
from .policies.traits import Size, traits
from .profile import Profile, assumed
from .schedule import Schedule


@dataclass(frozen=True)
class Terms:
    """What presets mean on a host.

    Attributes:
        presets: name -> speed-up of the DiT's work.
        placement: how recomputes are chosen unless the user says otherwise, "error" or "threshold".
        limit: the highest predict threshold that a preset may take to get there.
        each: decisions slot by slot (chunks of a moving window).
        patient: too few points to predict are enough to repeat the last velocity.
        size: of the model, as far as it is known.
    """

    presets: Mapping[str, float]
    placement: str = "error"
    limit: float = EVERYTHING
    each: bool = False
    patient: bool = False
    size: Size = field(default_factory=Size)


@dataclass(frozen=True)
class Asked:
    """Attributes: plan; target, the speed-up aimed at (None where thresholds or the policy decide); remark, or ""."""

    plan: Plan
    target: float | None
    remark: str


def planner(settings: Settings, terms: Terms, schedule: Schedule, changes: Changes, work: Work) -> Planner:
    """Plans of a schedule under these settings."""
    policy = policies.create(settings, terms.size)
    wanted = traits(policy)
    keeps, known = predictors.create(wanted.predictor or settings.predictor).keeps, cache(changes)

    def verdicts(policy: Callable[[int], Policy], one_by_one: bool) -> list[Verdict]:
        each = terms.each and one_by_one and wanted.each
        return fold(
            lambda: Fold(schedule, policy, keeps, each=each, patient=terms.patient, together=wanted.together), known
        )

    def scope(thresholds: Thresholds) -> Policy:
        low, high = thresholds
        return policies.create(
            replace(settings, cache_threshold=low, predict_threshold=high, target_speedup=None, placement="threshold")
        )

    return Planner(schedule, verdicts, scope, work, wanted.left)


def placing(settings: Settings, terms: Terms) -> bool:
    """Whether recomputes are placed to err least, rather than decided by thresholds on a signal."""
    if settings.thresholds is not None or settings.policy_name != DEFAULT_POLICY:
        return False
    if settings.placement is not None:
        return settings.placement == "error"
    if settings.signal is not None:
        return False
    return settings.profile is not None or terms.placement == "error"


def asked(settings: Settings, terms: Terms, plans: Planner, profile: Profile | None = None) -> Asked:
    """The plan that the settings ask for.

    Args:
        profile: what was measured of the velocities; None where nothing was.
    """
    thresholds, policy = settings.thresholds, policies.create(settings, terms.size)
    if traits(policy).own:
        return _by_itself(policy, settings.target_speedup, plans)
    if thresholds is not None or not policy.active:
        return Asked(plans.at(thresholds or NO_LIMIT), None, "")
    target = settings.target(terms.presets)
    limit = EVERYTHING if settings.target_speedup is not None else min(terms.limit, EVERYTHING)
    if placing(settings, terms):
        plan = plans.placed(target, settings.max_skip, profile or assumed())
        limit = EVERYTHING
    else:
        plan = plans.for_speedup(target, limit)
    why = "--max-skip and forced forwards allow" if limit == EVERYTHING else "the preset takes on so few steps"
    remark = f"a speed-up of {target:g} was aimed at; {plan.speedup:.2f} is the most that {why}" if plan.bound else ""
    return Asked(plan, target, remark)


def unverifiable(settings: Settings, terms: Terms, ranks: int = 1) -> str:
    """Why skipped iterations cannot be verified under these settings, or "".

    Args:
        ranks: that share the model; they must decide alike, and each would see errors of its own.
    """
    policy = policies.create(settings, terms.size)
    if not policy.active:
        return f"policy {settings.policy} skips nothing"
    if (settings.level or traits(policy).level) != "velocity":
        return "at the residual level a skipped forward runs in part, and no velocity is predicted"
    return f"{ranks} ranks share the model, and must decide alike" if ranks > 1 else ""


def verified(made: Asked, plans: Planner, every: int, state: verifying.State) -> tuple[Asked, verifying.State]:
    """The same with every so many-th skipped iteration run, as far as it is known beforehand; and the state after it.

    The speed-up was aimed at without those: verifying comes on top.
    """
    state, verdicts = verifying.ahead(state, made.plan.verdicts, every, plans.schedule.intervals)
    return replace(made, plan=plans.with_verdicts(made.plan, verdicts)), state


def _by_itself(policy: Policy, target: float | None, plans: Planner) -> Asked:
    """The plan of a policy with settings of its own: by them, or with that one which comes nearest to a speed-up."""
    if target is None:
        return Asked(plans.of(policy), None, "")
    plan = plans.among(policy.ladder(), target)  # type: ignore[attr-defined]  # `create` has looked
    told = f"a speed-up of {target:g} was aimed at; {plan.speedup:.2f} is the most that {policy.name} can be set to"
    return Asked(plan, target, told if plan.bound else "")
