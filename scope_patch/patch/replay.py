"""Skipped steps taken again, once the velocity behind them is known: with velocities between the last two computed.

The solver is put back to where the last recompute left it, and the steps since are taken with velocities interpolated
in the noise level; then the host goes on from there. What its solver makes of that are sums (`solver`), so that no step
is really taken. Nothing here looks at a number on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import NotApplied
from ..method.schedule import Schedule
from .solver import Snapshot, Step, Weights, combine, constants, remembered, resume, storage, weights, written

EDITED = "latents were changed between two steps (by a callback?): the steps that had been skipped there stayed so"
UNSEEN = "no solver was seen to take the denoise steps, so that skipped ones were not taken again"
UNCOUNTED = "a callback may edit latents, and these do not count what is written into them (inference mode)"


class Anchor(NamedTuple):
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
    before: Snapshot = Snapshot({}, {})


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
        self._anchors: dict[int, Anchor] = {}  # by chunk, or by the id of a solver
        self.taken: set[int] = set()
        self.off = self._seen = False

    @property
    def bytes(self) -> int:
        """Held for it now."""
        kept = [(each.latents, each.velocity, *each.before.memory.values()) for each in self._anchors.values()]
        return sum(tensor.nbytes for tensors in kept for tensor in tensors)

    def forget(self) -> None:
        """Let go of every tensor."""
        self._anchors.clear()

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

    def _due(self, key: int, iteration: int, branches: Hashable) -> Anchor | None:
        """The anchor, where steps since it were skipped, and both velocities are of one curve."""
        anchor = self._anchors.get(key)
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

    def integrate(self, chunk: int, iteration: int, latents: Tensor, velocity: Tensor, branches: Hashable) -> None:
        """A chunk is about to be integrated with a computed velocity; its latents are corrected in place.

        Args:
            latents, velocity: [rows, channels, frames, height, width]; the rows are equal.
        """
        self._seen = True
        anchor = self._due(chunk, iteration, branches)
        if anchor is not None:
            levels, shares = self._levels(anchor, iteration, chunk)
            steps = [high - low for high, low in pairwise(levels)]
            last = sum(step * share for step, share in zip(steps, shares, strict=True))
            parts = anchor.latents, anchor.velocity, velocity[:1]
            latents.copy_(combine((1.0, sum(steps) - last, last), parts, latents.dtype))
            self.taken.update(range(anchor.iteration + 1, iteration))
        self._anchors[chunk] = Anchor(iteration, latents[:1].clone(), velocity[:1].clone(), branches)
        first = self.schedule.intervals[iteration][0]
        self._anchors = {each: kept for each, kept in self._anchors.items() if each >= first}


@dataclass(eq=False)
class Track:
    """One solver of the host's: of a latent frame, or of all of them.

    Attributes:
        solver: kept, so that no other one gets its place in memory.
        address: of the latents of its last step.
        made: the latents it made then, and how often they had been written to; None where the host has put them where
            the others were.
        in_place: whether the host does so; None: not known yet.
    """

    solver: Any
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
        self._iteration = -1
        self._updated: Iterator[int] = iter(())
        self._written: tuple[int, int | None] | None = None

    def forget(self) -> None:
        super().forget()
        self._tracks.clear()

    @torch.no_grad()
    def before(
        self, step: Step, solver: Any, velocity: Tensor, sample: Tensor, iteration: int, branches: Hashable | None
    ) -> Tensor:
        """A solver is about to step. Returns the latents that it is to get.

        Args:
            branches: the CFG branches that have computed the velocity; None where it was predicted.
        """
        if self.off:
            return sample
        if self._tables is None:  # those of the first solver are those of all
            self._tables = constants(solver)
        self._seen, key = True, id(solver)
        track = self._tracks.setdefault(key, Track(solver))
        try:
            slot = self._slot(iteration)
            self._follow(track, sample)
            if branches is None:
                return sample
            anchor = self._due(key, iteration, branches)
            given = sample if anchor is None else self._again(step, track, anchor, velocity, iteration, slot)
        except NotApplied as reason:
            self.give_up(reason)
            return sample
        if anchor is not None and track.in_place:  # what else points to these latents must see it
            given = sample.copy_(given)
            self._written = storage(sample), written(sample)
        self._anchors.pop(key, None)
        if self.schedule.mask[iteration + 1 :, slot].any():  # nothing that comes behind its last step is taken again
            own = given.clone() if given is sample else given
            self._anchors[key] = Anchor(iteration, own, velocity.clone(), branches, Snapshot.of(solver, given))
        return given

    def after(self, solver: Any, made: Tensor) -> None:
        track = self._tracks.get(id(solver))
        if track is not None:
            track.made = None if track.in_place else (made, written(made))

    def _slot(self, iteration: int) -> int:
        """The latent frame of the present call: those that are updated are stepped in their order."""
        if iteration != self._iteration:
            active = self.schedule.mask[iteration].nonzero().flatten().tolist()
            self._iteration, self._updated = iteration, iter(active[:1] if self._joint else active)
        slot = next(self._updated, None)
        if slot is None:
            raise NotApplied(f"at iteration {iteration} solvers step more often than latent frames are updated")
        return slot

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
            if self._anchors:
                self._remark(EDITED)
            self._anchors.clear()

    def _again(self, step: Step, track: Track, anchor: Anchor, velocity: Tensor, iteration: int, slot: int) -> Tensor:
        """The latents after the steps since the anchor, taken again; what the solver remembers is put right."""
        before, index = anchor.before, getattr(track.solver, "_step_index", None)
        if index is not None and before.plain.get("_step_index", 0) is None:  # it has none before its first step
            before = replace(before, plain={**before.plain, "_step_index": index - (iteration - anchor.iteration)})
        after = [place for place, _ in remembered(vars(track.solver), anchor.latents.shape)]
        levels, shares = self._levels(anchor, iteration, slot)
        known = tuple(levels), tuple(before.memory), tuple(after), track.in_place, before.numbers
        if known not in self._weights:
            timesteps = self.schedule.timesteps[anchor.iteration : iteration, slot].tolist()
            steps = list(zip(timesteps, shares, strict=True))
            given = (step, type(track.solver), before, self._tables or {}, after, steps)
            self._weights[known] = weights(*given, in_place=bool(track.in_place), dims=anchor.latents.dim())
        latents = resume(track.solver, self._weights[known], before, anchor.latents, anchor.velocity, velocity)
        self.taken.update(range(anchor.iteration + 1, iteration))
        return latents
