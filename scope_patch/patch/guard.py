"""The one guard around every entry from the host into us: our failure is never the host's.

Whatever fails is logged once and switches the architecture off; the host goes on with its own forward. `strict` raises
instead. Time spent in here is our overhead.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from ..errors import NotApplied, ScopePatchError
from .current import Current
from .generation import Generation
from .scope import Scope

logger = logging.getLogger("scope_patch")
T = TypeVar("T")


class Guard:
    """Runs our own code on behalf of the host, for one architecture.

    Attributes:
        broken: something of ours failed; nothing more is done until the next `apply`.
    """

    def __init__(self, name: str, current: Current, scopes: list[Scope]) -> None:
        self.name, self.broken = name, False
        self._current, self._scopes = current, scopes

    def __call__(self, generation: Generation | None, work: Callable[[], T], scope: Scope | None = None) -> T | None:
        """The result of `work`, or None where it failed and the host shall go on without us.

        Args:
            generation: the one under way; before there is one, `scope` (or else any scope) says whether to be strict.
        """
        before = time.perf_counter()
        asked = generation.scope if generation is not None else scope
        strict = any(each.run.settings.strict for each in (self._scopes if asked is None else [asked]))
        try:
            return work()
        except NotApplied as reason:
            if strict:
                raise
            logger.warning("%s runs unpatched: %s", self.name, reason)
            if generation is not None:
                generation.refuse(str(reason))
        except Exception as error:
            if strict:
                raise ScopePatchError(f"scope_patch failed on {self.name}: {error!r}") from error
            self._break(error)
        finally:
            if generation is not None:
                generation.record.seconds.overhead += time.perf_counter() - before
        return None

    def _break(self, error: Exception) -> None:
        self.broken = True
        logger.warning(
            "scope_patch failed on %s and is off for the rest of this process; the host goes on unpatched "
            "(--strict raises instead)",
            self.name,
            exc_info=True,
        )
        for record in (generation.record for generation in self._current.generations):
            record.guard("failure")
            record.applied = record.forwards_skipped > 0
            record.reasons.append(f"switched off after a failure of ours: {error!r}")
