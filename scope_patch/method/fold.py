"""A policy folded over a schedule: one verdict an iteration, before the first forward; and the changes it decides by.

A change is that of a signal which is known beforehand, between two iterations (d of equation 4 of design §2):
d = mean|f[i] - f[i-1]| / (mean|f[i-1]| + eps), over the slots that both iterations have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .decision import SAME_LEVEL, Decision, Mode, Observation, Policy, StepDecision
from .schedule import Interval, Schedule, overlap

if TYPE_CHECKING:
    from .resolved import Method

EXPECTED = "expected change of the latents"
Changes = Callable[[int, Interval], float | None]
"""(iteration, slots) -> d against the iteration before, over those of the slots that it had too."""
Feature = Callable[[Tensor], Tensor]
"""Timesteps [n] -> features [n, ...]."""
Rows = Sequence[Sequence[float]]


class Fold:
    """One way through a schedule.

    Args:
        policy: the policy of an iteration; all of them must share their kind of state.
        changes: that policies are told; None where no decision hangs on them.
        one_by_one: slots (chunks of a moving window, of which older ones do not see younger ones) are decided one by
            one where the method does so.
    """

    def __init__(
        self,
        method: Method,
        schedule: Schedule,
        policy: Callable[[int], Policy],
        changes: Changes | None,
        one_by_one: bool = True,
    ) -> None:
        self.method, self.schedule, self.policy, self.changes = method, schedule, policy, changes
        self._per_slot = method.traits.joint or (one_by_one and method.per_slot)
        self._states: dict[int, Any] = {}
        self._computed: dict[int, list[float]] = {}  # noise levels of a slot's history points, newest first
        self._levels, self._active = schedule.noise_levels.tolist(), schedule.mask.tolist()
        self._behind = schedule.mask.cumsum(dim=0).tolist()

    def verdicts(self) -> list[StepDecision]:
        """Those of all iterations; to be asked for once."""
        return [self._step(iteration) for iteration in range(len(self.schedule))]

    def _step(self, iteration: int) -> StepDecision:
        schedule, policy, keeps = self.schedule, self.policy(iteration), self.method.predictor.keeps
        if iteration and schedule.context_changed(iteration, iteration - 1):
            self._computed.clear()
        interval = schedule.intervals[iteration]
        decisions: dict[Interval, Decision] = {}
        states: dict[int, Any] = {}
        for slots in [(slot, slot + 1) for slot in range(*interval)] if self._per_slot else [interval]:
            key = slots[0] if self._per_slot else 0
            observation = self._observe(iteration, slots)
            states[key], decisions[slots] = policy.step(self._states.get(key, policy.initial()), observation)
        run = [end for (_, end), decision in decisions.items() if decision.mode is Mode.RECOMPUTE]
        last = max(run, default=interval[0])
        if self.method.traits.joint and last > interval[0]:
            last = interval[1]
        for slots, decision in decisions.items():
            # Older slots do not see younger ones, but are seen by them: they are computed along.
            if slots[1] < last or (slots[1] == last and decision.mode is not Mode.RECOMPUTE):
                decisions[slots], states[slots[0]] = Decision(Mode.RECOMPUTE, "context"), policy.initial()
        self._states = states
        for slot in range(interval[0], last):
            self._computed[slot] = [self._levels[iteration][slot], *self._computed.get(slot, [])][:keeps]
        main = min(reversed(decisions.values()), key=lambda decision: "RPC".index(decision.mode.value))
        return StepDecision(decisions, (interval[0], last), main.mode, main.reason)

    def _observe(self, iteration: int, slots: Interval) -> Observation:
        schedule, intervals = self.schedule, self.schedule.intervals
        grew, forced = schedule.entered(iteration, slots), schedule.clean_prefix(iteration) > 0
        active = [slot for slot in range(*slots) if self._active[iteration][slot]]
        points = min((_distinct(self._computed.get(slot, [])) for slot in active), default=3)  # no slot has more
        behind, ahead = 1, 0
        if active:
            behind, youngest = min((self._behind[iteration][slot], slot) for slot in active)
            ahead = self._behind[-1][youngest] - behind
        return Observation(
            discrepancy=self.changes(iteration, slots) if self.changes else 0.0,
            grew=grew,
            points=0 if grew or forced else points,
            hold_if_short=self.method.defaults.size.chunked,
            forced=forced,
            iteration=iteration,
            iterations=len(schedule),
            active=bool(active),
            age=behind - 1,
            remaining=ahead,
            moved=iteration == 0 or intervals[iteration] != intervals[iteration - 1],
        )


def _distinct(levels: list[float]) -> int:
    """Points of a slot that a predictor can use: consecutive ones at different noise levels (see `Points.count`)."""
    distinct = [abs(a - b) > SAME_LEVEL for a, b in pairwise(levels)]
    return 1 + [*distinct, False].index(False) if levels else 0


def placed_by(profile: str | None) -> str:
    """What placed recomputes hang on, for people."""
    return "noise levels" if profile is None else f"noise levels, {profile}"


def of_feature(feature: Feature, schedule: Schedule) -> Changes:
    """Changes of a feature of the timesteps, which is asked once, for all timesteps of the schedule.

    The feature of a slot depends on its timestep alone, and all slots' features have one size. So the means over slots
    are means of numbers that belong to pairs of timesteps, of which a schedule has few: each is worked out once.
    """
    times = schedule.timesteps.double()
    tables: Sequence[Rows] = ((), ())
    if len(times) > 1:
        steps = torch.stack([times[1:].flatten(), times[:-1].flatten()])
        pairs, which = torch.unique(steps, dim=1, return_inverse=True)
        known, rows = torch.unique(pairs, return_inverse=True)
        now, before = feature(known).flatten(1)[rows]
        tables = [values.abs().mean(dim=1)[which].view_as(times[1:]).tolist() for values in (now - before, before)]
    return _over_slots(schedule, tables, lambda moved, size, n: moved / n / (size / n + 1e-8))


def expected(schedule: Schedule) -> Changes:
    """How much latents are expected to change on the straight way from noise to data, both of unit variance.

    x = (1 - sigma) data + sigma noise changes by |d sigma| sqrt(2) and has the size sqrt((1 - sigma)^2 + sigma^2): what
    the latents themselves would show on average, known beforehand and to every rank alike.
    """
    levels = schedule.noise_levels
    tables = (levels[1:] - levels[:-1]).abs().tolist(), ((1 - levels).square() + levels.square()).sqrt().tolist()
    return _over_slots(schedule, tables, lambda moved, size, n: moved * math.sqrt(2) / size)


def _over_slots(schedule: Schedule, tables: Sequence[Rows], ratio: Callable[[float, float, int], float]) -> Changes:
    """A ratio of the sums of changes and sizes, both by (iteration before, slot), over the slots that both iterations
    have: of these sums, and the number of slots."""

    def change(iteration: int, slots: Interval) -> float | None:
        start, end = overlap(slots, schedule.intervals[iteration - 1]) if iteration else (0, 0)
        if start >= end:
            return None
        moved, size = (sum(table[iteration - 1][start:end]) for table in tables)
        return ratio(moved, size, end - start)

    return change
