"""Where the verdict of an iteration comes from: a plan made before the first forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..method.fold import StepDecision
from .call import ForwardCall


class Decider(Protocol):
    """Asked once an iteration, by its first DiT call."""

    def verdict(self, call: ForwardCall, iteration: int) -> StepDecision: ...


class Planned:
    """Replays a plan: no signal is evaluated and nothing is synchronised while the loop runs."""

    def __init__(self, verdicts: Sequence[StepDecision]) -> None:
        self._verdicts = verdicts

    def verdict(self, call: ForwardCall, iteration: int) -> StepDecision:
        return self._verdicts[iteration]
