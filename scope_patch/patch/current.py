"""Which generation the present line of execution is in: a thread, a greenlet, an asyncio task."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any
from weakref import ref

from .generation import Generation
from .stretch import Stretch


class Current:
    """What is under way here, innermost last.

    Kept in a context variable: threads never meet, and neither do greenlets or tasks that take turns in one thread.
    """

    def __init__(self) -> None:
        self._stretches: ContextVar[tuple[Stretch, ...]] = ContextVar("scope_patch_stretches", default=())

    def enter(self, generation: Generation | None) -> Stretch:
        """The work that follows is this generation's, until the caller says that the stretch is over."""
        made = Stretch(None if generation is None else ref(generation))
        self._stretches.set((*self._under_way, made))
        return made

    @property
    def generations(self) -> list[Generation]:
        """Those under way here."""
        found = (None if each.generation is None else each.generation() for each in self._under_way)
        return [generation for generation in found if generation is not None]

    @property
    def innermost(self) -> Generation | None:
        """The one whose loop this is; None where the innermost pipeline runs without us."""
        found = self._under_way
        return found[-1].generation() if found and found[-1].generation is not None else None

    def of_pipeline(self, pipeline: Any) -> Generation | None:
        """The innermost generation, if it is this pipeline's."""
        found = self.innermost
        return found if found is not None and found.pipeline is pipeline else None

    def of_model(self, model: Any) -> Generation | None:
        """The innermost generation, if this is its DiT."""
        found = self.innermost
        return found if found is not None and found.model is model else None

    @property
    def _under_way(self) -> tuple[Stretch, ...]:
        return tuple(each for each in self._stretches.get() if each.under_way)
