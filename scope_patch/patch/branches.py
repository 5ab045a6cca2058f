"""Which CFG branch a DiT call belongs to, and the histories of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..method.forecast import Part
from ..method.history import BranchHistory
from ..method.memory import Memory
from ..method.predictors.formulas import Points
from ..method.schedule import Interval

FORGET_AFTER = 2
"""Iterations a branch may stay away before its history is dropped."""


MOST_CALLS = 16
"""Forwards in one iteration; more of them, and the loop has gone on without our seeing it."""


class Branch:
    """One CFG branch: its conditioning object (kept, so that its identity stays its own) and histories.

    There is one history for all slots, or, where slots are chunks of a moving window, one a chunk: a chunk keeps its
    history wherever the window stands.
    """

    def __init__(self, condition: Any, keeps: int, chunked: bool, memory: Memory | None = None) -> None:
        self.condition = condition
        self.chunked = chunked
        self.seen = 0
        self.output_type: type[Any] = tuple
        self._keeps, self._memory = keeps, memory
        self._histories: dict[int, BranchHistory] = {}
        self._like: tuple[Any, ...] | None = None

    def meet(self, latents: Tensor) -> None:
        """A call comes with these latents: of another dtype, device, batch or picture size, they make it begin anew."""
        like = (latents.dtype, latents.device, latents.shape[:2], latents.shape[3:])
        if self._like not in (None, like):
            self.forget()
        self._like = like

    @property
    def histories(self) -> list[BranchHistory]:
        return list(self._histories.values())

    def forget(self) -> None:
        self._histories.clear()

    def parts(self, interval: Interval) -> list[Part]:
        """The histories that together are of the slots in `interval`; of chunks behind it they are dropped."""
        for chunk in [chunk for chunk in self._histories if self.chunked and chunk < interval[0]]:
            del self._histories[chunk]
        keys = range(*interval) if self.chunked else [0]
        for key in keys:
            if key not in self._histories:
                self._histories[key] = BranchHistory(self._keeps, self._memory)
        return [Part(self._histories[key], (key, key + 1) if self.chunked else interval) for key in keys]


class Branches:
    """The branches of one segment, told apart by the identity of their conditioning, not by counting calls.

    A second call with the same conditioning in one iteration (prompt and negative prompt may be one object) is a branch
    of its own. Conditioning that changes in mid-loop is a new branch, and so starts with a real forward.
    """

    def __init__(self, keeps: int, chunked: bool = False, memory: Memory | None = None) -> None:
        self.keeps, self.chunked, self._memory = keeps, chunked, memory
        self._known: dict[tuple[int, int], Branch] = {}
        self._iteration = -1
        self._served: dict[int, int] = {}
        self._parts: list[Points] = []
        self._joined: Points

    def enter(self, iteration: int) -> None:
        """A new iteration begins; branches that stayed away are forgotten."""
        if iteration == self._iteration:
            return
        self._iteration = iteration
        self._served.clear()
        for key in [key for key, branch in self._known.items() if iteration - branch.seen > FORGET_AFTER]:
            del self._known[key]

    def forget(self) -> None:
        """What was computed until now says nothing about what comes."""
        for branch in self._known.values():
            branch.forget()

    def find(self, condition: Any) -> Branch | None:
        """The branch of a call in the present iteration; None where that cannot be the present one any more."""
        if sum(self._served.values()) >= MOST_CALLS:
            return None
        ordinal = self._served.get(id(condition), 0)
        self._served[id(condition)] = ordinal + 1
        new = Branch(condition, self.keeps, self.chunked, self._memory)
        branch = self._known.setdefault((id(condition), ordinal), new)
        branch.seen = self._iteration
        return branch

    def parts(self, interval: Interval) -> list[Part]:
        """Of all branches that have computed something: the histories that have a velocity of these slots."""
        branches = [branch for branch in self._known.values() if any(h.anchors for h in branch.histories)]
        return [part for branch in branches for part in branch.parts(interval) if part.history.anchors]

    def know(self, parts: Sequence[Part]) -> Points:
        """What is known of these parts, joined; the same object until one of them changes."""
        known = [part.history.points(part.interval) for part in parts]
        if len(known) != len(self._parts) or any(a is not b for a, b in zip(known, self._parts, strict=True)):
            self._parts, self._joined = known, Points.join(known)
        return self._joined
