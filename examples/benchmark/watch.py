"""Looking at our own code while a host runs: what it takes, and whether it ever waits for the GPU.

Every entry from the host into us passes the guard, so that is where both look.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Timed:
    """`with Timed() as timed:` notes our seconds by iteration; give `timed.callback` to the pipeline's call.

    Attributes: spent, (iteration, CPU seconds of this thread, seconds by the clock) of every entry.
    """

    def __init__(self) -> None:
        self.spent: list[tuple[int, float, float]] = []
        self.at = 0

    def __enter__(self) -> Timed:
        from scope_patch.patch.guard import Guard

        self._guard = guard = Guard.__call__

        def timed(guarding, *arguments, **more):
            cpu, wall = time.thread_time(), time.perf_counter()
            try:
                return guard(guarding, *arguments, **more)
            finally:
                self.spent.append((self.at, time.thread_time() - cpu, time.perf_counter() - wall))

        Guard.__call__ = timed
        return self

    def __exit__(self, *_: object) -> None:
        from scope_patch.patch.guard import Guard

        Guard.__call__ = self._guard

    def callback(self, pipe, step, timestep, tensors):
        """For `callback_on_step_end`."""
        self.at = step + 1
        return {}

    def clear(self) -> None:
        """Before another generation."""
        self.spent.clear()
        self.at = 0

    def milliseconds(self, modes: str, letters: str, clock: int) -> list[float]:
        """Ours in every iteration decided as one of `letters`; clock 1: CPU, 2: wall."""
        return [
            sum(entry[clock] for entry in self.spent if entry[0] == iteration) * 1000
            for iteration, mode in enumerate(modes)
            if mode in letters
        ]


@contextmanager
def no_waiting() -> Iterator[list[int]]:
    """On CUDA torch raises at whatever in our frames would wait for the device, from the plan to the end of the loop.

    Yields [entries that were watched so].
    """
    import torch

    from scope_patch.patch.generation import Generation
    from scope_patch.patch.guard import Guard

    guard, close = Guard.__call__, Generation.close
    watched = [0]

    def strictly(self, generation, *arguments, **more):
        session = generation.session if generation is not None else None
        planned = session is not None and session.plan is not None
        watched[0] += planned
        torch.cuda.set_sync_debug_mode("error" if planned else "default")
        try:
            return guard(self, generation, *arguments, **more)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def after_the_loop(self, error):
        torch.cuda.set_sync_debug_mode("default")  # the counts of the guards are read here
        close(self, error)

    Guard.__call__, Generation.close = strictly, after_the_loop
    try:
        yield watched
    finally:
        Guard.__call__, Generation.close = guard, close
