"""Which CFG branch a DiT call belongs to, and the history of each."""

from __future__ import annotations

from typing import Any

from ..method.forecast import Forecast
from ..method.history import BranchHistory

FORGET_AFTER = 2
"""Iterations a branch may stay away before its history is dropped."""


class Branch:
    """One CFG branch: its conditioning object (kept, so that its identity stays its own), history and last forecast."""

    def __init__(self, condition: Any, keeps: int) -> None:
        self.condition = condition
        self.history = BranchHistory(keeps)
        self.seen = 0
        self.output_type: type[Any] = tuple
        self.forecast: tuple[int, Forecast] | None = None


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
    def with_history(self) -> list[Branch]:
        """The branches that have one."""
        return [branch for branch in self._known.values() if branch.history.anchors]

    @property
    def bytes(self) -> int:
        """Memory held by all histories."""
        return sum(branch.history.bytes for branch in self._known.values())
