"""The search for a target: few runs, each where it says most. Knows no host and no file.

Quality falls with the target, up to noise. Of a run only its slack matters: how far it is on the right side of the
bound, in powers of ten of the error (or of the seconds); negative on the wrong side. The crossing is bracketed, then
narrowed by the secant through the ends, kept away from them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

START, LEAST, MOST = 3.0, 1.2, 20.0
"""The first target, and between which ones it is looked for."""
STRIDE = 1.5
"""From one target to the next while there is no bracket."""
CLOSE = 1.05
"""How many times the upper end is the lower one when a bracket is narrow enough."""
DENT = 0.1
"""Powers of ten of the error; less is noise."""
EDGE = 0.25
"""Of a bracket, in the logarithm: no step comes nearer to an end."""


@dataclass
class Search:
    """`next` gives the target of the next run, None at the end; `note` what came of it.

    Attributes:
        slacks: by target, of every run.
        ceiling: the lowest target that a run with a higher one decided exactly like; nothing lies beyond.
    """

    slacks: dict[float, float] = field(default_factory=dict)
    ceiling: float | None = None
    _decisions: dict[str, float] = field(default_factory=dict)

    def note(self, target: float, slack: float, decisions: str = "") -> None:
        """A run has ended.

        Args:
            decisions: what it decided, by any name; the same name twice means that the targets are one and the same.
        """
        self.slacks[target] = slack
        if decisions:
            before = self._decisions.setdefault(decisions, target)
            if before < target and slack >= 0 and not self._above:
                self.ceiling = before

    @property
    def low(self) -> float | None:
        """The highest target within the bound below all those that are not."""
        above = self._above
        within = [t for t, slack in self.slacks.items() if slack >= 0 and t < (min(above) if above else math.inf)]
        return max(within) if within else None

    @property
    def best(self) -> float | None:
        """The answer: `low`, or a lower target that decides the same."""
        return self.low if self.high is not None or self.ceiling is None else self.ceiling

    @property
    def high(self) -> float | None:
        """The lowest target that is not within the bound."""
        return min(self._above) if self._above else None

    @property
    def next(self) -> float | None:
        """None: the bracket is narrow enough, or there is nothing on one side."""
        low, high = self.low, self.high
        if low is None and high is None:
            return START
        if high is None:
            assert low is not None
            return None if self.ceiling is not None or low >= MOST else rung(min(MOST, low * STRIDE))
        if low is None:
            return None if high <= LEAST else rung(max(LEAST, high / STRIDE))
        if high / low <= CLOSE:
            return None
        share = self.slacks[low] / (self.slacks[low] - self.slacks[high])
        shares = min(max(share, EDGE), 1 - EDGE), 0.5
        between = (rung(low * (high / low) ** share) for share in shares)
        return next((aim for aim in between if low < aim < high), None)

    @property
    def dent(self) -> tuple[float, float] | None:
        """Two targets next to one another, of which the higher one is clearly the better."""
        for low, high in pairwise(sorted(self.slacks)):
            if self.slacks[high] - self.slacks[low] > DENT:
                return low, high
        return None

    @property
    def left(self) -> list[float]:
        """The targets that are still to be run, about: what time they take can be estimated by these."""
        low, high = self.low, self.high
        if self.next is None:
            return []
        if low is None or high is None:
            return [self.next] * 5
        return [self.next] * max(1, round(math.log(math.log(high / low) / math.log(CLOSE)) / math.log(2)))

    @property
    def _above(self) -> list[float]:
        return [target for target, slack in self.slacks.items() if slack < 0]


def rung(target: float) -> float:
    """The nearest target that is worth a run of its own: they are 1 to 3 % apart."""
    step = 0.05 if target < 5 else 0.1 if target < 10 else 0.2
    return round(round(target / step) * step, 2)
