"""What can be known before the forwards of one iteration: how far the signal moved, what the histories are good for."""

from __future__ import annotations

import torch

from ..method import stability
from ..method.decision import Observation
from ..method.forecast import Forecast
from ..method.predictors import Predictor
from ..method.schedule import Interval, Schedule
from .branches import Branches
from .call import ForwardCall
from .gauge import Gauge


class Lookout:
    """Makes the observations of one segment.

    Args:
        by_value: whether sizes of velocities may decide. Where they may not (ranks that must agree see different ones),
            a prediction beyond the limits repeats the last velocity instead.
    """

    def __init__(
        self, branches: Branches, gauge: Gauge, predictor: Predictor, limits: stability.Limits, by_value: bool
    ) -> None:
        self.branches, self.gauge, self.predictor = branches, gauge, predictor
        self.limits, self.by_value = limits, by_value
        self.forecast: Forecast | None = None

    def enter(self, call: ForwardCall, schedule: Schedule, iteration: int) -> None:
        """Before the decisions of an iteration: one forecast for all of them, where there is a history."""
        self.forecast = None
        self.schedule, self.iteration = schedule, iteration
        self.gauge.enter(call, schedule, iteration)
        interval = schedule.intervals[iteration]
        parts = self.branches.parts(interval)
        if not parts:
            return
        with torch.inference_mode():  # small tables on the CPU, which nobody differentiates: less to dispatch
            known = self.branches.know(parts)
            clip = not self.by_value
            self.forecast = Forecast(parts, known, schedule, iteration, self.predictor, self.limits, clip)

    def observe(self, slots: Interval, forced: bool) -> Observation:
        """What the policy may know before the decision over these slots."""
        change, grew = self.gauge.change(slots), self.schedule.entered(self.iteration, slots)
        # New slots have no velocity, and a forced forward runs anyway: nothing else needs to be known.
        if self.forecast is None or grew or forced:
            return Observation(change, grew, 0, forced=forced)
        if self.branches.chunked and not self.forecast.covers(slots):
            return Observation(change, False, 0)
        group = None if slots == self.schedule.intervals[self.iteration] else slots
        with torch.inference_mode():
            finite = not self.by_value or self.forecast.finite(group)
            patient = self.branches.chunked
            return Observation(
                change, grew, self.forecast.count(group), finite, self.forecast.stable(group), patient, forced
            )
