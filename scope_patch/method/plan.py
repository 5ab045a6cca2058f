"""All decisions of a schedule before its first forward, and the thresholds that make them cost what is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..settings import NO_LIMIT
from .changes import Changes
from .fold import Fold, Verdict
from .schedule import Interval

Work = Callable[[int, Interval], float]
"""(iteration, forwarded slots, at least one) -> the cost of that forward, in any unit."""

EVERYTHING = NO_LIMIT[1]
"""A threshold that nothing reaches."""
HALVINGS = 24


@dataclass(frozen=True)
class Plan:
    """Attributes:
    verdicts: one an iteration.
    work, baseline: the cost of the forwards that are left, and of the host's own.
    thresholds: (cache, predict) that decided, or that decided at most where two pairs take turns.
    bound: the target could not be reached: this is the most that the horizon, the forced forwards and the limit allow.
    """

    verdicts: Sequence[Verdict]
    work: float
    baseline: float
    thresholds: tuple[float, float]
    bound: bool = False

    @property
    def speedup(self) -> float:
        """Baseline work over planned work."""
        return self.baseline / self.work if self.work else 1.0

    @property
    def summary(self) -> dict[str, Any]:
        """For reports."""
        return {
            "modes": self.modes,
            "work": self.work,
            "baseline": self.baseline,
            "speedup": round(self.speedup, 4),
            "bound": self.bound,
            "thresholds": list(self.thresholds),
        }

    @property
    def modes(self) -> str:
        """One letter an iteration."""
        return "".join(verdict.mode.value for verdict in self.verdicts)


def fold(start: Callable[[], Fold], changes: Changes) -> list[Verdict]:
    """Every iteration's verdict, in order."""
    run = start()
    return [
        run.step(i, lambda slots, i=i: changes(i, slots))  # type: ignore[misc]
        for i in range(len(run.schedule))
    ]


class Planner:
    """Plans of one schedule.

    Args:
        make: ((cache, predict) of early iterations, those of late ones, the first late iteration) -> verdicts.
        work: the cost of a forward.
        baseline: the cost of the host's own forwards.
    """

    def __init__(
        self,
        make: Callable[[tuple[float, float], tuple[float, float], int], list[Verdict]],
        work: Work,
        baseline: float,
        iterations: int,
    ) -> None:
        self._make, self._work, self.baseline, self.iterations = make, work, baseline, iterations

    def at(self, thresholds: tuple[float, float]) -> Plan:
        """The plan of a pair of thresholds."""
        return self._plan(thresholds, thresholds, 0)

    def for_speedup(self, target: float, limit: float = EVERYTHING) -> Plan:
        """The plan whose speed-up is nearest to the target and not below it, or the largest there is.

        Only Predict and Recompute: at equal work repeating a velocity errs more than extrapolating it. One threshold
        gives steps; between two neighbours, the first part of the iterations takes the higher one.

        Args:
            target: baseline work over the work that shall be left.
            limit: the highest predict threshold.

        Raises ValueError for a target below 1.
        """
        if not target >= 1:
            raise ValueError(f"a speed-up of {target} is none; ask for 1 or more")
        wanted = self.baseline / target
        most = self.at((0.0, limit))
        if most.work >= wanted:
            return Plan(most.verdicts, most.work, most.baseline, most.thresholds, bound=most.work > wanted * 1.05)
        low, high = 0.0, min(1.0, limit)
        while self.at((0.0, high)).work > wanted and high < limit:
            low, high = high, min(4 * high, limit)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if self.at((0.0, middle)).work <= wanted else (middle, high)
        early, late = (0.0, high), (0.0, low)
        first, last = 0, self.iterations  # all late: too much work; all early: enough is saved
        while last - first > 1:
            middle = (first + last) // 2
            first, last = (first, middle) if self._plan(early, late, middle).work <= wanted else (middle, last)
        candidates = [self._plan(early, late, turn) for turn in (first, last)]
        return min(candidates, key=lambda plan: abs(plan.work - wanted))

    def _plan(self, early: tuple[float, float], late: tuple[float, float], turn: int) -> Plan:
        verdicts = self._make(early, late, turn)
        work = sum(
            self._work(i, verdict.forwarded)
            for i, verdict in enumerate(verdicts)
            if verdict.forwarded[0] < verdict.forwarded[1]
        )
        return Plan(verdicts, work, self.baseline, early if turn else late)
