"""Who asked for what, and which generation the present thread, greenlet or asyncio task is in."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, ref

from torch import nn

from ..method.profile import Calibration
from ..report.record import Run
from .compiled import unwrap

if TYPE_CHECKING:
    from .generation import Generation


@dataclass(eq=False)
class Request:
    """One request.

    Attributes:
        run: its settings, and the record it fills.
        target: a weak reference to the pipeline or model it is for; None for every one of the architecture.
        parts: weak references to the networks of that pipeline, by name; empty where it says of none.
        tell: called with every generation that has ended (the report is written then), or for a word beside them.
        calibration: what all its generations add to, where a profile was asked for.
    """

    run: Run
    target: ReferenceType[Any] | None = None
    parts: Mapping[str, ReferenceType[Any]] = field(default_factory=dict)
    tell: Any = None
    calibration: Calibration | None = None

    @classmethod
    def of(cls, run: Run, target: Any = None, tell: Any = None) -> Request:
        calibration = Calibration() if run.settings.calibrate is not None else None
        parts = {name: ref(part) for name, part in _networks(target).items()}
        return cls(run, None if target is None else ref(unwrap(target)), parts, tell, calibration)

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
    try:
        components = getattr(pipeline, "components", None)
    except Exception:  # a property of the host's, which fails where a subclass takes other arguments
        components = None
    known = components if isinstance(components, Mapping) else {}
    return {name: unwrap(part) for name, part in known.items() if isinstance(part, nn.Module)}


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

    @property
    def _under_way(self) -> tuple[Stretch, ...]:
        return tuple(each for each in self._stretches.get() if each.under_way)


def relayed(
    inner: Generator[Any, Any, Any],
    resumed: Callable[[], Stretch | None],
    ended: Callable[[BaseException | None], Any],
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
