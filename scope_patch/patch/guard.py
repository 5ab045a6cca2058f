"""The one guard around every entry from the host into us: our failure is never the host's.

Whatever fails is logged once, and the host goes on with its own forward. A failure switches the host off until
the next `apply`: a bug fails again. Memory that we could not have switches off one generation, which lets go of its
history: the next one, or a shorter video, may do well. `strict` raises instead, unless the host is raising already.
Interrupts (KeyboardInterrupt, SystemExit) are the host's and pass. Time spent in here is our overhead.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import torch

from ..errors import NotApplied, ScopePatchError
from .current import Current, Request
from .generation import Generation

logger = logging.getLogger("scope_patch")
T = TypeVar("T")

OUT_OF_MEMORY = (MemoryError, torch.cuda.OutOfMemoryError)


class Guard:
    """Runs our own code on behalf of the host, for one host.

    Attributes:
        broken: something of ours failed; nothing more is done until the next `apply`.
        cause: what that was, in one sentence.
    """

    def __init__(self, name: str, current: Current, requests: list[Request]) -> None:
        self.name, self.broken, self.cause = name, False, ""
        self._current, self._requests = current, requests

    def __call__(
        self,
        generation: Generation | None,
        work: Callable[[], T],
        request: Request | None = None,
        *,
        quiet: bool = False,
    ) -> T | None:
        """The result of `work`, or None where it failed and the host shall go on without us.

        Args:
            generation: the one under way; before there is one, `request` (or else any) says whether to be strict.
            quiet: the host's own error is under way, which ours must not take the place of.
        """
        before = time.perf_counter()
        try:
            if generation is None or not generation.strange_device:
                return work()
            with torch.device("cpu"):  # tables are made there, whatever a script has made its default
                return work()
        except NotApplied as reason:
            if self._strict(generation, request) and not quiet:
                with suppress(Exception):  # so that the report says it, too, and not that nothing happened
                    if generation is not None:
                        generation.switch_off(str(reason))
                raise
            self._refuse(generation, reason)
        except Exception as error:
            if self._strict(generation, request) and not quiet:
                if isinstance(error, ScopePatchError):
                    raise  # of a guard further in
                raise ScopePatchError(f"scope_patch failed on {self.name}: {error!r}") from error
            self._fail(generation, error)
        finally:
            if generation is not None:
                generation.record.seconds.overhead += time.perf_counter() - before
        return None

    def live(self, generation: Generation) -> bool:
        """Whether it is still ours: nothing failed, here or in another thread, and its request was not removed."""
        if self.broken:
            # For good, also if an `apply` in another thread switches the host on again in mid-loop.
            generation.switch_off(self.cause)
        elif generation.request not in self._requests:
            generation.switch_off("removed in the middle of this generation", asked=True)
        return not generation.off

    def _strict(self, generation: Generation | None, request: Request | None) -> bool:
        asked = generation.request if generation is not None else request
        return any(each.run.settings.strict for each in ([*self._requests] if asked is None else [asked]))

    def _refuse(self, generation: Generation | None, reason: NotApplied) -> None:
        logger.warning("%s runs unpatched: %s", self.name, reason)
        if generation is not None:
            generation.switch_off(str(reason))

    def _fail(self, generation: Generation | None, error: Exception) -> None:
        memory = isinstance(error, OUT_OF_MEMORY)
        if not memory:
            self.broken, self.cause = True, f"switched off after a failure of ours: {error!r}"
        with suppress(Exception):  # a second failure, of what tells of the first, changes nothing for the host
            under_way = [each for each in self._current.generations if each is not generation]
            stopped = [] if generation is None else [generation]
            for each in stopped or under_way[-1:] if memory else stopped + under_way:
                each.record.guard("memory" if memory else "failure")
                each.switch_off(f"ran out of memory: {error!r}" if memory else self.cause)
        with suppress(Exception):
            logger.warning(
                "scope_patch %s on %s and is off for %s; the host goes on unpatched (--strict raises instead)",
                "ran out of memory" if memory else "failed",
                self.name,
                "this generation" if memory else "the rest of this process",
                exc_info=True,
            )
