"""Timing that never makes the host wait: CUDA work is timed by events, read once the generation is over."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from ..report.record import Seconds


@dataclass
class Clock:
    """Adds up the seconds of one generation.

    Attributes:
        seconds: the sums so far; `close` adds what CUDA events measured.
    """

    seconds: Seconds
    started: float = field(default_factory=time.perf_counter)
    _events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list)

    @contextmanager
    def dit(self, device: torch.device) -> Iterator[None]:
        """Around the host's DiT forward."""
        if device.type == "cuda" and not torch.cuda.is_current_stream_capturing():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            begin.record()
            try:
                yield
            finally:
                end.record()
                self._events.append((begin, end))
            return
        before = time.perf_counter()
        try:
            yield
        finally:
            self.seconds.dit += time.perf_counter() - before

    @contextmanager
    def overhead(self) -> Iterator[None]:
        """Around our own code."""
        before = time.perf_counter()
        try:
            yield
        finally:
            self.seconds.overhead += time.perf_counter() - before

    def close(self) -> None:
        """The generation is over: read the events (it has synchronised long ago) and the total."""
        self.seconds.total = time.perf_counter() - self.started
        for begin, end in self._events:
            end.synchronize()
            self.seconds.dit += begin.elapsed_time(end) / 1000.0
        self._events.clear()
