"""Skipped iterations that are run all the same, to see what their prediction misses, and how skipping is cut back then.

Folded over verdicts: one goes in, the one that is carried out comes out. The same fold goes ahead over a plan before
the first forward and along with the run, so that both say the same as long as nothing errs beyond the bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from .decision import Decision, Mode, StepDecision
from .placement import Distances
from .profile import Profile
from .schedule import Interval, Schedule


@dataclass(frozen=True)
class State:
    """Attributes:
    skipped: iterations of the video that were skipped or verified.
    row: those in a row since the last forward.
    most: how many in a row are allowed; None: as many as were planned.
    """

    skipped: int = 0
    row: int = 0
    most: int | None = None


def step(state: State, verdict: StepDecision, every: int, interval: Interval) -> tuple[State, StepDecision]:
    """What becomes of one verdict over an interval.

    Only iterations in which nothing at all is forwarded count as skipped. Every `every`-th of them is verified; since
    it is run, a row of skips ends with it. One that would be in a row longer than `most` is recomputed.
    """
    if verdict.runs:
        return replace(state, row=0), verdict
    if state.most is not None and state.row >= state.most:
        return replace(state, row=0), _recompute(interval)
    skipped = state.skipped + 1
    if skipped % every:
        return State(skipped, state.row + 1, state.most), verdict
    return State(skipped, 0, state.most), _recompute(interval, instead=verdict)


def ahead(
    state: State, verdicts: Iterable[StepDecision], every: int, intervals: Sequence[Interval]
) -> tuple[State, list[StepDecision]]:
    """What becomes of a whole plan if nothing errs beyond the bound, and the state after it."""
    carried_out = []
    for verdict, interval in zip(verdicts, intervals, strict=True):
        state, now = step(state, verdict, every, interval)
        carried_out.append(now)
    return state, carried_out


def longest(verdicts: Iterable[StepDecision]) -> int:
    """The most skips in a row; a verified one ends its row, and counts, since its prediction reaches as far."""
    most = row = 0
    for verdict in verdicts:
        row += not verdict.runs or verdict.instead is not None
        most = max(most, row)
        if verdict.runs:
            row = 0
    return most


def tightened(state: State, planned: int) -> State:
    """After an error beyond the bound: half as many skips in a row as were allowed until now, or planned (`longest`).

    5 becomes 2, then 1, then 0. At 1 a prediction reaches no further than to the next iteration; where that is too far
    there is nothing left to skip, and the rest of the video is recomputed.
    """
    return replace(state, most=(planned if state.most is None else min(state.most, planned)) // 2)


def _recompute(interval: Interval, instead: StepDecision | None = None) -> StepDecision:
    decision = Decision(Mode.RECOMPUTE, "verify")
    return StepDecision({interval: decision}, interval, decision.mode, decision.reason, instead)


class Expectation:
    """What the error bound expects of a prediction, before anybody has looked at its velocities.

    Goes along with the verdicts of a schedule, and knows where each slot's last two velocities were computed.
    """

    def __init__(self, schedule: Schedule, profile: Profile) -> None:
        self._schedule, self._distances = schedule, Distances(profile, schedule.noise_levels)
        self._computed: dict[int, list[int]] = {}
        self._before: int | None = None

    def note(self, iteration: int, verdict: StepDecision) -> None:
        """An iteration's verdict is carried out; in the host's order."""
        self._enter(iteration)
        for slot in range(*verdict.forwarded):
            self._computed[slot] = [iteration, *self._computed.get(slot, [])][:2]

    def error(self, iteration: int, skipped: StepDecision) -> float | None:
        """||v^ - v|| / ||v|| over the slots that are updated; None where one of them has no velocity yet.

        The root mean square of what `miss` says of each: as if all velocities were of one size.
        """
        self._enter(iteration)
        slots = self._schedule.mask[iteration].nonzero().flatten().tolist()
        known = [self._computed.get(slot, []) for slot in slots]
        if not slots or not all(known):
            return None
        newest, older = (torch.tensor([each[k] for each in known]) for k in (0, -1))
        predicted = torch.tensor([skipped.mode_of(slot) is Mode.PREDICT for slot in slots])
        at, two = torch.tensor(iteration), predicted & (newest != older)
        return math.sqrt(float(self._distances.miss(torch.tensor(slots), at, newest, older, two).square().mean()))

    def _enter(self, iteration: int) -> None:
        if self._before is not None and self._schedule.context_changed(iteration, self._before):
            self._computed.clear()
        self._before = iteration
