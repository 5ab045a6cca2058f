"""Policy `taylorseer`: TaylorSeer (arXiv 2503.06923), a forecast in the step number between regular recomputes."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UsageError
from ...settings import Settings
from ..decision import Decision, Mode, Observation
from .options import at_least, own
from .rungs import rungs
from .traits import Traits

ORDERS = 2
RUNGS = range(1, 21)
"""Intervals that are tried for a target speed-up."""


@dataclass(frozen=True)
class TaylorSeerOptions:
    """By the paper's names.

    Attributes:
        interval: N, one recompute every N iterations.
        max_order: O, 0 to 2, of the forecast.
        warmup: iterations at the start that are all recomputed (`first_enhance`; diffusers'
            `disable_cache_before_step`).
        first: iterations from the last of these to the next recompute; the authors' code has N, diffusers 2. 0: N.
    """

    interval: int = 5
    max_order: int = 1
    warmup: int = 3
    first: int = 0


class TaylorSeer:
    """TaylorSeer: recompute every N iterations, forecast by finite differences over step numbers in between.

    There is nothing to remember: the iteration's number decides.
    """

    name = "taylorseer"
    active = True

    def __init__(self, settings: Settings) -> None:
        self.options = own(settings, TaylorSeerOptions)
        at_least(1, interval=self.options.interval, warmup=self.options.warmup)
        at_least(0, max_order=self.options.max_order, first=self.options.first)
        if self.options.max_order > ORDERS:
            raise UsageError(f"max_order is {self.options.max_order}, but three points are kept: {ORDERS} at most")
        self.interval = self.options.interval
        self.traits = Traits(
            own=True,
            each=False,
            signal="none",
            predictor=("last", "taylor1", "taylorseer2")[self.options.max_order],
            by_step=True,
        )

    def ladder(self) -> list[TaylorSeer]:
        """Growing intervals."""
        return rungs(self, "interval", RUNGS)

    def initial(self) -> None:
        return None

    def step(self, state: None, observation: Observation) -> tuple[None, Decision]:
        if observation.moved or observation.forced:
            return None, Decision(Mode.RECOMPUTE, "growth" if observation.moved else "forced")
        since = observation.iteration - (self.options.warmup - 1)
        first = self.options.first or self.interval
        if since <= 0 or (since >= first and (since - first) % self.interval == 0):
            return None, Decision(Mode.RECOMPUTE, "horizon")
        return None, Decision(Mode.PREDICT if self.options.max_order else Mode.CACHE, "plan")
