"""Policies: when to Cache, Predict or Recompute. One file each; third parties add theirs by entry point.

A policy is a fold: `initial()` gives a state, `step(state, observation)` the next state and a decision. It holds no
tensors and asks for nothing but the observation, so that a plan made ahead and a run decide alike.
"""

from __future__ import annotations

from typing import Any, Protocol

from ... import plugins
from ...settings import Settings
from ..decision import Decision, Observation
from .never import Never
from .scope import Scope


class Policy(Protocol):
    """See the module's docstring; `active` False leaves the host's own intervals and runs every forward."""

    name: str
    active: bool

    def __init__(self, settings: Settings) -> None: ...

    def initial(self) -> Any: ...

    def step(self, state: Any, observation: Observation) -> tuple[Any, Decision]: ...


BUILT_IN: dict[str, type[Policy]] = {"scope": Scope, "never": Never}
GROUP = "scope_patch.policies"


def names() -> dict[str, str]:
    """Every known policy with the first line of its docstring."""
    return plugins.describe(BUILT_IN, GROUP)


def create(settings: Settings) -> Policy:
    """The policy named in the settings. Raises UsageError for a name nobody registered."""
    policy: Policy = plugins.find(settings.policy, BUILT_IN, GROUP, "policy")(settings)
    return policy
