"""What is observed, what is decided, and why; and a policy folded over a schedule: one verdict an iteration, before the
first forward, from what is known without any velocity. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

from ..settings import Settings

if TYPE_CHECKING:
    from .changes import Changes
    from .schedule import Interval, Schedule

MOST = 3
"""History points a slot can have at most."""
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
    """A mode and one short word that says why: threshold, horizon, growth, forced, history, context, plan or
    verify."""

    mode: Mode
    reason: str


class Policy(Protocol):
    """See the docstring of `policies`; `active` False leaves the host's own intervals and runs every forward.

    A policy may have more: `traits` (see `traits.Traits`), `fit(size)`, told of the model before it is first asked,
    `candidates()`, policies like itself from slow to fast, among which one is found for a target speed-up, and
    `span(iteration, iterations)`, the blocks [first, last) that are skipped at the residual level.
    """

    name: str
    active: bool

    def __init__(self, settings: Settings) -> None: ...

    def initial(self) -> Any: ...

    def step(self, state: Any, observation: Observation) -> tuple[Any, Decision]: ...


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

    def mode_of(self, slot: int) -> Mode:
        """What happens to one slot of the interval."""
        return next(decision.mode for slots, decision in self.decisions.items() if slot < slots[1])


class Fold:
    """One way through a schedule.

    Args:
        policy: the policy of an iteration; all of them must share their kind of state.
        per_slot: one decision a slot (a chunk of a moving window), where older slots do not see younger ones.
        hold_if_short: too few points to predict are enough to repeat the last velocity.
        keeps: history points that the predictor can use.
        joint: slots are decided one by one, but all are forwarded as soon as one must be.
    """

    def __init__(
        self,
        schedule: Schedule,
        policy: Callable[[int], Policy],
        keeps: int,
        *,
        per_slot: bool = False,
        hold_if_short: bool = False,
        joint: bool = False,
    ) -> None:
        self.schedule, self.policy, self.keeps = schedule, policy, keeps
        self.per_slot, self.hold_if_short, self.joint = per_slot or joint, hold_if_short, joint
        self._states: dict[int, Any] = {}
        self._levels: dict[int, list[float]] = {}
        self._known = schedule.noise_levels.tolist()
        self._active = schedule.mask.tolist()
        self._behind = schedule.mask.cumsum(dim=0).tolist()

    def verdicts(self, changes: Changes) -> list[StepDecision]:
        """Those of all iterations; to be asked for once."""
        return [self._step(iteration, changes) for iteration in range(len(self.schedule))]

    def _step(self, iteration: int, changes: Changes) -> StepDecision:
        schedule, policy = self.schedule, self.policy(iteration)
        if iteration and schedule.context_changed(iteration, iteration - 1):
            self._levels.clear()
        interval, forced = schedule.intervals[iteration], schedule.clean_prefix(iteration) > 0
        moved = iteration == 0 or interval != schedule.intervals[iteration - 1]
        decisions: dict[Interval, Decision] = {}
        states: dict[int, Any] = {}
        for slots in [(slot, slot + 1) for slot in range(*interval)] if self.per_slot else [interval]:
            key = slots[0] if self.per_slot else 0
            grew = schedule.entered(iteration, slots)
            points = 0 if grew or forced else self._points(iteration, slots)
            active, age, remaining = self._progress(iteration, slots)
            observation = Observation(
                changes(iteration, slots),
                grew,
                points,
                hold_if_short=self.hold_if_short,
                forced=forced,
                iteration=iteration,
                iterations=len(schedule),
                active=active,
                age=age,
                remaining=remaining,
                moved=moved,
            )
            states[key], decisions[slots] = policy.step(self._states.get(key, policy.initial()), observation)
        run = [end for (_, end), decision in decisions.items() if decision.mode is Mode.RECOMPUTE]
        last = max(run, default=interval[0])
        if self.joint and last > interval[0]:
            last = interval[1]
        for slots, decision in decisions.items():
            # Older slots do not see younger ones, but are seen by them: they are computed along.
            if slots[1] < last or (slots[1] == last and decision.mode is not Mode.RECOMPUTE):
                decisions[slots], states[slots[0]] = Decision(Mode.RECOMPUTE, "context"), policy.initial()
        self._states = states
        for slot in range(interval[0], last):
            self._levels[slot] = [self._known[iteration][slot], *self._levels.get(slot, [])][: self.keeps]
        main = min(reversed(decisions.values()), key=lambda decision: "RPC".index(decision.mode.value))
        return StepDecision(decisions, (interval[0], last), main.mode, main.reason)

    def _progress(self, iteration: int, slots: Interval) -> tuple[bool, int, int]:
        """`active`, `age` and `remaining` of an observation."""
        behind, all_of_them = self._behind[iteration], self._behind[-1]
        active = [slot for slot in range(*slots) if self._active[iteration][slot]]
        if not active:
            return False, 0, 0
        youngest = min(active, key=lambda slot: behind[slot])
        return True, behind[youngest] - 1, all_of_them[youngest] - behind[youngest]

    def _points(self, iteration: int, slots: Interval) -> int:
        """Distinct history points, the least over those of these slots that are updated now; 3 where none is."""
        active = self._active[iteration]
        return min((_distinct(self._levels.get(slot, [])) for slot in range(*slots) if active[slot]), default=MOST)


def _distinct(levels: list[float]) -> int:
    """Points of a slot that a predictor can use: consecutive ones at different noise levels (see `Points.count`)."""
    if not levels:
        return 0
    gaps = [abs(a - b) > SAME_LEVEL for a, b in pairwise(levels)]
    return 1 + (gaps.index(False) if False in gaps else len(gaps))
