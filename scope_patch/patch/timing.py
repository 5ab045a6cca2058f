"""Timing that never makes the host wait: CUDA work is timed by events, read once the generation is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ..report.record import Seconds


@dataclass
class Stopwatch:
    """Adds up the seconds of one generation.

    Attributes:
        seconds: the sums so far; `close` adds what CUDA events measured.
    """

    seconds: Seconds
    started: float = field(default_factory=time.perf_counter)
    _events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list)

    def start(self) -> Callable[[], None]:
        """Right before the host's forward. Returns what is to be called right after it."""
        started, begin = time.perf_counter(), _event()

        def stop() -> None:
            end = _event() if begin is not None else None
            if begin is not None and end is not None:
                self._events.append((begin, end))
            else:
                self.seconds.dit += time.perf_counter() - started

        return stop

    def close(self) -> None:
        """The generation is over: read the events (the host has synchronised long ago) and the total."""
        self.seconds.total = time.perf_counter() - self.started
        for begin, end in self._events:
            end.synchronize()
            self.seconds.dit += begin.elapsed_time(end) / 1000.0
        self._events.clear()


def _event() -> torch.cuda.Event | None:
    if not torch.cuda.is_initialized() or torch.cuda.is_current_stream_capturing():  # type: ignore[no-untyped-call]
        return None
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
