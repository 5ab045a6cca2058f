"""Between host and us: who asked for what, which generation is under way here, and the one guard around every entry.

Whatever fails is logged once, and the host goes on with its own forward. A failure switches the host off until
the next `apply`: a bug fails again. Memory that we could not have switches off one generation, which lets go of its
history: the next one, or a shorter video, may do well. `strict` raises instead, unless the host is raising already.
Interrupts (KeyboardInterrupt, SystemExit) are the host's and pass. Time spent in here is our overhead.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import ref

import torch
from torch import nn

from ..errors import NotApplied, ScopePatchError
from ..method.profile import Calibration
from ..report.record import Run

if TYPE_CHECKING:
    from .generation import Generation

logger = logging.getLogger("scope_patch")
T = TypeVar("T")

WRAPPED = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"}
"""What wrappers call their only child."""


def unwrap(model: Any) -> Any:
    """The module inside wrappers: `torch.compile`'s, FSDP's, DDP's. Anything else is itself."""
    while isinstance(model, nn.Module) and len(model._modules) == 1:
        ((name, inner),) = model._modules.items()
        if name not in WRAPPED:
            break
        model = inner
    return model


class Request:
    """One request.

    Attributes:
        run: its settings, and the record it fills.
        target: a weak reference to the pipeline or model it is for, out of any wrapper; None: every one of the host.
        parts: weak references to the networks of that pipeline, by name; empty where it says of none.
        tell: called with every generation that has ended (the report is written then), or for a word beside them.
        calibration: what all its generations add to, where a profile was asked for.
    """

    def __init__(self, run: Run, target: Any = None, tell: Any = None) -> None:
        self.run, self.tell = run, tell
        self.target = None if target is None else ref(unwrap(target))
        self.parts = {name: ref(part) for name, part in _networks(target).items()}
        self.calibration = None if run.settings.calibrate is None else Calibration()

    def covers(self, pipeline: Any, model: Any) -> bool:
        """Whether a generation of this pipeline with this DiT falls under it."""
        return self.target is None or self.target() in (pipeline, model)

    def covers_clone(self, pipeline: Any, model: Any) -> bool:
        """Whether the pipeline was made out of the one that was named (`from_pipe`), which may be gone."""
        parts, theirs = {name: part() for name, part in self.parts.items()}, _networks(pipeline)
        common = parts.keys() & theirs.keys()
        return model in parts.values() and all(parts[name] is theirs[name] for name in common)


def _networks(pipeline: Any) -> dict[str, Any]:
    """The networks of a diffusers pipeline, by the names of its components."""
    components: Any = None
    with suppress(Exception):  # a property of the host's, which fails where a subclass takes other arguments
        components = getattr(pipeline, "components", None)
    known = components if isinstance(components, Mapping) else {}
    return {name: unwrap(part) for name, part in known.items() if isinstance(part, nn.Module)}


@dataclass(eq=False)
class Stretch:
    """Work of one pipeline, from when it is entered or resumed until it returns or hands something on.

    Attributes:
        generation: gives the one that it is part of, by a weak reference; None: a pipeline's that runs without us,
            maybe inside of one that does not.
        over: it has ended. It is enough to set this: contexts (and copies of them) may outlive it.
        thread: where it goes on. A new thread may start with a copy of this one's context, but does other work.
    """

    generation: Callable[[], Generation | None]
    over: bool = False
    thread: int = field(default_factory=threading.get_ident)


class Current:
    """What is under way here, innermost last.

    Kept in a context variable: threads never meet, and neither do greenlets or tasks that take turns in one thread.
    """

    def __init__(self) -> None:
        self._stretches: ContextVar[tuple[Stretch, ...]] = ContextVar("scope_patch_stretches", default=())

    def enter(self, generation: Generation | None) -> Stretch:
        """The work that follows is this generation's, until the caller says that the stretch is over."""
        made = Stretch((lambda: None) if generation is None else ref(generation))
        self._stretches.set((*self._under_way, made))
        return made

    @property
    def generations(self) -> list[Generation]:
        return [found for each in self._under_way if (found := each.generation()) is not None]

    @property
    def innermost(self) -> Generation | None:
        """The one whose loop this is; None where the innermost pipeline runs without us."""
        found = self._under_way
        return found[-1].generation() if found else None

    @property
    def _under_way(self) -> tuple[Stretch, ...]:
        """What the calling thread does."""
        here = threading.get_ident()
        return tuple(each for each in self._stretches.get() if not each.over and each.thread == here)


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
            logger.warning("%s runs unpatched: %s", self.name, reason)
            if generation is not None:
                generation.switch_off(str(reason))
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

    def _fail(self, generation: Generation | None, error: Exception) -> None:
        memory = isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))
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


def relayed(
    inner: Generator[Any, Any, Any], resumed: Callable[[], Stretch | None], ended: Callable[[BaseException | None], Any]
) -> Generator[Any, Any, Any]:
    """`yield from inner`, with us told when it works and when its consumer does.

    Args:
        resumed: called before every stretch of its work, which is said to be over when its consumer works again.
        ended: called once when it has returned (None), raised, or was closed by its consumer.
    """
    error: BaseException | None = None
    resume: Callable[[], Any] = partial(next, inner)
    try:
        while True:
            stretch = resumed()
            try:
                made = resume()
            except StopIteration as stop:
                return stop.value
            finally:
                if stretch is not None:
                    stretch.over = True
            try:
                sent = yield made
                resume = partial(inner.send, sent)
            except GeneratorExit:
                stretch = resumed()
                try:
                    inner.close()
                finally:
                    if stretch is not None:
                        stretch.over = True
                raise
            except BaseException as thrown:
                resume = partial(inner.throw, thrown)
            del made  # it is the consumer's now
    except BaseException as raised:
        error = raised
        raise
    finally:
        ended(error)
        del error, resume  # a traceback that holds this frame must not be held by it
