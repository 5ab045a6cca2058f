"""How much of a device's memory the histories of one generation may take, and what goes where it is too much.

Decisions never hang on it: a plan knows no memory, and ranks that share a model may have more or less of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol
from weakref import WeakSet

import torch
from torch import Tensor

from ..values import Limit


class Place(Protocol):
    """Where velocities are kept that the device has no room for."""

    def put(self, velocity: Tensor) -> Tensor:
        """A copy there, which shares no memory with the velocity."""
        ...

    def back(self, kept: Tensor, device: torch.device) -> Tensor:
        """It on a device again, bit by bit."""
        ...


class Cpu:
    """The CPU's memory, for models on another device."""

    def put(self, velocity: Tensor) -> Tensor:
        return velocity.to("cpu", copy=True)

    def back(self, kept: Tensor, device: torch.device) -> Tensor:
        return kept.to(device)


def elsewhere(device: torch.device) -> Place | None:
    """The other place for velocities on a device; None where there is none."""
    return None if device.type in ("cpu", "meta") else Cpu()


class Holder(Protocol):
    """A history, as far as its memory goes."""

    number: int

    def sizes(self) -> list[tuple[int, int]]:
        """(number of the recording, bytes on the device; 0 where it is elsewhere), newest first."""
        ...

    def send(self, depth: int, place: Place) -> None:
        """Put its velocity of that depth (0 is the newest) elsewhere."""
        ...

    def trim(self, depth: int) -> int:
        """Drop all but the newest so many; returns how many were dropped."""
        ...


class Memory:
    """The memory of all histories of one generation.

    Where there is another place, it takes the oldest velocities, and the device never holds more than the limit.
    Elsewhere the oldest are dropped, of all histories alike, so that guidance branches predict to the same order; the
    newest of each is kept whatever the limit: without it a skipped step would have to be recomputed, and neither the
    plan nor the other ranks would know.

    Args:
        limit: None: as much as there is.
        place: device -> the other place for its velocities, None where there is none.

    Attributes:
        moved, dropped: velocities so far.
        over: the newest velocities alone took more than the limit: so many bytes at the most.
    """

    def __init__(self, limit: Limit | None = None, place: Callable[[torch.device], Place | None] | None = None) -> None:
        self.limit = limit
        self._place = place or elsewhere
        self._holders: WeakSet[Holder] = WeakSet()
        self._recorded = self._made = 0
        self.moved = self.dropped = self.over = 0

    def join(self, holder: Holder) -> int:
        """A history begins. Returns its number."""
        self._holders.add(holder)
        self._made += 1
        return self._made

    @property
    def bytes(self) -> int:
        """Bytes on the device, of all histories."""
        return sum(size for holder in self._holders for _, size in holder.sizes())

    def next_number(self) -> int:
        """Of a recording."""
        self._recorded += 1
        return self._recorded

    def admit(self, holder: Holder, size: int, device: torch.device) -> Place | None:
        """Make room for a velocity that a history is about to record. Returns where it goes; None: on the device."""
        if self.limit is None or self.bytes + size <= self.limit.size:
            return None
        place = None if self.limit.drop else self._place(device)
        if place is None:
            self._drop(holder, size, self.limit.size)
            return None
        return self._move(size, place, self.limit.size)

    def _move(self, size: int, place: Place, limit: int) -> Place | None:
        """The oldest go, whosever they are; the new one goes too where that is not enough."""
        here = self.bytes
        kept = [
            (number, holder, depth, own)
            for holder in self._holders
            for depth, (number, own) in enumerate(holder.sizes())
            if own
        ]
        for _, holder, depth, own in sorted(kept, key=lambda each: each[0]):
            if here + size <= limit or size > limit:
                break
            holder.send(depth, place)
            self.moved += 1
            here -= own
        if here + size <= limit:
            return None
        self.moved += 1
        return place

    def _drop(self, recording: Holder, size: int, limit: int) -> None:
        """The most points a history that fit, and at least one."""
        holders = sorted(self._holders, key=lambda holder: holder.number)
        sizes = [[own for _, own in holder.sizes()] for holder in holders]
        sizes = [[size, *own] if holder is recording else own for holder, own in zip(holders, sizes, strict=True)]
        depth = max(map(len, sizes))
        while depth > 1 and sum(sum(own[:depth]) for own in sizes) > limit:
            depth -= 1
        for holder in holders:
            self.dropped += holder.trim(depth - 1 if holder is recording else depth)
        newest = sum(own[0] for own in sizes if own)
        if newest > limit:
            self.over = max(self.over, newest)

    def remarks(self) -> list[str]:
        """What the limit did, for people."""
        told = []
        if self.moved:
            told.append(f"--history-limit: {self.moved} velocities were moved off the device, and back when needed")
        if self.dropped:
            told.append(f"--history-limit: {self.dropped} velocities were dropped: predictions have fewer to go by")
        if self.over and self.limit is not None:
            told.append(
                f"--history-limit: the newest velocities alone take {self.over / 1e6:.3g} MB, above the limit of "
                f"{self.limit.size / 1e6:.3g} MB; they were kept, since decisions rest on them"
            )
        return told
