"""One segment at run time: the only place where "forward or not" is decided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..method import stability
from ..method.decision import Decision, Mode, Observation
from ..method.discrepancy import discrepancy
from ..method.policies import Policy
from ..method.predictors import Predictor
from ..method.predictors.points import hold_weights
from ..method.schedule import Interval, Schedule
from ..report.record import Generation, Segment
from .branches import Branch, Branches
from .call import ForwardCall, like_output, velocity_of

Signal = Callable[[ForwardCall, Tensor], Tensor]
"""(call, noise levels [slots]) -> feature [slots, ...]."""


@dataclass
class Pending:
    """A forward that is about to run; `observe` takes its velocity into the history."""

    branch: Branch
    iteration: int
    interval: Interval


class Session:
    """Decides once an iteration, for all CFG branches alike, and serves skipped forwards from the history.

    Args:
        schedule: makes the segment's schedule; called at the first iteration, since callers edit the matrices that the
            schedule function returned before they enter the loop.
    """

    def __init__(
        self,
        schedule: Callable[[], Schedule],
        policy: Policy,
        predictor: Predictor,
        signal: Signal,
        record: Generation,
        limits: stability.Limits | None = None,
    ) -> None:
        self._make_schedule = schedule
        self.policy, self.predictor, self.signal = policy, predictor, signal
        self.limits = limits or stability.Limits()
        self.record = record
        self.schedule: Schedule | None = None
        self._begin()

    def _begin(self) -> None:
        self.iteration: int | None = None
        self.decision: Decision | None = None
        self.state = self.policy.initial()
        self.branches = Branches(self.predictor.keeps)
        self._feature: tuple[int, Tensor] | None = None

    def enter(self, iteration: int) -> Interval:
        """The loop reads the interval of an iteration: it is there now. Returns what shall be forwarded."""
        if self.schedule is None:
            self.schedule = self._make_schedule()
            self._new_segment(self.schedule)
        elif self.iteration is not None and iteration < self.iteration:
            self._begin()  # the host runs the same schedule again: nothing of the last pass may leak into it
            self._new_segment(self.schedule)
        if iteration != self.iteration:
            self.iteration, self.decision = iteration, None
            self.branches.enter(iteration)
        return self.schedule.intervals[iteration]

    def serve(self, call: ForwardCall) -> tuple[Any, Pending | None]:
        """Before a forward: (output, None) to return instead of it, or (None, pending) to run it.

        (None, None) means the call is none of ours: it is outside the loop, or not over the interval we gave out.
        """
        schedule, iteration = self.schedule, self.iteration
        if schedule is None or iteration is None:
            return None, None
        interval = schedule.intervals[iteration]
        if call.slots != interval[1] - interval[0] or call.timestep.shape[1] != call.slots:
            self.record.guard("shape")
            return None, None
        branch = self.branches.find(call.condition)
        if self.decision is None:
            self.decision = self._decide(call, schedule, iteration, interval)
        host = schedule.baseline[iteration]
        self.segment.slots_baseline += host[1] - host[0]
        if self.decision.mode is not Mode.RECOMPUTE:
            output = self._skip(call, branch, schedule, iteration, interval)
            if output is not None:
                self.record.forwards_skipped += 1
                return output, None
        self.record.forwards_run += 1
        self.segment.slots_computed += call.slots
        return None, Pending(branch, iteration, interval)

    def observe(self, pending: Pending, output: Any) -> None:
        """After a forward that ran: keep its velocity."""
        velocity = velocity_of(output)
        if velocity is None or self.schedule is None or not self.policy.active:
            return
        branch, (start, end) = pending.branch, pending.interval
        branch.output_type = type(output)
        branch.history.record(pending.interval, self.schedule.noise_levels[pending.iteration, start:end], velocity)
        self.record.history_bytes_peak = max(self.record.history_bytes_peak, self.branches.bytes)

    def close(self) -> None:
        """The generation is over: let go of every tensor."""
        self._begin()

    def _new_segment(self, schedule: Schedule) -> None:
        self.segment = Segment(len(schedule), selective=schedule.selective, note=schedule.note)
        self.record.segments.append(self.segment)

    def _decide(self, call: ForwardCall, schedule: Schedule, iteration: int, interval: Interval) -> Decision:
        observation = Observation(None, schedule.grew(iteration), 0)
        if self.policy.active:
            observation = self._observe_ahead(call, schedule, iteration, interval)
        self.state, decision = self.policy.step(self.state, observation)
        if decision.reason == "guard":
            self.record.guard("finite" if not observation.finite else "stability")
        self.segment.modes.append(decision.mode.value)
        self.segment.reasons.append(decision.reason)
        self.segment.intervals.append(interval)
        return decision

    def _observe_ahead(self, call: ForwardCall, schedule: Schedule, iteration: int, interval: Interval) -> Observation:
        start, end = interval
        levels = schedule.noise_levels[iteration, start:end]
        active = schedule.mask[iteration, start:end]
        points, finite, stable = 3, True, True
        histories = self.branches.histories
        for history in histories:
            known = history.points(interval)
            points = min(points, int(known.count[active].min()) if active.any() else points)
            finite = finite and stability.is_finite(known, active)
            weights = self.predictor.weights(levels, known)
            stable = stable and stability.is_stable(levels, known, weights, active, self.limits)
        return Observation(
            self._discrepancy(call, levels, interval),
            schedule.grew(iteration),
            points if histories else 0,
            finite,
            stable,
        )

    def _discrepancy(self, call: ForwardCall, levels: Tensor, interval: Interval) -> float | None:
        """d over the slots that this and the last interval share."""
        start, end = interval
        feature = self.signal(call, levels)
        before, self._feature = self._feature, (start, feature)
        if before is None:
            return None
        first, last = max(start, before[0]), min(end, before[0] + before[1].shape[0])
        if first >= last:
            return None
        return discrepancy(feature[first - start : last - start], before[1][first - before[0] : last - before[0]])

    def _skip(
        self, call: ForwardCall, branch: Branch, schedule: Schedule, iteration: int, interval: Interval
    ) -> Any | None:
        """The output of a skipped forward; None where this branch has no history to make it from."""
        history = branch.history
        if not history.covers(interval) or not _matches(history.anchors[0].velocity, call.latents):
            self.record.guard("branch")
            return None
        known = history.points(interval)
        weights = hold_weights(known)
        if self.decision is not None and self.decision.mode is Mode.PREDICT:
            weights = self.predictor.weights(schedule.noise_levels[iteration, slice(*interval)], known)
        with torch.no_grad():
            return like_output(history.combine(interval, weights), branch.output_type)


def _matches(velocity: Tensor, latents: Tensor) -> bool:
    """Whether a stored velocity is one of these latents: same batch, same picture size."""
    return velocity.shape[0] == latents.shape[0] and velocity.shape[3:] == latents.shape[3:]
