"""Policy `scope`: the tri-modal scheduler of SCOPE (arXiv 2604.02979), equations 3 to 5 of design §2; and `never`."""

from __future__ import annotations

from typing import NamedTuple

from ...settings import NO_LIMIT, Settings
from ..decision import Decision, Mode, Observation
from .traits import NoOptions, options_of

POINTS_TO_CACHE = 1
POINTS_TO_PREDICT = 2


class ScopeState(NamedTuple):
    """A, the discrepancy accumulated since the last recompute, and r, the skips in a row."""

    accumulated: float = 0.0
    skips: int = 0


class Scope:
    """Cache below one threshold of accumulated discrepancy, Predict below a second, Recompute above."""

    name = "scope"
    active = True

    def __init__(self, settings: Settings) -> None:
        options_of(settings, NoOptions)
        self.cache_threshold, self.predict_threshold = settings.thresholds or NO_LIMIT
        self.max_skip = settings.max_skip
        self.decay = settings.predict_decay

    def initial(self) -> ScopeState:
        return ScopeState()

    def step(self, state: ScopeState, observation: Observation) -> tuple[ScopeState, Decision]:
        accumulated = state.accumulated + (observation.discrepancy or 0.0)
        decision = self._decide(accumulated, state.skips, observation)
        if decision.mode is Mode.RECOMPUTE:
            return ScopeState(), decision
        kept = accumulated * self.decay if decision.mode is Mode.PREDICT else accumulated
        return ScopeState(kept, state.skips + 1), decision

    def _decide(self, accumulated: float, skips: int, observation: Observation) -> Decision:
        recompute = Mode.RECOMPUTE
        if observation.grew:
            return Decision(recompute, "growth")
        if observation.forced:
            return Decision(recompute, "forced")
        if observation.points < POINTS_TO_CACHE or observation.discrepancy is None:
            return Decision(recompute, "history")
        if skips >= self.max_skip:
            return Decision(recompute, "horizon")
        if accumulated < self.cache_threshold:
            return Decision(Mode.CACHE, "threshold")
        # A discrepancy that is not a number is on neither side of a threshold: it recomputes.
        if not accumulated < self.predict_threshold:
            return Decision(recompute, "threshold")
        if observation.points < POINTS_TO_PREDICT:
            return Decision(Mode.CACHE if observation.hold_if_short else recompute, "history")
        return Decision(Mode.PREDICT, "threshold")


class Never:
    """Every step is recomputed on the host's own intervals: for comparing and for finding faults."""

    name = "never"
    active = False

    def __init__(self, settings: Settings) -> None:
        options_of(settings, NoOptions)

    def initial(self) -> None:
        return None

    def step(self, state: None, observation: Observation) -> tuple[None, Decision]:
        return None, Decision(Mode.RECOMPUTE, "forced")
