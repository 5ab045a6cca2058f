"""All decisions of a schedule before its first forward, made so that they cost what the settings ask for."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from ..settings import NO_LIMIT, Thresholds
from . import policies, verifying
from .decision import Policy, StepDecision
from .fold import Changes, Feature, Fold, expected, of_feature
from .frozen import Freezing, narrowed
from .placement import AMPLIFICATION, FURTHEST, FUTILE, TOLERANCE, amplification, place, skip_errors
from .profile import Profile, assumed
from .resolved import EVERYTHING, Method
from .schedule import Interval, Schedule

Work = Callable[..., float]
"""(iteration, forwarded slots, at least one) -> the cost of that forward, in any unit.

A third argument, of a host whose keys can be kept: latent frames that are attended to beside the forwarded ones.
"""


@dataclass(frozen=True)
class Plan:
    """Attributes:
    verdicts: one an iteration.
    work, baseline: the cost of the forwards that are left, and of the host's own.
    thresholds: (cache, predict) that decided, or that decided at most where two pairs take turns; None where the
        recomputes were placed.
    bound: the target could not be reached: this is the most that the horizon, the forced forwards and the limit allow.
    futile: it was not tried, because skipping that much errs as fewer steps would.
    frozen: bytes of keys and values that are kept, at the most.
    target: the speed-up aimed at; None where thresholds or the policy decide.
    remark: what the user should know of how it was met, or "".
    """

    verdicts: Sequence[StepDecision]
    work: float
    baseline: float
    thresholds: Thresholds | None
    bound: bool = False
    futile: bool = False
    frozen: int = 0
    target: float | None = None
    remark: str = ""

    @property
    def speedup(self) -> float:
        return self.baseline / self.work if self.work else 1.0

    @property
    def summary(self) -> dict[str, Any]:
        return {
            "modes": self.modes,
            "work": self.work,
            "baseline": self.baseline,
            "speedup": round(self.speedup, 4),
            "bound": self.bound,
            "thresholds": None if self.thresholds is None else list(self.thresholds),
            "frozen_bytes": self.frozen,
        }

    @property
    def modes(self) -> str:
        """One letter an iteration."""
        return "".join(verdict.mode.value for verdict in self.verdicts)


class Planner:
    """Plans of one schedule.

    Args:
        feature: of the timestep, which decides where the method asks for one; None: the expected change does.
        freezing: of finished latent frames; None: they are forwarded along.
        guided: velocities are made of several guidance branches.
    """

    def __init__(
        self,
        method: Method,
        schedule: Schedule,
        work: Work,
        feature: Feature | None = None,
        freezing: Freezing | None = None,
        guided: bool = True,
    ) -> None:
        self.method, self.schedule, self.freezing = method, schedule, freezing
        self._work, self._guided = work, guided
        self._changes: Changes | None = None
        if method.asks:
            self._changes = cache(expected(schedule) if feature is None else of_feature(feature, schedule))
        self.baseline = sum(work(i, slots) for i, slots in enumerate(schedule.baseline))

    def resolved(self, profile: Profile | None = None) -> Plan:
        """The plan that the settings ask for; the profile is what was measured of the velocities, if anything was."""
        method, settings = self.method, self.method.settings
        policy, target = method.policy, settings.target_speedup
        if not method.traits.self_tuned:
            if settings.thresholds is not None or not policy.active:
                return self.at(settings.thresholds or NO_LIMIT)
            target, limit = settings.target(method.defaults.presets), EVERYTHING
            if method.placed:
                most = FURTHEST if settings.max_skip is None else settings.max_skip
                plan = self.placed(target, most, profile or assumed())
            else:
                if settings.target_speedup is None and settings.signal in (None, method.defaults.signal):
                    limit = min(method.defaults.limit, EVERYTHING)  # in units of the host's own signal
                plan = self.for_speedup(target, limit)
            why = "--max-skip and forced forwards allow" if limit == EVERYTHING else "the preset takes on so few steps"
        elif target is None:
            return self.of(policy)
        else:
            plan = self.among(policy.candidates(), target)  # type: ignore[attr-defined]  # `create` has looked
            why = f"{policy.name} can be set to"
        aimed = f"a speed-up of {target:g} was aimed at"
        if plan.futile:
            remark = f"{aimed}; so few steps leave room for {plan.speedup:.2f}: beyond, fewer steps would do as well"
        elif plan.bound:
            remark = f"{aimed}; {plan.speedup:.2f} is the most that {why}"
        else:
            short = plan.work * target > plan.baseline * TOLERANCE
            remark = f"{aimed}; {plan.speedup:.2f} is the nearest that so few steps allow" if short else ""
        return replace(plan, target=target, remark=remark)

    def verified(self, plan: Plan, state: verifying.State) -> tuple[Plan, verifying.State]:
        """The same with every so many-th skipped iteration run, as far as it is known beforehand; the state after it.

        The speed-up was aimed at without those: verifying comes on top.
        """
        every, intervals = self.method.settings.verify, self.schedule.intervals
        state, verdicts = verifying.ahead(state, plan.verdicts, every, intervals)
        made = self._plan(verdicts, plan.thresholds)
        return replace(plan, verdicts=made.verdicts, work=made.work, frozen=made.frozen), state

    def at(self, thresholds: Thresholds) -> Plan:
        return self._turning(thresholds, thresholds, 0)

    def of(self, policy: Policy) -> Plan:
        """The plan of a policy that decides by itself."""
        return self._folded(lambda i: policy)

    def among(self, candidates: Sequence[Policy], target: float) -> Plan:
        """Of policies from slow to fast, the plan whose speed-up is nearest to the target.

        Raises ValueError for a target below 1.
        """
        wanted = self._wanted(target)
        high = bisect_left(range(len(candidates)), True, key=lambda k: self.of(candidates[k]).work <= wanted)
        near = [self.of(candidates[k]) for k in (high - 1, high) if 0 <= k < len(candidates)]
        plan = min(near, key=lambda plan: abs(plan.work - wanted))
        return replace(plan, bound=high == len(candidates) and plan.work > wanted * TOLERANCE)

    def placed(self, target: float, max_skip: int, profile: Profile) -> Plan:
        """The plan of that speed-up with the least error bound, or the one with the largest speed-up there is.

        Where that bound says that nothing is gained by skipping so much, less is skipped; where `amplification` says
        so, the plan is made anew with early errors weighed less.

        Raises ValueError for a target below 1.
        """
        wanted = self._wanted(target)
        most = max(1, min(max_skip, FURTHEST))
        errors = partial(skip_errors, self.schedule, profile, most, replay=self.method.replays)
        under = partial(place, self.schedule, cache(self._after), max_skip=max_skip)
        placed = partial(under, errors=errors())
        recomputed, error = placed(wanted)
        budget, futile = wanted, error > FUTILE
        if futile:
            low, budget = wanted, self.baseline
            while budget > low * TOLERANCE:
                middle = math.sqrt(low * budget)
                low, budget = (middle, budget) if placed(middle)[1] > FUTILE else (low, middle)
            recomputed, _ = placed(budget)
        power = amplification(self.schedule, target, error, self._guided)
        if power != AMPLIFICATION:
            recomputed, _ = under(budget, errors=errors(power=power))
        plan = self._placed(recomputed)
        short = plan.work > wanted * TOLERANCE
        # Or the next cheaper set was farther from what was asked.
        bound = short and (futile or self._placed(placed(0.0)[0]).work >= plan.work)
        return replace(plan, bound=bound, futile=futile and short)

    def _placed(self, recomputed: Sequence[bool]) -> Plan:
        return self._folded(lambda i: policies.Placed(recomputed[i]), one_by_one=False)

    def for_speedup(self, target: float, limit: float = EVERYTHING) -> Plan:
        """The plan by thresholds whose speed-up is nearest to the target, or the largest there is.

        Only Predict and Recompute: at equal work repeating a velocity errs more than extrapolating it. One threshold
        gives steps; between two neighbours, the first part of the iterations takes the higher one.

        Args: target, baseline work over the work that shall be left; limit, the highest predict threshold.

        Raises ValueError for a target below 1.
        """
        wanted = self._wanted(target)
        most = self.at((0.0, limit))
        if most.work >= wanted:
            return replace(most, bound=most.work > wanted * TOLERANCE)
        low, high = 0.0, min(1.0, limit)
        while self.at((0.0, high)).work > wanted and high < limit:
            low, high = high, min(4 * high, limit)
        for _ in range(24):
            middle = (low + high) / 2
            low, high = (low, middle) if self.at((0.0, middle)).work <= wanted else (middle, high)
        early, late = (0.0, high), (0.0, low)
        first, last = 0, len(self.schedule)  # all late: too much work; all early: enough is saved
        while last - first > 1:
            middle = (first + last) // 2
            first, last = (first, middle) if self._turning(early, late, middle).work <= wanted else (middle, last)
        candidates = [self._turning(early, late, turn) for turn in (first, last)]
        return min(candidates, key=lambda plan: abs(plan.work - wanted))

    def _turning(self, early: Thresholds, late: Thresholds, turn: int) -> Plan:
        """One pair of thresholds up to an iteration, another from there on."""
        settings = replace(self.method.settings, target_speedup=None, placement="threshold")
        pair = [
            policies.create(replace(settings, cache_threshold=low, predict_threshold=high), self.method.defaults.size)
            for low, high in (early, late)
        ]
        return self._folded(lambda i: pair[i >= turn], early if turn else late)

    def _folded(
        self, policy: Callable[[int], Policy], thresholds: Thresholds | None = None, *, one_by_one: bool = True
    ) -> Plan:
        """The plan of a policy an iteration; slots are decided one by one where the host and the policy can."""
        return self._plan(Fold(self.method, self.schedule, policy, self._changes, one_by_one).verdicts(), thresholds)

    def _plan(self, verdicts: list[StepDecision], thresholds: Thresholds | None) -> Plan:
        work, frozen = 0.0, 0
        if self.freezing is not None:
            recomputed = [verdict.runs for verdict in verdicts]
            starts, frozen = self.freezing.starts(recomputed), self.freezing.held(recomputed)
            verdicts = list(map(narrowed, verdicts, starts))
        for i, verdict in enumerate(verdicts):
            if verdict.runs:
                work += self.cost(i, verdict.forwarded)
            elif self.method.traits.residual_work:
                work += self.method.traits.residual_work * self._work(i, self.schedule.intervals[i])
        return Plan(verdicts, work, self.baseline, thresholds, frozen=frozen)

    def _after(self, iteration: int, before: int) -> float:
        """The cost of recomputing an iteration, the recompute before it being `before` (-1: none)."""
        start, end = self.schedule.intervals[iteration]
        if self.freezing is not None and before >= 0:
            start = self.freezing.finished[before]
        return self.cost(iteration, (start, end))

    def cost(self, iteration: int, slots: Interval) -> float:
        """Of a forward; where keys are kept, those of all slots in front of it are."""
        frozen = slots[0] if self.freezing is not None else 0
        return self._work(iteration, slots, frozen) if frozen else self._work(iteration, slots)

    def _wanted(self, target: float) -> float:
        if not target >= 1:
            raise ValueError(f"a speed-up of {target} is none; ask for 1 or more")
        return self.baseline / target
