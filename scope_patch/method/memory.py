"""Where computed velocities are kept, how much of a device they may take, and what goes where it is too much.

Decisions never hang on it: a plan knows no memory, and ranks that share a model may have more or less of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from ..values import Limit
from .schedule import Interval


class Cpu:
    """The CPU's memory, where velocities are kept that another device has no room for."""

    def put(self, velocity: Tensor) -> Tensor:
        """A copy there, which shares no memory with the velocity."""
        return velocity.to("cpu", copy=True)

    def back(self, kept: Tensor, device: torch.device) -> Tensor:
        """It on a device again, bit by bit."""
        return kept.to(device)


def elsewhere(device: torch.device) -> Cpu | None:
    """The other place for velocities on a device; None where there is none."""
    return None if device.type in ("cpu", "meta") else Cpu()


@dataclass
class Anchor:
    """One computed velocity: the interval it covers, the noise levels it stands at ([slots], beside it), the tensor.

    Attributes:
        place: where the tensor is kept; None: where it was computed.
        number: in the order of recording.
    """

    interval: Interval
    levels: Tensor
    kept: Tensor
    place: Cpu | None = None
    number: int = 0

    @property
    def velocity(self) -> Tensor:
        """Where it was computed (as the levels are): the tensor that is kept, or a new one brought back."""
        return self.kept if self.place is None else self.place.back(self.kept, self.levels.device)

    @property
    def bytes(self) -> int:
        """On the device: 0 where it is elsewhere."""
        return self.kept.nbytes if self.place is None else 0


class Anchors(list[Anchor]):
    """Those of one history, newest first; the memory that gave it out moves and drops what is in it."""

    @property
    def bytes(self) -> int:
        return sum(anchor.bytes for anchor in self)


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

    def __init__(self, limit: Limit | None = None, place: Callable[[torch.device], Cpu | None] | None = None) -> None:
        self.limit = limit
        self._place = place or elsewhere
        self._histories: WeakValueDictionary[int, Anchors] = WeakValueDictionary()
        self._begun = self._recorded = self.moved = self.dropped = self.over = 0

    def history(self) -> Anchors:
        """The anchors of a history that begins; they count for as long as somebody has them."""
        self._begun += 1
        return self._histories.setdefault(self._begun, Anchors())

    @property
    def bytes(self) -> int:
        """On the device, of all histories."""
        return sum(anchors.bytes for anchors in self._histories.values())

    def record(self, anchors: Anchors, interval: Interval, levels: Tensor, velocity: Tensor, *, copy: bool) -> None:
        """Put a velocity in front of a history's others; without a copy where the tensor is nobody else's."""
        place = self._room(anchors, velocity.nbytes, velocity.device)
        kept = velocity.detach()
        if place is not None:
            kept = place.put(kept)
        elif copy:
            kept = kept.clone()
        self._recorded += 1
        anchors.insert(0, Anchor(interval, levels, kept, place, self._recorded))

    def _room(self, recording: Anchors, size: int, device: torch.device) -> Cpu | None:
        """Make room. Returns where the new one goes; None: on the device.

        Where there is another place the oldest go there, whosever they are; the new one goes too where that is not
        enough.
        """
        if self.limit is None or (taken := self.bytes) + size <= self.limit.size:
            return None
        place, limit = None if self.limit.drop else self._place(device), self.limit.size
        if place is None:
            self._drop(recording, size, limit)
            return None
        here = [anchor for anchors in self._histories.values() for anchor in anchors if anchor.bytes]
        for anchor in sorted(here, key=lambda anchor: anchor.number):
            if taken + size <= limit or size > limit:
                break
            taken -= anchor.bytes
            anchor.kept, anchor.place = place.put(anchor.kept), place
            self.moved += 1
        if taken + size <= limit:
            return None
        self.moved += 1
        return place

    def _drop(self, recording: Anchors, size: int, limit: int) -> None:
        """The most points a history that fit, and at least one."""
        histories = list(self._histories.values())
        sizes = [[size] * (each is recording) + [anchor.bytes for anchor in each] for each in histories]
        depth = max(map(len, sizes))
        while depth > 1 and sum(sum(own[:depth]) for own in sizes) > limit:
            depth -= 1
        for each in histories:
            kept = depth - (each is recording)
            self.dropped += len(each[kept:])
            del each[kept:]
        newest = sum(own[0] for own in sizes if own)
        if newest > limit:
            self.over = max(self.over, newest)

    def remarks(self) -> list[str]:
        """What the limit did, for people."""
        remarks = []
        if self.moved:
            remarks.append(f"--history-limit: {self.moved} velocities were moved off the device, and back when needed")
        if self.dropped:
            remarks.append(f"--history-limit: {self.dropped} velocities were dropped: predictions have fewer to go by")
        if self.over and self.limit is not None:
            remarks.append(
                f"--history-limit: the newest velocities alone take {self.over / 1e6:.3g} MB, above the limit of "
                f"{self.limit.size / 1e6:.3g} MB; they were kept, since decisions rest on them"
            )
        return remarks
