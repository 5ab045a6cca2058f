"""At run time: predictions beside the velocities that they stand for, and what follows from their difference."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..method import verifying
from ..method.decision import StepDecision
from ..method.history import norms
from ..method.profile import Profile
from ..method.schedule import Interval, Schedule
from ..method.verifying import Expectation
from ..report.record import Segment, Verified

logger = logging.getLogger("scope_patch")


class Verification:
    """The verified iterations of one video, over all its segments.

    Args:
        every: so many skipped iterations make one that is verified.
        bound: the relative error from which on skipping is cut back; what is no number is above any.
        profile: for the error that is expected; None where it cannot be: velocities are predicted in step numbers.
    """

    def __init__(self, every: int, bound: float, profile: Profile | None) -> None:
        self.every, self.bound = every, bound
        self.state = verifying.State()
        self.compared = 0
        self._longest, self._profile = 0, profile
        self._recomputed: Callable[[int, Interval], None] = lambda iteration, interval: None
        self._sizes: list[Tensor] = []
        self._waiting: tuple[int, list[int], float | None] = (0, [], None)

    def begin(self, schedule: Schedule, segment: Segment) -> None:
        """A segment begins."""
        self._schedule, self._segment = schedule, segment
        self._expectation = None if self._profile is None else Expectation(schedule, self._profile)

    def follow(self, longest: int, planned: dict[str, Any], work: Callable[[int, Interval], float]) -> None:
        """The segment has a plan.

        Args:
            longest: skips in a row in it (see `verifying.longest`).
            planned: its summary, which is told what tightening adds to its work.
            work: of a forward.
        """

        def recomputed(iteration: int, interval: Interval) -> None:
            planned["tightened"] = planned.get("tightened", 0.0) + work(iteration, interval)

        self._longest, self._recomputed = longest, recomputed

    def step(self, iteration: int, verdict: StepDecision, interval: Interval) -> StepDecision:
        """What becomes of a verdict over an interval."""
        self.state, now = verifying.step(self.state, verdict, self.every, interval)
        if now.instead is not None:
            expected = None if self._expectation is None else self._expectation.error(iteration, now.instead)
            active = self._schedule.mask[iteration, slice(*interval)].nonzero().flatten().tolist()
            self._waiting = iteration, active, expected
        elif now is not verdict:
            self._recomputed(iteration, interval)
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
        errors = [_relative([[row[slot] for slot in active] for row in branch]) for branch in read]
        error = math.inf if any(map(math.isnan, errors)) else max(errors)
        self.compared += 1
        tightened = None
        if error > self.bound:
            self.state = verifying.tightened(self.state, self._longest)
            tightened = self.state.most
            logger.info(
                "iteration %d: a prediction erred by %.3g; at most %d skips in a row", iteration, error, tightened
            )
        self._segment.verified.append(Verified(iteration, expected, error if math.isfinite(error) else None, tightened))


def _relative(sizes: list[list[float]]) -> float:
    """(norms of the difference, norms of the velocity) slot by slot -> one norm over the other; nan where none is."""
    difference, size = (math.sqrt(sum(norm * norm for norm in row)) for row in sizes)
    if not math.isfinite(difference) or not math.isfinite(size):
        return math.nan
    return difference / size if size else (math.inf if difference else 0.0)
