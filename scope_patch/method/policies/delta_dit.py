"""Policy `delta-dit`: Delta-DiT (arXiv 2406.01125), residuals of a part of the blocks, reused by stage."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...errors import UsageError
from ...settings import Settings
from ..decision import Decision, Mode, Observation
from .options import at_least, own
from .rungs import rungs
from .traits import Size, Traits

RUNGS = range(1, 31)
"""Intervals that are tried for a target speed-up."""
SHARE = 0.75
"""Of the blocks, where no number was given: our choice; the paper tunes it for each model."""


@dataclass(frozen=True)
class DeltaDiTOptions:
    """Attributes:
    interval: N, one whole forward every N iterations.
    blocks: how many are bypassed in between; 0: three quarters of the model's.
    b: the share of the iterations that is the early stage, in which the rear blocks are bypassed; the front ones later.
    """

    interval: int = 2
    blocks: int = 0
    b: float = 0.5


class DeltaDiT:
    """Delta-DiT: reuse the residual of the rear blocks in the early stage, and of the front blocks in the late one.

    The other blocks run at every iteration, so a skipped forward is not for free. There is nothing to remember.
    """

    name = "delta-dit"
    active = True

    def __init__(self, settings: Settings) -> None:
        self.options = own(settings, DeltaDiTOptions)
        at_least(1, interval=self.options.interval)
        at_least(0, blocks=self.options.blocks, b=self.options.b)
        if settings.level == "velocity":
            raise UsageError("policy delta-dit bypasses a part of the blocks, which is no --level velocity")
        self.interval, self.size = self.options.interval, Size()
        self.traits = Traits(level="residual", own=True, each=False, signal="none", predictor="last")

    def fit(self, size: Size) -> None:
        """Which blocks are front and rear, and what is left of a forward, hang on their number."""
        self.size = size
        if size.blocks:
            self.traits = replace(self.traits, left=1 - self._bypassed / size.blocks)

    def ladder(self) -> list[DeltaDiT]:
        """Growing intervals."""
        return rungs(self, "interval", RUNGS)

    def span(self, iteration: int, iterations: int) -> tuple[int, int] | None:
        """Rear blocks, then front blocks."""
        if not self.size.blocks:
            return None
        if iteration < self._turn(iterations):
            return self.size.blocks - self._bypassed, self.size.blocks
        return 0, self._bypassed

    def initial(self) -> None:
        return None

    def step(self, state: None, observation: Observation) -> tuple[None, Decision]:
        if observation.moved or observation.forced:
            return None, Decision(Mode.RECOMPUTE, "growth" if observation.moved else "forced")
        turn = self._turn(observation.iterations)
        since = observation.iteration - (turn if observation.iteration >= turn else 0)
        if since % self.interval == 0:
            return None, Decision(Mode.RECOMPUTE, "horizon")
        return None, Decision(Mode.CACHE, "plan")

    @property
    def _bypassed(self) -> int:
        wanted = self.options.blocks or round(SHARE * self.size.blocks)
        return min(max(wanted, 1), self.size.blocks)

    def _turn(self, iterations: int) -> int:
        return round(self.options.b * iterations)
