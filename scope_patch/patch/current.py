"""Which generation the present thread is in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .generation import Generation


class Current(threading.local):
    """The generations under way in this thread, innermost last: two pipelines in two threads never meet."""

    def __init__(self) -> None:
        self.generations: list[Generation] = []

    @contextmanager
    def during(self, generation: Generation) -> Iterator[None]:
        """The generation is under way in this thread for the length of a `with` block."""
        self.generations.append(generation)
        try:
            yield
        finally:
            self.generations.pop()

    @property
    def innermost(self) -> Generation | None:
        """The one whose loop this thread is in."""
        return self.generations[-1] if self.generations else None

    def of_pipeline(self, pipeline: Any) -> Generation | None:
        """The innermost generation, if it is this pipeline's."""
        found = self.innermost
        return found if found is not None and found.pipeline is pipeline else None

    def of_model(self, model: Any) -> Generation | None:
        """The innermost generation, if this is its DiT."""
        found = self.innermost
        return found if found is not None and found.model is model else None
