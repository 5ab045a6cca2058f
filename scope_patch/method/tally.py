"""Counts of what happened to slots, kept where the velocities are and read once, when nobody waits any more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .schedule import Interval


@dataclass(frozen=True)
class Entry:
    """Slots of one iteration that something happened to: booleans over the intervals, one behind the other."""

    name: str
    iteration: int
    intervals: Sequence[Interval]
    flags: Tensor


class Tally:
    """Counts iterations in which something happened to a slot that was updated.

    Noting costs no operation on the device: flags are kept as they are, some bytes an iteration.
    """

    def __init__(self) -> None:
        self._entries: list[Entry] = []

    def note(self, name: str, iteration: int, intervals: Sequence[Interval], flags: Tensor) -> None:
        """Once an iteration and name; `flags` must not be written to any more."""
        self._entries.append(Entry(name, iteration, intervals, flags))

    def read(self, mask: Tensor) -> dict[str, int]:
        """The counts by name, those that are not 0; waits for the device, and forgets them.

        Args:
            mask: update mask, booleans [iterations, slots], on the CPU.
        """
        entries, self._entries = self._entries, []
        counts: Counter[str] = Counter()
        for device in {entry.flags.device for entry in entries}:
            there = [entry for entry in entries if entry.flags.device == device]
            read = torch.cat([entry.flags for entry in there]).to("cpu")
            parts = torch.split(read, [len(entry.flags) for entry in there])
            for entry, flags in zip(there, parts, strict=True):
                active = torch.cat([mask[entry.iteration, start:end] for start, end in entry.intervals])
                counts[entry.name] += int((flags & active).any())
        return {name: count for name, count in counts.items() if count}
