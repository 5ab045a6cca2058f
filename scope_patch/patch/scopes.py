"""Who asked for what: every `apply`, `patched` or `run` is one scope, for one pipeline or model or for all."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any
from weakref import ReferenceType, ref

from ..report.record import Run
from .generation import Generation, unwrap


@dataclass
class Scope:
    """One request.

    Attributes:
        run: its settings, and the record it fills.
        target: a weak reference to the pipeline or model it is for; None for every one of the architecture.
        tell: called whenever a generation has ended (the report is written then).
    """

    run: Run
    target: ReferenceType[Any] | None = None
    tell: Any = None

    @classmethod
    def of(cls, run: Run, target: Any = None, tell: Any = None) -> Scope:
        return cls(run, None if target is None else ref(unwrap(target)), tell)

    def covers(self, pipeline: Any, model: Any) -> bool:
        """Whether a generation of this pipeline with this DiT falls under the scope."""
        return self.target is None or self.target() in (pipeline, model)


class Current(threading.local):
    """The generations under way in this thread, innermost last: two pipelines in two threads never meet."""

    def __init__(self) -> None:
        self.generations: list[Generation] = []

    def of_pipeline(self, pipeline: Any) -> Generation | None:
        """The innermost generation, if it is this pipeline's."""
        found = self.generations[-1] if self.generations else None
        return found if found is not None and found.pipeline is pipeline else None

    def of_model(self, model: Any) -> Generation | None:
        """The innermost generation, if this is its DiT."""
        found = self.generations[-1] if self.generations else None
        return found if found is not None and found.model is model else None
