"""One segment at run time: the only place where "forward or not" is decided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..method import stability
from ..method.decision import Decision, Mode, Observation
from ..method.discrepancy import Discrepancy, Feature
from ..method.forecast import Forecast
from ..method.policies import Policy
from ..method.predictors import Predictor
from ..method.schedule import Interval, Schedule
from ..report.record import Generation, Segment
from .branches import Branch, Branches
from .call import ForwardCall, like_output, velocity_of

Signal = Callable[[ForwardCall], Feature]
"""The first call of a segment -> the feature of equation 4."""


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
        self._last: tuple[int, Interval] | None = None
        self._forecast: Forecast | None = None
        self._discrepancy: Discrepancy | None = None

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
            output = self._skip(call, branch, interval)
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
        branch = pending.branch
        branch.output_type = type(output)
        levels = self.schedule.levels(pending.iteration, pending.interval)
        branch.history.record(pending.interval, levels, velocity)
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
        grew, change = schedule.grew(iteration), self._change(call, schedule, iteration, interval)
        histories = self.branches.histories
        if grew or not histories:
            return Observation(change, grew, 0)  # new slots have no velocity; nothing else needs to be known
        with torch.inference_mode():  # small tables on the CPU, which nobody differentiates: less to dispatch
            levels, active = schedule.levels(iteration, interval), schedule.mask[iteration, slice(*interval)]
            known = self.branches.known(interval)
            forecast = Forecast(histories, known, interval, levels, active, self.predictor, self.limits)
            self._forecast = forecast
            return Observation(change, grew, forecast.count, forecast.finite, forecast.stable)

    def _change(self, call: ForwardCall, schedule: Schedule, iteration: int, interval: Interval) -> float | None:
        """d over the slots that this and the last decided iteration share."""
        before, self._last = self._last, (iteration, interval)
        if before is None:
            return None
        if self._discrepancy is None:
            self._discrepancy = Discrepancy(self.signal(call), schedule.timesteps)
        shared = max(interval[0], before[1][0]), min(interval[1], before[1][1])
        now, then = (schedule.timesteps[i, shared[0] : max(shared)].tolist() for i in (iteration, before[0]))
        return self._discrepancy(now, then)

    def _skip(self, call: ForwardCall, branch: Branch, interval: Interval) -> Any | None:
        """The output of a skipped forward; None where this branch has no history to make it from."""
        history, forecast = branch.history, self._forecast
        if forecast is None or not history.covers(interval) or not _matches(history.anchors[0].velocity, call.latents):
            self.record.guard("branch")
            return None
        predicted = self.decision is not None and self.decision.mode is Mode.PREDICT
        with torch.no_grad():
            velocity = forecast.predict(history) if predicted else forecast.hold(history)
        return like_output(velocity, branch.output_type)


def _matches(velocity: Tensor, latents: Tensor) -> bool:
    """Whether a stored velocity is one of these latents: same batch, same picture size."""
    return velocity.shape[0] == latents.shape[0] and velocity.shape[3:] == latents.shape[3:]
