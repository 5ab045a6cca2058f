"""Which CFG branch a DiT call belongs to, and the history of each."""

from __future__ import annotations

from typing import Any

from ..method.history import BranchHistory
from ..method.predictors.points import Points
from ..method.schedule import Interval

FORGET_AFTER = 2
"""Iterations a branch may stay away before its history is dropped."""


class Branch:
    """One CFG branch: its conditioning object (kept, so that its identity stays its own) and history."""

    def __init__(self, condition: Any, keeps: int) -> None:
        self.condition = condition
        self.history = BranchHistory(keeps)
        self.seen = 0
        self.output_type: type[Any] = tuple


class Branches:
    """The branches of one segment, told apart by the identity of their conditioning, not by counting calls.

    A second call with the same conditioning in one iteration (prompt and negative prompt may be one object) is a branch
    of its own. Conditioning that changes in mid-loop is a new branch, and so starts with a real forward.
    """

    def __init__(self, keeps: int) -> None:
        self.keeps = keeps
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

    def find(self, condition: Any) -> Branch:
        """The branch of a call in the present iteration."""
        ordinal = self._served.get(id(condition), 0)
        self._served[id(condition)] = ordinal + 1
        branch = self._known.setdefault((id(condition), ordinal), Branch(condition, self.keeps))
        branch.seen = self._iteration
        return branch

    @property
    def histories(self) -> list[BranchHistory]:
        """Histories of the branches that have one."""
        return [branch.history for branch in self._known.values() if branch.history.anchors]

    def known(self, interval: Interval) -> Points:
        """What is known of all histories, joined; the same object until one of them changes."""
        parts = [history.points(interval) for history in self.histories]
        if len(parts) != len(self._parts) or any(a is not b for a, b in zip(parts, self._parts, strict=True)):
            self._parts, self._joined = parts, Points.join(parts)
        return self._joined

    @property
    def bytes(self) -> int:
        """Memory held by all histories."""
        return sum(branch.history.bytes for branch in self._known.values())
