"""The words policies and sessions speak: what was observed, what is decided, and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Mode(str, Enum):
    """What happens to the DiT forward of one iteration."""

    CACHE = "C"  # reuse the last velocity
    PREDICT = "P"  # extrapolate it in the noise level
    RECOMPUTE = "R"  # run the DiT


@dataclass(frozen=True)
class Observation:
    """What a policy may know before the forward of one iteration.

    Attributes:
        discrepancy: d of equation 4, None where there is nothing to compare with yet.
        grew: new latent frames came under way.
        points: distinct history points, the least over the latent frames that are updated now (0: none).
        hold_if_short: with too few points to predict, repeating the last velocity is good enough.
        forced: the host needs this forward for more than its velocity.
        iteration, iterations: which one this is, from 0, and how many there are.
        active: one of these latent frames is updated now.
        age, remaining: updates that are behind and ahead of those (of the one with the fewest behind it).
        moved: the interval is another one than at the last iteration, so that tensors over it do not fit.
    """

    discrepancy: float | None
    grew: bool
    points: int
    hold_if_short: bool = False
    forced: bool = False
    iteration: int = 0
    iterations: int = 1
    active: bool = True
    age: int = 0
    remaining: int = 0
    moved: bool = False


@dataclass(frozen=True)
class Decision:
    """A mode and one short word that says why: threshold, horizon, growth, forced, history, context, plan or
    verify."""

    mode: Mode
    reason: str
