"""The host's list of intervals, able to tell which iteration the loop is at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, SupportsIndex

from ..method.schedule import Interval


class WatchedIntervals(list[Interval]):
    """The host's own list, whose indexing is the loop position; an index may be answered by another interval.

    Iterating, slicing, `len` and comparison see the host's values.
    """

    def __init__(self, intervals: Sequence[Interval], on_read: Callable[[int], Interval | None]) -> None:
        super().__init__(intervals)
        self._on_read = on_read

    def __getitem__(self, key: Any) -> Any:
        own = super().__getitem__(key)
        if not isinstance(key, SupportsIndex):
            return own
        position = key.__index__()
        replaced = self._on_read(position if position >= 0 else position + len(self))
        return own if replaced is None else replaced

    def __reduce__(self) -> tuple[type, tuple[list[Interval]]]:
        return list, (list(self),)  # copies and pickles are plain: they belong to no loop
