"""One segment at run time: the only place where "forward or not" is decided."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..method import stability
from ..method.decision import Decision, Mode, Observation
from ..method.forecast import Part
from ..method.policies import Policy
from ..method.predictors import Predictor
from ..method.schedule import Interval, Schedule
from ..report.record import Generation, Segment
from .branches import Branch, Branches
from .call import ForwardCall, like_output, velocity_of
from .fill import Pending, fill, keep
from .gauge import Gauge
from .host import Host
from .lookout import Lookout

UNSEEN = Observation(None, False, 0)
"""For policies that look at nothing."""


class Session:
    """Decides once an iteration, for all CFG branches alike, and serves skipped forwards from the history.

    Args:
        schedule: makes the segment's schedule; called at the first iteration, since callers edit the matrices that the
            schedule function returned before they enter the loop.
        gauge: makes a new gauge of the signal.
    """

    def __init__(
        self,
        schedule: Callable[[], Schedule],
        policy: Policy,
        predictor: Predictor,
        gauge: Callable[[], Gauge],
        record: Generation,
        host: Host | None = None,
        limits: stability.Limits | None = None,
    ) -> None:
        self._make_schedule = schedule
        self.policy, self.predictor, self._make_gauge = policy, predictor, gauge
        self.host, self.limits = host or Host(), limits or stability.Limits()
        self.record = record
        self.schedule: Schedule | None = None
        self._begin()

    def _begin(self) -> None:
        self.iteration: int | None = None
        self.decisions: dict[Interval, Decision] | None = None
        self.states: dict[int, Any] = {}
        self.branches = Branches(self.predictor.keeps, self.host.chunked)
        self.lookout = Lookout(self.branches, self._make_gauge(), self.predictor, self.limits, self.host.by_value)

    def enter(self, iteration: int) -> Interval:
        """The loop is at an iteration now. Returns the slots that shall be forwarded, unless they are skipped."""
        if self.schedule is None:
            self.schedule = self._make_schedule()
            self._new_segment(self.schedule)
        elif self.iteration is not None and iteration < self.iteration:
            self._begin()  # the host runs the same schedule again: nothing of the last pass may leak into it
            self._new_segment(self.schedule)
        if iteration != self.iteration:
            if self.iteration is not None and self.schedule.turned(iteration, self.iteration):
                self.branches.forget()
            self.iteration, self.decisions = iteration, None
            self.branches.enter(iteration)
        return self.schedule.intervals[iteration]

    def serve(self, call: ForwardCall) -> tuple[Any, Pending | None]:
        """Before a forward: (output, None) to return instead of it, or (None, pending) to run it.

        (None, None) means the call is none of ours: it is outside the loop, or not over the slots we know of.
        """
        schedule, iteration = self.schedule, self.iteration
        if schedule is None or iteration is None:
            return None, None
        slots = self.host.layout.slots(call.latents)
        extra = self.host.unscheduled(call.arguments)
        if extra:
            runs, size = self.host.cost(call.arguments, slots)
            self.record.force(extra, runs)
            self._count(size, size, run=runs)
            return None, None
        interval, lead = schedule.intervals[iteration], schedule.lead(iteration)
        if slots != interval[1] - interval[0] + lead or call.timestep.shape[1] != slots:
            self.record.guard("shape")
            return None, None
        branch = self.branches.find(call.condition)
        if self.decisions is None:
            self.decisions = self._decide(call, schedule, iteration, interval)
        output, pending = self._plan(call, branch, interval, lead)
        host = schedule.baseline[iteration]
        runs, baseline = self.host.cost(call.arguments, host[1] - host[0])
        if pending is None:
            self._count(baseline, 0, skipped=runs)
            return output, None
        runs, size = self.host.cost(pending.arguments or call.arguments, slots)
        self._count(baseline, size, run=runs)
        return None, pending

    def observe(self, pending: Pending, output: Any) -> None:
        """After a forward that ran: complete what the host gets, and keep the velocities."""
        velocity = velocity_of(output)
        if velocity is None or self.schedule is None or not self.policy.active:
            return
        keep(pending, velocity, self.schedule, self.host.layout)
        pending.branch.output_type = type(output)
        self.record.history_bytes_peak = max(self.record.history_bytes_peak, self.branches.bytes)

    def close(self) -> None:
        """The generation is over: let go of every tensor."""
        self._begin()

    def _new_segment(self, schedule: Schedule) -> None:
        self.segment = Segment(len(schedule), selective=schedule.selective, note=schedule.note)
        self.record.segments.append(self.segment)

    def _count(self, baseline: int, computed: int, run: int = 0, skipped: int = 0) -> None:
        frames = self.host.layout.frames
        self.segment.slots_baseline += frames * baseline
        self.segment.slots_computed += frames * computed
        self.record.forwards_run += run
        self.record.forwards_skipped += skipped

    def _decide(
        self, call: ForwardCall, schedule: Schedule, iteration: int, interval: Interval
    ) -> dict[Interval, Decision]:
        """One decision for all slots, or one a chunk; told as one, with the interval that is forwarded."""
        lead, each = schedule.lead(iteration), self.host.each
        if self.policy.active:
            self.lookout.enter(call, schedule, iteration)
        decisions: dict[Interval, Decision] = {}
        states: dict[int, Any] = {}
        for slots in [(chunk, chunk + 1) for chunk in range(*interval)] if each else [interval]:
            key = slots[0] if each else 0
            state = self.states.get(key, self.policy.initial())
            observation = self.lookout.observe(slots, forced=lead > 0) if self.policy.active else UNSEEN
            states[key], decisions[slots] = self.policy.step(state, observation)
            if decisions[slots].reason == "guard":
                self.record.guard("finite" if not observation.finite else "stability")
        last = max((slots[1] for slots, decision in decisions.items() if decision.mode is Mode.RECOMPUTE), default=0)
        for slots in decisions:
            if slots[1] < last:  # older chunks do not see younger ones, but are seen by them: they are computed along
                decisions[slots], states[slots[0]] = Decision(Mode.RECOMPUTE, "context"), self.policy.initial()
        self.states = states
        told = min(decisions.values(), key=lambda decision: "RPC".index(decision.mode.value))
        if last:
            told = decisions[next(slots for slots in decisions if slots[1] == last)]
        self.segment.modes.append(told.mode.value)
        self.segment.reasons.append(told.reason)
        ran = (interval[0] - lead, last or interval[1])
        self.segment.intervals.append((ran[0] * schedule.frames, ran[1] * schedule.frames))
        return decisions

    def _plan(self, call: ForwardCall, branch: Branch, interval: Interval, lead: int) -> tuple[Any, Pending | None]:
        """What this call comes to: an output from the history, or a forward, of all slots or of the first of them."""
        decisions = self.decisions or {}
        assert self.iteration is not None
        last = max((s[1] for s, decision in decisions.items() if decision.mode is Mode.RECOMPUTE), default=interval[0])
        pending = Pending(branch, self.iteration, (interval[0], last), lead)
        if last == interval[1]:
            return None, pending
        whole = fill(call, branch, interval, lead, last, self.host.layout, self.lookout.forecast, self._mode)
        if whole is None:
            self.record.guard("branch")
            return None, Pending(branch, self.iteration, interval, lead)
        if last == interval[0] and not lead:
            return like_output(whole, branch.output_type), None
        pending.whole = whole
        pending.arguments = self.host.narrow(call.arguments, 0, last - interval[0] + lead)
        return None, pending

    def _mode(self, part: Part) -> Mode:
        return next(
            (decision.mode for slots, decision in (self.decisions or {}).items() if part.interval[0] < slots[1]),
            Mode.RECOMPUTE,
        )
