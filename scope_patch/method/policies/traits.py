"""What a policy wants of its surroundings, and what it may know of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Traits:
    """Attributes:
    level: where it skips unless the user says otherwise: "velocity" (the forward is not called) or "residual" (it is
        called, and the residual of its blocks is made from earlier ones; embedding and head are fresh).
    own: it decides by settings of its own and on the host's own intervals; presets and thresholds mean nothing to it.
    each: where slots can be decided one by one, it does so.
    together: where they cannot be forwarded one by one, it still decides so, and all are forwarded as soon as one must.
    signal: what it decides from: "timestep" (the modulation that enters the blocks), "embedding" (the time embedding
        under it), "latent", or "none"; None: the host's own.
    predictor: what it predicts with; None: the user's.
    by_step: it predicts in the number of the denoise step, not in the noise level, and without our stability limits.
    left: the share of a forward's work that a skipped one still does.
    """

    level: str = "velocity"
    own: bool = False
    each: bool = True
    together: bool = False
    signal: str | None = None
    predictor: str | None = None
    by_step: bool = False
    left: float = 0.0


@dataclass(frozen=True)
class Size:
    """A DiT's channels and blocks (0 where they are not known), and whether its host denoises chunk by chunk."""

    width: int = 0
    blocks: int = 0
    chunked: bool = False


def traits(policy: Any) -> Traits:
    """The traits of a policy; those of ours that say nothing, and of other packages, are the paper's."""
    found = getattr(policy, "traits", None)
    return found if isinstance(found, Traits) else Traits()
