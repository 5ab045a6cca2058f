"""What is observed, what is decided, and why; what a policy is, its traits and settings of its own. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ..errors import UsageError
from ..settings import Settings
from ..values import reader

if TYPE_CHECKING:
    from .schedule import Interval

Options = TypeVar("Options")
LEAST_SHARE = 0.07
"""Added to the share 1 - sigma of the data in a sample wherever one divides by it: at sigma = 1 velocities change."""
SAME_LEVEL = 1e-9
"""Two noise levels nearer than this are one: the slot did not advance between the two anchors."""


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
    """A mode, and why in a word: threshold, horizon, growth, forced, history, context, plan or verify."""

    mode: Mode
    reason: str


@dataclass(frozen=True)
class StepDecision:
    """What is decided at one iteration.

    Attributes:
        decisions: of all slots of the interval, or of each (a chunk).
        forwarded: the slots whose velocities are computed; empty where all are skipped.
        mode, reason: told of the iteration as a whole.
        instead: where a skipped iteration is run to verify it, the verdict that is not carried out.
    """

    decisions: Mapping[Interval, Decision]
    forwarded: Interval
    mode: Mode
    reason: str
    instead: StepDecision | None = None

    @property
    def runs(self) -> bool:
        return self.forwarded[0] < self.forwarded[1]

    def mode_of(self, slot: int) -> Mode:
        """What happens to one slot of the interval."""
        return next(decision.mode for slots, decision in self.decisions.items() if slot < slots[1])


@dataclass(frozen=True)
class Traits:
    """What a policy wants of its surroundings. Attributes:

    level: where it skips unless the user says otherwise: "velocity" (the forward is not called) or "residual" (it is
        called, and the residual of its blocks is made from earlier ones; embedding and head are fresh).
    self_tuned: it decides by settings of its own and on the host's own intervals; presets and thresholds mean nothing
        to it.
    per_slot: where slots can be decided one by one, it does so.
    joint: where they cannot be forwarded one by one, it still decides so, and all are forwarded as soon as one must.
    signal: what it decides from: "timestep" (the modulation that enters the blocks), "embedding" (the time embedding
        under it), "expected" (what is expected of the latents), or "none"; None: the host's own.
    predictor: what it predicts with; None: the user's.
    by_step: it predicts in the number of the denoise step, not in the noise level, and without our stability limits.
    residual_work: the share of a forward's work that a skipped one still does.
    """

    level: str = "velocity"
    self_tuned: bool = False
    per_slot: bool = True
    joint: bool = False
    signal: str | None = None
    predictor: str | None = None
    by_step: bool = False
    residual_work: float = 0.0


@dataclass(frozen=True)
class Size:
    """A DiT's channels and blocks (0 where they are not known), and whether its host denoises chunk by chunk."""

    width: int = 0
    blocks: int = 0
    chunked: bool = False


class Policy(Protocol):
    """See the docstring of `policies`; `active` False leaves the host's own intervals and runs every forward.

    A policy may have more: `traits`, `fit(size)`, told of the model before it is first asked, `candidates()`, policies
    like itself from slow to fast, among which one is found for a target speed-up, and `span(iteration, iterations)`,
    the blocks [first, last) that are skipped at the residual level.
    """

    name: str
    active: bool

    def __init__(self, settings: Settings) -> None: ...

    def initial(self) -> Any: ...

    def step(self, state: Any, observation: Observation) -> tuple[Any, Decision]: ...


def traits(policy: Any) -> Traits:
    """The traits of a policy; those of ours that say nothing, and of other packages, are the paper's."""
    found = getattr(policy, "traits", None)
    return found if isinstance(found, Traits) else Traits()


@dataclass(frozen=True)
class NoOptions:
    """Of a policy that has no settings of its own."""


def options_of(settings: Settings, kind: type[Options]) -> Options:
    """The policy's own settings: a dataclass of float, int, bool or str fields (or of one `| None`), with defaults.

    Raises UsageError for a key that it has not, with those that it has, and for a value that cannot be read.
    """
    name, given = settings.policy_name, settings.policy_options
    known = {field.name: reader(field.type) for field in fields(kind)}  # type: ignore[arg-type]
    for key in given:
        if key not in known:
            raise UsageError(f"policy {name} has no setting {key!r}; it has {', '.join(known) or 'none of its own'}")
    return kind(**{key: known[key](value, f"--policy {name}:{key}") for key, value in given.items()})


def at_least(least: float, **values: float) -> None:
    """Raises UsageError for a value below `least`."""
    for name, value in values.items():
        if value < least:
            raise UsageError(f"{name} is {value:g}, but must be {least:g} or more")
