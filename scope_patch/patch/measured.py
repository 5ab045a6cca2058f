"""What is measured while a generation runs: its seconds, and what predictions miss. Only `Verification.settle` waits
for the device."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..method import verifying
from ..method.decision import StepDecision
from ..method.history import norms
from ..method.profile import Profile
from ..method.schedule import Interval, Schedule
from ..method.verifying import Expectation
from ..report.record import Seconds, Segment, Verified

logger = logging.getLogger("scope_patch")


@dataclass
class Stopwatch:
    """Adds up the seconds of one generation. CUDA work is timed by events, which are read once it is over."""

    seconds: Seconds
    started: float = field(default_factory=time.perf_counter)
    _events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list)

    def start(self) -> Callable[[], None]:
        """Right before the host's forward. Returns what is to be called right after it."""
        started, begin = time.perf_counter(), _event()

        def stop() -> None:
            if begin is not None and (end := _event()) is not None:
                self._events.append((begin, end))
            else:
                self.seconds.dit += time.perf_counter() - started

        return stop

    def close(self) -> None:
        """The generation is over: read the events (the host has synchronised long ago) and the total."""
        self.seconds.total = time.perf_counter() - self.started
        for begin, end in self._events:
            end.synchronize()
            self.seconds.dit += begin.elapsed_time(end) / 1000.0
        self._events.clear()


def _event() -> torch.cuda.Event | None:
    if not torch.cuda.is_initialized() or torch.cuda.is_current_stream_capturing():  # type: ignore[no-untyped-call]
        return None
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


class Verification:
    """Predictions beside the velocities that they stand for, and what follows from their difference; of one video, over
    all its segments.

    Args:
        every: so many skipped iterations make one that is verified.
        bound: the relative error from which on skipping is cut back; what is no number is above any.
        profile: for the error that is expected; None where it cannot be: velocities are predicted in step numbers.
    """

    def __init__(self, every: int, bound: float, profile: Profile | None) -> None:
        self.every, self.bound = every, bound
        self.state = verifying.State()
        self.compared = 0
        self._profile = profile
        self._sizes: list[Tensor] = []
        self._waiting: tuple[int, list[int], float | None] = (0, [], None)

    def begin(self, schedule: Schedule, segment: Segment) -> None:
        self._schedule, self._segment = schedule, segment
        self._expectation = None if self._profile is None else Expectation(schedule, self._profile)

    def follow(self, longest: int, planned: dict[str, Any], work: Callable[[int, Interval], float]) -> None:
        """The segment has a plan.

        Args:
            longest: skips in a row in it (see `verifying.longest`).
            planned: its summary, which is told what tightening adds to its work.
            work: of a forward.
        """
        self._longest, self._planned, self._work = longest, planned, work

    def step(self, iteration: int, verdict: StepDecision, interval: Interval) -> StepDecision:
        """What becomes of a verdict over an interval."""
        self.state, now = verifying.step(self.state, verdict, self.every, interval)
        if now.instead is not None:
            expected = None if self._expectation is None else self._expectation.error(iteration, now.instead)
            active = self._schedule.mask[iteration, slice(*interval)].nonzero().flatten().tolist()
            self._waiting = iteration, active, expected
        elif now is not verdict:
            self._planned["tightened"] = self._planned.get("tightened", 0.0) + self._work(iteration, interval)
        if self._expectation is not None:
            self._expectation.note(iteration, now)
        return now

    def compare(self, predicted: Tensor, true: Tensor) -> None:
        """A branch's prediction and velocity, [batch, channels, slots, height, width]; waits for nothing."""
        true = true.to(torch.promote_types(true.dtype, torch.float32))
        self._sizes.append(torch.stack([norms(predicted.to(true.dtype) - true), norms(true)]))

    def settle(self) -> None:
        """After an iteration: read what was compared in it, if anything was; the only place that waits for the device.

        The error of a branch is ||v^ - v|| / ||v|| over the latent frames that are updated, all together; that of the
        iteration is the largest of its branches, since guidance makes more of each and what is wrong in one the others
        do not mend.
        """
        if not self._sizes:
            return
        read: list[list[list[float]]] = torch.stack(self._sizes).tolist()
        self._sizes.clear()
        iteration, active, expected = self._waiting
        errors = []
        for branch in read:
            difference, size = (math.sqrt(sum(row[slot] * row[slot] for slot in active)) for row in branch)
            sound = math.isfinite(difference) and math.isfinite(size) and (size > 0 or difference == 0)
            errors.append(difference / (size or 1.0) if sound else math.inf)
        error = max(errors)
        self.compared += 1
        most = None
        if error > self.bound:
            self.state = verifying.tightened(self.state, self._longest)
            most = self.state.most
            logger.info("iteration %d: a prediction erred by %.3g; at most %d skips in a row", iteration, error, most)
        self._segment.verified.append(Verified(iteration, expected, error if math.isfinite(error) else None, most))
