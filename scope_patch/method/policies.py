"""Policies: when to Cache, Predict or Recompute. Ours is `scope`; third parties add theirs by entry point.

A policy is a fold: `initial()` gives a state, `step(state, observation)` the next state and a decision. It holds no
tensors and asks for nothing but the observation, so that a plan made ahead and a run decide alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..errors import UsageError
from ..settings import K_MAX, NO_LIMIT, Settings
from . import find
from .decision import Decision, Mode, NoOptions, Observation, Policy, Size, options_of, traits
from .rivals import DeltaDiT, FlowCache, TaylorSeer, TeaCache


class ScopeState(NamedTuple):
    """A, the discrepancy accumulated since the last recompute, and r, the skips in a row."""

    accumulated: float = 0.0
    skips: int = 0


class Scope:
    """Cache below one threshold of accumulated discrepancy, Predict below a second, Recompute above.

    The tri-modal scheduler of SCOPE (arXiv 2604.02979, equations 3 to 5 of design §2).
    """

    name = "scope"
    active = True

    def __init__(self, settings: Settings) -> None:
        options_of(settings, NoOptions)
        self.cache_threshold, self.predict_threshold = settings.thresholds or NO_LIMIT
        self.max_skip = K_MAX if settings.max_skip is None else settings.max_skip
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
        if observation.grew or observation.forced:
            return Decision(recompute, "growth" if observation.grew else "forced")
        if observation.points < 1 or observation.discrepancy is None:
            return Decision(recompute, "history")
        if skips >= self.max_skip:
            return Decision(recompute, "horizon")
        if accumulated < self.cache_threshold:
            return Decision(Mode.CACHE, "threshold")
        # A discrepancy that is not a number is on neither side of a threshold: it recomputes.
        if not accumulated < self.predict_threshold:
            return Decision(recompute, "threshold")
        if observation.points < 2:
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


class Placed:
    """The policy of one iteration whose recomputes were placed. There is nothing to remember."""

    name = "placed"
    active = True

    def __init__(self, recompute: bool) -> None:
        self.recompute = recompute

    def initial(self) -> None:
        return None

    def step(self, state: None, observation: Observation) -> tuple[None, Decision]:
        must = "growth" if observation.grew else "forced" if observation.forced else ""
        if must or observation.points < 1:
            return None, Decision(Mode.RECOMPUTE, must or "history")
        # With one point a slot repeats its velocity, whatever the other slots have: each predicts from what it has.
        return None, Decision(Mode.RECOMPUTE if self.recompute else Mode.PREDICT, "plan")


_OURS: Sequence[type[Policy]] = (Scope, Never, TeaCache, TaylorSeer, FlowCache, DeltaDiT)
BUILT_IN = {policy.name: policy for policy in _OURS}
GROUP = "scope_patch.policies"


def create(settings: Settings, size: Size | None = None) -> Policy:
    """The policy named in the settings, for a model of that size, where it is known.

    Raises UsageError for a name nobody registered, and for settings that mean nothing to the policy.
    """
    policy: Policy = find(settings.policy_name, BUILT_IN, GROUP, "policy")(settings)
    if traits(policy).self_tuned:
        if settings.thresholds is not None:
            raise UsageError(f"policy {policy.name} has no use for --cache-threshold and --predict-threshold")
        if settings.target_speedup is not None and not hasattr(policy, "candidates"):
            raise UsageError(f"policy {policy.name} has no speed-up to aim at; give its own settings")
    if size is not None and hasattr(policy, "fit"):
        policy.fit(size)
    return policy
