"""Rivals that decide by counting iterations: `taylorseer` (arXiv 2503.06923) and `delta-dit` (arXiv 2406.01125)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ...errors import UsageError
from ...settings import Settings
from ..decision import Decision, Mode, Observation
from .traits import Size, Traits, at_least, options_of, varied

ORDERS = 2
INTERVALS = {"taylorseer": range(1, 21), "delta-dit": range(1, 31)}
"""Those that are tried for a target speed-up."""
SHARE = 0.75
"""Of the blocks, where delta-dit was given no number: our choice; the paper tunes it for each model."""


class Counting:
    """What the two share: there is nothing to remember, the iteration's number decides."""

    name: str
    active = True
    interval: int
    instead = Mode.CACHE

    def candidates(self) -> list[Any]:
        """Growing intervals."""
        return varied(self, "interval", INTERVALS[self.name])

    def initial(self) -> None:
        return None

    def step(self, state: None, observation: Observation) -> tuple[None, Decision]:
        if observation.moved or observation.forced:
            return None, Decision(Mode.RECOMPUTE, "growth" if observation.moved else "forced")
        if self.due(observation.iteration, observation.iterations):
            return None, Decision(Mode.RECOMPUTE, "horizon")
        return None, Decision(self.instead, "plan")

    def due(self, iteration: int, iterations: int) -> bool:
        """Whether this iteration is one of those that are recomputed."""
        raise NotImplementedError


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


class TaylorSeer(Counting):
    """TaylorSeer: recompute every N iterations, forecast by finite differences over step numbers in between."""

    name = "taylorseer"

    def __init__(self, settings: Settings) -> None:
        self.options = options_of(settings, TaylorSeerOptions)
        at_least(1, interval=self.options.interval, warmup=self.options.warmup)
        at_least(0, max_order=self.options.max_order, first=self.options.first)
        if self.options.max_order > ORDERS:
            raise UsageError(f"max_order is {self.options.max_order}, but three points are kept: {ORDERS} at most")
        self.interval = self.options.interval
        self.instead = Mode.PREDICT if self.options.max_order else Mode.CACHE
        self.traits = Traits(
            self_tuned=True,
            per_slot=False,
            signal="none",
            predictor=("last", "taylor1", "taylorseer2")[self.options.max_order],
            by_step=True,
        )

    def due(self, iteration: int, iterations: int) -> bool:
        since = iteration - (self.options.warmup - 1)
        first = self.options.first or self.interval
        return since <= 0 or (since >= first and (since - first) % self.interval == 0)


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


class DeltaDiT(Counting):
    """Delta-DiT: reuse the residual of the rear blocks in the early stage, and of the front blocks in the late one.

    The other blocks run at every iteration, so a skipped forward is not for free.
    """

    name = "delta-dit"

    def __init__(self, settings: Settings) -> None:
        self.options = options_of(settings, DeltaDiTOptions)
        at_least(1, interval=self.options.interval)
        at_least(0, blocks=self.options.blocks, b=self.options.b)
        if settings.level == "velocity":
            raise UsageError("policy delta-dit bypasses a part of the blocks, which is no --level velocity")
        self.interval, self.size = self.options.interval, Size()
        self.traits = Traits(level="residual", self_tuned=True, per_slot=False, signal="none", predictor="last")

    def fit(self, size: Size) -> None:
        """Which blocks are front and rear, and what is left of a forward, hang on their number."""
        self.size = size
        if size.blocks:
            self.traits = replace(self.traits, residual_work=1 - self._bypassed / size.blocks)

    def span(self, iteration: int, iterations: int) -> tuple[int, int] | None:
        """Rear blocks, then front blocks."""
        if not self.size.blocks:
            return None
        if iteration < self._turn(iterations):
            return self.size.blocks - self._bypassed, self.size.blocks
        return 0, self._bypassed

    def due(self, iteration: int, iterations: int) -> bool:
        turn = self._turn(iterations)
        return (iteration - (turn if iteration >= turn else 0)) % self.interval == 0

    @property
    def _bypassed(self) -> int:
        wanted = self.options.blocks or round(SHARE * self.size.blocks)
        return min(max(wanted, 1), self.size.blocks)

    def _turn(self, iterations: int) -> int:
        return round(self.options.b * iterations)
