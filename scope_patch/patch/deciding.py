"""Where the verdict of an iteration comes from: a plan made before the first forward, or the signal as it comes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..method.fold import Fold, Verdict
from .call import ForwardCall
from .gauge import LatentGauge


class Decider(Protocol):
    """Asked once an iteration, by its first DiT call."""

    def verdict(self, call: ForwardCall, iteration: int) -> Verdict: ...


class Planned:
    """Replays a plan: no signal is evaluated and nothing is synchronised while the loop runs."""

    def __init__(self, verdicts: Sequence[Verdict]) -> None:
        self._verdicts = verdicts

    def verdict(self, call: ForwardCall, iteration: int) -> Verdict:
        return self._verdicts[iteration]


class Online:
    """Folds along with the host."""

    def __init__(self, fold: Fold, gauge: LatentGauge) -> None:
        self._fold, self._gauge = fold, gauge

    def verdict(self, call: ForwardCall, iteration: int) -> Verdict:
        self._gauge.enter(call, self._fold.schedule, iteration)
        return self._fold.step(iteration, self._gauge.change)
