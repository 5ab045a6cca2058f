"""Policies: when to Cache, Predict or Recompute. Third parties add theirs by entry point.

A policy is a fold: `initial()` gives a state, `step(state, observation)` the next state and a decision. It holds no
tensors and asks for nothing but the observation, so that a plan made ahead and a run decide alike.
"""

from __future__ import annotations

from typing import Any, Protocol

from ...errors import UsageError
from ...settings import Settings
from .. import describe, find
from ..decision import Decision, Observation
from .by_change import FlowCache, TeaCache
from .by_count import DeltaDiT, TaylorSeer
from .scope import Never, Scope
from .traits import Size, traits


class Policy(Protocol):
    """See the module's docstring; `active` False leaves the host's own intervals and runs every forward.

    A policy may have more: `traits` (see `traits.Traits`), `fit(size)`, told of the model before it is first asked,
    `candidates()`, policies like itself from slow to fast, among which one is found for a target speed-up, and
    `span(iteration, iterations)`, the blocks [first, last) that are skipped at the residual level.
    """

    name: str
    active: bool

    def __init__(self, settings: Settings) -> None: ...

    def initial(self) -> Any: ...

    def step(self, state: Any, observation: Observation) -> tuple[Any, Decision]: ...


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
