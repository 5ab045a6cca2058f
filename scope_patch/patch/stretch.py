"""A stretch of the host's work, as long as one call or one turn of a generator."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any
from weakref import ReferenceType


@dataclass(eq=False)
class Stretch:
    """Attributes:
    generation: which one it is part of, by a weak reference; None: a pipeline's that runs without us, maybe inside of
        one that does not.
    over: it has ended. It is enough to set this: contexts (and copies of them) may outlive it.
    thread: where it goes on. A new thread may start with a copy of this one's context, but does other work.
    """

    generation: ReferenceType[Any] | None
    over: bool = False
    thread: int = field(default_factory=threading.get_ident)

    @property
    def under_way(self) -> bool:
        """Whether it is what the calling thread does."""
        return not self.over and self.thread == threading.get_ident()
