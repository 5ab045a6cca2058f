"""Skipped steps taken again, once the velocity behind them is known: with velocities between the last two computed.

The solver is put back to where the last recompute left it, and the steps since are taken with velocities interpolated
in the noise level; then the host goes on from there. What its solver makes of that are sums (`solver`), so that no step
is really taken. Nothing here looks at a number on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..errors import NotApplied
from ..method.schedule import Schedule
from . import solver as solvers
from .solver import Snapshot, Step, Weights, combine, storage

EDITED = "latents were changed between two steps (by a callback?): the steps that had been skipped there stayed so"
UNSEEN = "no solver was seen to take the denoise steps, so that skipped ones were not taken again"
UNCOUNTED = "a callback may edit latents, and these do not count what is written into them (inference mode)"


@dataclass(frozen=True)
class Anchor:
    """A step that was taken with a computed velocity.

    Attributes:
        iteration: when that was.
        latents, velocity: what was integrated, copies.
        branches: the CFG branches that had made the velocity.
        before: the solver before that step, where there is one.
    """

    iteration: int
    latents: Tensor
    velocity: Tensor
    branches: Hashable
    before: Snapshot | None = None

    @property
    def bytes(self) -> int:
        return self.latents.nbytes + self.velocity.nbytes + (0 if self.before is None else self.before.bytes)


class Replays:
    """Those of one section; the kinds of integration are subclasses.

    Args:
        remark: told of what cannot be done.

    Attributes:
        taken: iterations whose steps were taken again.
        off: whether something turned out that forbids it.
    """

    def __init__(self, schedule: Schedule, remark: Callable[[str], None]) -> None:
        self.schedule, self._remark = schedule, remark
        self.taken: set[int] = set()
        self.off = self._seen = False

    @property
    def anchors(self) -> Sequence[Anchor]:
        """All that are kept now."""
        raise NotImplementedError

    @property
    def bytes(self) -> int:
        """Held for it now."""
        return sum(anchor.bytes for anchor in self.anchors)

    def forget(self) -> None:
        """Let go of every tensor."""
        raise NotImplementedError

    def give_up(self, reason: object) -> None:
        """Nothing is taken again from now on, and that is said."""
        self.off = True
        self._remark(f"skipped steps are not taken again: {reason}")
        self.forget()

    def close(self) -> None:
        """The section is over."""
        if not self._seen and not self.off:
            self._remark(UNSEEN)
        self.forget()

    def _due(self, anchor: Anchor | None, iteration: int, branches: Hashable) -> Anchor | None:
        """The anchor, where steps since it were skipped, and both velocities are of one curve."""
        if anchor is None or iteration - anchor.iteration < 2 or anchor.branches != branches:
            return None
        return None if self.schedule.context_changed(iteration, anchor.iteration) else anchor

    def _levels(self, anchor: Anchor, iteration: int, slot: int) -> tuple[list[float], list[float]]:
        """(noise levels of the steps since the anchor, and behind them; shares of the last velocity in these steps)."""
        levels = self.schedule.noise_levels[anchor.iteration : iteration + 1, slot].tolist()
        whole = levels[-1] - levels[0]
        return levels, [(level - levels[0]) / whole for level in levels[:-1]]


class ChunkReplays(Replays):
    """Of chunks that the host itself integrates by Euler's rule, x += (sigma_i - sigma_j) v (MAGI-1's `integrate`)."""

    def __init__(self, schedule: Schedule, remark: Callable[[str], None]) -> None:
        super().__init__(schedule, remark)
        self._anchors: dict[int, Anchor] = {}

    @property
    def anchors(self) -> Sequence[Anchor]:
        return list(self._anchors.values())

    def forget(self) -> None:
        self._anchors.clear()

    def integrate(self, chunk: int, iteration: int, latents: Tensor, velocity: Tensor, branches: Hashable) -> None:
        """A chunk is about to be integrated with a computed velocity; its latents are corrected in place.

        Args:
            latents, velocity: [rows, channels, frames, height, width]; the rows are equal.
        """
        self._seen = True
        anchor = self._due(self._anchors.get(chunk), iteration, branches)
        if anchor is not None:
            levels, shares = self._levels(anchor, iteration, chunk)
            steps = [high - low for high, low in pairwise(levels)]
            last = sum(step * share for step, share in zip(steps, shares, strict=True))
            latents.copy_(
                combine((1.0, sum(steps) - last, last), (anchor.latents, anchor.velocity, velocity[:1]), latents.dtype)
            )
            self.taken.update(range(anchor.iteration + 1, iteration))
        self._anchors[chunk] = Anchor(iteration, latents[:1].clone(), velocity[:1].clone(), branches)
        for passed in [each for each in self._anchors if each < self.schedule.intervals[iteration][0]]:
            del self._anchors[passed]


@dataclass(eq=False)
class Track:
    """One solver of the host's: of a latent frame, or of all of them.

    Attributes:
        solver: kept, so that no other one gets its place in memory.
        anchor: None: nothing can be taken again before the next computed velocity.
        index: its `_step_index` at its first step, which it has from then on only.
        address: of the latents of its last step.
        made: the latents it made then, and how often they had been written to; None where the host has put them where
            the others were.
        in_place: whether the host does so; None: not known yet.
    """

    solver: Any
    anchor: Anchor | None = None
    index: int | None = None
    address: int | None = None
    made: tuple[Tensor, int | None] | None = None
    in_place: bool | None = None


class SolverReplays(Replays):
    """Of a loop that asks solvers for every step.

    Args:
        joint: one solver steps all latent frames, else there is one each.
        blind: somebody may edit latents where we could not see it.
    """

    def __init__(self, schedule: Schedule, remark: Callable[[str], None], *, joint: bool, blind: bool = False) -> None:
        super().__init__(schedule, remark)
        self._joint, self._blind = joint, blind
        self._tracks: dict[int, Track] = {}
        self._tables: dict[str, Tensor] | None = None
        self._weights: dict[Hashable, Weights] = {}
        self._iteration, self._calls = -1, 0
        self._written: tuple[int, int | None] | None = None

    @property
    def anchors(self) -> Sequence[Anchor]:
        return [track.anchor for track in self._tracks.values() if track.anchor is not None]

    def forget(self) -> None:
        self._tracks.clear()

    @cached_property
    def _active(self) -> list[list[int]]:
        """The latent frames that are updated at every iteration."""
        return [[slot for slot, active in enumerate(row) if active] for row in self.schedule.mask.tolist()]

    @cached_property
    def _last(self) -> list[int]:
        """The last iteration that updates each latent frame: nothing that comes behind it can be taken again."""
        return [
            max(found, default=-1) for found in (column.nonzero().flatten().tolist() for column in self.schedule.mask.T)
        ]

    def begin(self, solver: Any) -> None:
        """Read the tables of the first solver, which are those of all; the host waits for the device once."""
        self._tables = solvers.constants(solver)

    def before(
        self, step: Step, solver: Any, velocity: Tensor, sample: Tensor, iteration: int, branches: Hashable | None
    ) -> Tensor:
        """A solver is about to step. Returns the latents that it is to get.

        Args:
            step: the solver's own, of its class.
            velocity, sample: what it is given.
            branches: the CFG branches that have computed the velocity; None where it was predicted.
        """
        if self.off:
            return sample
        try:
            with torch.no_grad():
                return self._before(step, solver, velocity, sample, iteration, branches)
        except NotApplied as reason:
            self.give_up(reason)
            return sample

    def after(self, solver: Any, made: Tensor) -> None:
        """It has stepped."""
        track = self._tracks.get(id(solver))
        if track is None:
            return
        if track.index is None:
            track.index = getattr(solver, "_step_index", None)
            track.index = None if track.index is None else track.index - 1
        track.made = None if track.in_place else (made, written(made))

    def _before(
        self, step: Step, solver: Any, velocity: Tensor, sample: Tensor, iteration: int, branches: Hashable | None
    ) -> Tensor:
        if self._tables is None:
            self.begin(solver)
        self._seen = True
        slot = self._slot(iteration)
        track = self._tracks.get(id(solver)) or self._tracks.setdefault(id(solver), Track(solver))
        self._follow(track, sample)
        if branches is None:
            return sample
        anchor = self._due(track.anchor, iteration, branches)
        given = sample
        if anchor is not None:
            given = self._again(step, track, anchor, velocity, sample, iteration, slot)
            if track.in_place:  # what else points to these latents must see it
                given = sample.copy_(given)
                self._written = storage(sample), written(sample)
        track.anchor = None
        if iteration < self._last[slot]:
            own = given.clone() if given is sample else given
            track.anchor = Anchor(iteration, own, velocity.clone(), branches, Snapshot.of(solver, given))
        return given

    def _slot(self, iteration: int) -> int:
        """The latent frame of the present call: those that are updated are stepped in their order."""
        if iteration != self._iteration:
            self._iteration, self._calls = iteration, 0
        active, call = self._active[iteration], self._calls
        self._calls += 1
        if call >= (1 if self._joint else len(active)):
            raise NotApplied(f"at iteration {iteration} solvers step more often than latent frames are updated")
        return active[call]

    def _follow(self, track: Track, sample: Tensor) -> None:
        """See whether the latents are those that the solver's last step made; if not, they stay as they are."""
        address, count = sample.data_ptr(), written(sample)
        if count is None and self._blind:
            raise NotApplied(UNCOUNTED)
        edited = False
        if track.address is not None:
            if track.in_place is None:
                track.in_place = track.address == address
            if track.in_place:
                # All latent frames are of one tensor, which counts what is written into it: one result a step.
                edited = track.address != address
                if self._written is not None and count is not None and self._written[0] == storage(sample):
                    edited |= count != (self._written[1] or 0) + 1
            else:
                edited = track.made is None or track.made[0].data_ptr() != address or track.made[1] != count
        track.address, track.made = address, None
        self._written = storage(sample), count
        if edited:
            if self.anchors:
                self._remark(EDITED)
            for each in self._tracks.values():
                each.anchor = None

    def _again(
        self, step: Step, track: Track, anchor: Anchor, velocity: Tensor, sample: Tensor, iteration: int, slot: int
    ) -> Tensor:
        """The latents after the steps since the anchor, taken again; what the solver remembers is put right."""
        before = anchor.before
        assert before is not None
        if before.plain.get("_step_index", 0) is None:
            before = Snapshot({**before.plain, "_step_index": track.index}, before.memory)
        after = [place for place, _ in solvers.remembered(vars(track.solver), sample.shape)]
        levels, shares = self._levels(anchor, iteration, slot)
        known = tuple(levels), tuple(before.memory), tuple(after), track.in_place, before.numbers
        if known not in self._weights:
            timesteps = self.schedule.timesteps[anchor.iteration : iteration, slot].tolist()
            self._weights[known] = solvers.weights(
                step,
                type(track.solver),
                before,
                self._tables or {},
                after,
                list(zip(timesteps, shares, strict=True)),
                in_place=bool(track.in_place),
                dims=sample.dim(),
            )
        latents, memory = self._weights[known].apply(before, anchor.latents, anchor.velocity, velocity)
        solvers.remember(track.solver, memory)
        self.taken.update(range(anchor.iteration + 1, iteration))
        return latents


def written(tensor: Tensor) -> int | None:
    """How often something was written into it; None where nobody counts."""
    return None if tensor.is_inference() else tensor._version
