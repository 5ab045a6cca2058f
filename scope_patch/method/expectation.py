"""What the error bound expects of a prediction, before anybody has looked at its velocities."""

from __future__ import annotations

import math

import torch

from .bound import interpolate, miss
from .decision import Mode
from .fold import Verdict
from .profile import Profile
from .schedule import Schedule


class Expectation:
    """Goes along with the verdicts of a schedule, and knows where each slot's last two velocities were computed.

    Args:
        profile: how fast velocities change and bend.
    """

    def __init__(self, schedule: Schedule, profile: Profile) -> None:
        self._schedule, self._profile = schedule, profile
        self._computed: dict[int, list[int]] = {}
        self._before: int | None = None

    def note(self, iteration: int, verdict: Verdict) -> None:
        """An iteration's verdict is carried out; in the host's order."""
        self._enter(iteration)
        for slot in range(*verdict.forwarded):
            self._computed[slot] = [iteration, *self._computed.get(slot, [])][:2]

    def error(self, iteration: int, skipped: Verdict) -> float | None:
        """||v^ - v|| / ||v|| over the slots that are updated; None where one of them has no velocity yet.

        The root mean square of what `miss` says of each: as if all velocities were of one size.
        """
        self._enter(iteration)
        slots = self._schedule.mask[iteration].nonzero().flatten().tolist()
        known = [self._computed.get(slot, []) for slot in slots]
        if not slots or not all(known):
            return None
        levels = self._schedule.noise_levels
        now, table = levels[iteration, slots], [levels[[each[k] for each in known], slots] for k in (0, -1)]
        predicted = torch.tensor([skipped.mode_of(slot) is Mode.PREDICT for slot in slots])
        gaps = torch.where(predicted, (table[0] - table[1]).abs(), 0.0)  # one velocity, or one repeated: no gap
        change, bend = (
            interpolate(self._profile.levels, row, now) for row in (self._profile.change, self._profile.bend)
        )
        return math.sqrt(float(miss(change, bend, (now - table[0]).abs(), gaps).square().mean()))

    def _enter(self, iteration: int) -> None:
        if self._before is not None and self._schedule.turned(iteration, self._before):
            self._computed.clear()
        self._before = iteration
