"""What a user's settings come to on a host, resolved once: the same object for a run and for a plan without one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..settings import DEFAULT_POLICY, NO_LIMIT, Settings
from ..values import FrozenKeys
from . import policies, predictors
from .decision import Policy, Size, Traits, traits
from .forecast import LARGEST_CHANGE
from .predictors import Predictor

EVERYTHING = NO_LIMIT[1]
"""A threshold that nothing reaches."""


@dataclass(frozen=True)
class HostDefaults:
    """What presets and settings mean on a host.

    Attributes:
        presets: name -> speed-up of the DiT's work.
        limit: the highest predict threshold that a preset may take to get there, in units of the host's own signal.
        size: of the model, as far as it is known. Chunks of a moving window can be forwarded one by one, the older ones
            first; and where they have too few points to predict, repeating the last velocity is good enough.
        signal: what decisions are made from unless the user or the policy says otherwise.
    """

    presets: Mapping[str, float]
    limit: float = EVERYTHING
    size: Size = field(default_factory=Size)
    signal: str = "timestep"


@dataclass(frozen=True)
class Method:
    """Settings on a host, made by `method_of`.

    Attributes:
        level: where it is skipped, "velocity" or "residual".
        signal: what decides where recomputes are not placed: "timestep", "embedding", "expected" or "none".
        placed: recomputes are placed to err least, rather than decided by thresholds on a signal.
    """

    settings: Settings
    defaults: HostDefaults
    policy: Policy
    traits: Traits
    predictor: Predictor
    level: str
    signal: str
    placed: bool

    @property
    def asks(self) -> str:
        """The signal that decisions hang on; "" where recomputes are placed, nothing is skipped, or none is wanted."""
        return "" if self.placed or not self.policy.active or self.signal == "none" else self.signal

    def selective(self, independent: bool) -> bool:
        """Whether latent frames that have not started are left out; `independent`: none of the others looks at them.

        Where they do, it changes the video more than skipped steps do (docs/testbeds.md), so it has to be asked for, as
        keeping keys under full attention is.
        """
        wanted = self.settings.selective
        if wanted is None:
            wanted = independent or bool(self.settings.frozen and self.settings.frozen.full)
        return wanted and self.policy.active and not self.traits.self_tuned

    @property
    def replays(self) -> bool:
        """Whether skipped steps are taken again; unless asked for, not where thresholds or a rival say what is done."""
        if self.settings.replay is None:
            return self.settings.policy_name == DEFAULT_POLICY and self.settings.thresholds is None
        return self.settings.replay and self.policy.active

    def frozen(self, independent: bool) -> FrozenKeys | None:
        """What keys and values of finished latent frames may take; None: they are forwarded along."""
        return self.settings.frozen if self.selective(independent) and self.level == "velocity" else None

    @property
    def per_slot(self) -> bool:
        """Whether slots are decided and forwarded one by one."""
        return self.defaults.size.chunked and self.settings.per_chunk and self.traits.per_slot

    @property
    def largest_change(self) -> float:
        """Of a usable prediction; a rival's forecast has no bound but finiteness."""
        return math.inf if self.traits.by_step else LARGEST_CHANGE

    def unverifiable(self, ranks: int = 1) -> str:
        """Why skipped iterations cannot be verified, or "".

        Ranks that share the model must decide alike, and each would see errors of its own.
        """
        if not self.policy.active:
            return f"policy {self.settings.policy} skips nothing"
        if self.level != "velocity":
            return "at the residual level a skipped forward runs in part, and no velocity is predicted"
        return f"{ranks} ranks share the model, and must decide alike" if ranks > 1 else ""


def method_of(settings: Settings, defaults: HostDefaults) -> Method:
    """Settings on a host. Raises UsageError for a policy or predictor nobody registered, and for misused settings."""
    policy = policies.create(settings, defaults.size)
    wanted = traits(policy)
    placement = settings.placement or ("threshold" if settings.signal else "error")
    return Method(
        settings,
        defaults,
        policy,
        wanted,
        predictor=predictors.create(wanted.predictor or settings.predictor),
        level=settings.level or wanted.level,
        signal=settings.signal or wanted.signal or defaults.signal,
        placed=settings.thresholds is None and settings.policy_name == DEFAULT_POLICY and placement == "error",
    )
