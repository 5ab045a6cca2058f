"""FLOPs of the steps of a moving window of chunks (MAGI-1): one function for a run and for a plan without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from .magi import MagiShape, dispatch_flops

Interval = tuple[int, int]


class Windows(Protocol):
    """What is asked of a schedule (`method.schedule.Schedule`)."""

    @property
    def intervals(self) -> Sequence[Interval]: ...

    @property
    def contexts(self) -> Sequence[object]: ...

    def lead(self, iteration: int) -> int: ...


def duplicated(schedule: Windows, iteration: int, cfg_number: int) -> bool:
    """Whether upstream forwards the oldest chunk once more, alone; the last word of a row's context says so."""
    context = schedule.contexts[iteration]
    return cfg_number == 1 and isinstance(context, tuple) and bool(context[-1])


def window_flops(
    schedule: Windows,
    shape: MagiShape,
    chunk_tokens: int,
    seen: Sequence[Sequence[Interval]],
    text_tokens: int,
    cfg_number: int,
) -> Callable[[int, Interval], int]:
    """(iteration, slots) -> FLOPs of forwarding the window's chunks up to the last of these, with what leads them.

    Args:
        seen: for every iteration, the chunks that each chunk attends to (`method.chunkwise.kv_ranges`).
    """

    def flops(iteration: int, slots: Interval) -> int:
        lead = schedule.lead(iteration)
        chunks = slots[1] - schedule.intervals[iteration][0] + lead
        return dispatch_flops(
            shape,
            chunk_tokens,
            seen[iteration][:chunks],
            text_tokens,
            cfg_number=cfg_number,
            lead=bool(lead),
            duplicate=duplicated(schedule, iteration, cfg_number),
        )

    return flops
