"""Policies: when to Cache, Predict or Recompute. Third parties add theirs by entry point.

A policy is a fold: `initial()` gives a state, `step(state, observation)` the next state and a decision. It holds no
tensors and asks for nothing but the observation, so that a plan made ahead and a run decide alike.
"""

from __future__ import annotations

from ...errors import UsageError
from ...settings import Settings
from .. import describe, find
from ..decision import Policy
from .by_change import FlowCache, Never, Scope, TeaCache
from .by_count import DeltaDiT, TaylorSeer
from .traits import Size, traits

BUILT_IN: dict[str, type[Policy]] = {
    "scope": Scope,
    "never": Never,
    "teacache": TeaCache,
    "taylorseer": TaylorSeer,
    "flowcache": FlowCache,
    "delta-dit": DeltaDiT,
}
GROUP = "scope_patch.policies"


def names() -> dict[str, str]:
    """Every known policy with the first line of its docstring."""
    return describe(BUILT_IN, GROUP)


def create(settings: Settings, size: Size | None = None) -> Policy:
    """The policy named in the settings.

    Args:
        size: of the model, where it is known.

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
