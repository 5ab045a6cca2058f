"""Attaching to one architecture: wrappers on its seams, through which the host enters us.

Every such entry goes through the guard. A call of ours makes one call of the host's at most, with one exception (see
`_forward`).
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import wrapt

from ..errors import NotApplied
from ..report.record import GenerationRecord as Record
from .architecture import FORWARD, GENERATION, READ, SCHEDULE, STEP, Architecture, Seam
from .call import bind as bind_call
from .clock import Clock, Mark
from .consensus import Quorum
from .current import Current
from .fill import Pending
from .generation import Generation
from .guard import Guard
from .ledger import Ledger
from .scope import Scope, unwrap
from .segments import SegmentGeneration
from .session import Session
from .signature import check_live, failures
from .steps import StepGeneration
from .walk import relayed

logger = logging.getLogger("scope_patch")


class Binding:
    """The wrappers of one architecture, and the scopes that are served by them."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.scopes: list[Scope] = []
        self.bound: set[str] = set()
        self.refused: set[str] = set()
        self._ledger = Ledger()
        self._current = Current()
        self.guard = Guard(architecture.name, self._current, self.scopes)
        self.quorum = Quorum(architecture.name)
        self._parameters: dict[str, list[str]] = {}

    def attach(self, group: str) -> None:
        """Bind every seam of a group, or none. Raises NotApplied with the failed checks."""
        if group in self.bound:
            return
        failed = failures(check_live(self.architecture, group))
        if failed:
            self.refused.add(group)
            raise NotApplied(f"{self.architecture.name} ({group}): {'; '.join(failed)}")
        try:
            for seam in self.architecture.groups[group]:
                if seam.role == READ:
                    continue
                owner = getattr(sys.modules[seam.module], seam.owner)
                if not self._ledger.holds(owner, seam.replaced):
                    self._ledger.replace(owner, seam.replaced, partial(self._wrap, seam))
                signature = inspect.signature(inspect.unwrap(getattr(owner, seam.attribute)))
                self._parameters[seam.role] = list(signature.parameters)[1:]
        except Exception:
            self.detach()  # all seams or none; other groups share these
            raise
        self.bound.add(group)
        logger.info("%s: bound %d seams (%s)", self.architecture.name, len(self._ledger.entries), group)

    def detach(self) -> None:
        """Put the host's own attributes back; below somebody else's patch ours stays in place, switched off."""
        self.bound.clear()
        for entry in self._ledger.restore():
            logger.info("%s.%s was patched on top of us: switched off in place", entry.owner.__name__, entry.name)

    def _wrap(self, seam: Seam, raw: Any) -> Any:
        generation = self._generation if self.architecture.stepwise is None else self._walk
        wrappers = {GENERATION: generation, SCHEDULE: self._schedule, STEP: self._step, FORWARD: self._forward}
        return wrapt.FunctionWrapper(raw, wrappers[seam.role])

    # In what wraps a seam, whatever is ours runs under the guard; outside of it there are only assignments.

    def _generation(self, wrapped: Callable[..., Any], pipeline: Any, args: Any, kwargs: Any) -> Any:
        begun = self.guard(None, lambda: self._begun(pipeline)) if self.scopes else None
        if begun is None:
            return wrapped(*args, **kwargs)
        (generation,) = begun
        stretch, error = None, None
        try:
            stretch = self.guard(generation, lambda: self._current.enter(generation))
            return wrapped(*args, **kwargs)
        except BaseException as raised:
            error = raised
            raise
        finally:
            if stretch is not None:
                stretch.over = True
            self._finish(generation, error)
            del error  # a traceback that holds this frame must not be held by it

    def _walk(self, wrapped: Callable[..., Any], pipeline: Any, args: Any, kwargs: Any) -> Any:
        """A generation that hands out chunks as they are finished: it is under way only while it works."""
        steps = wrapped(*args, **kwargs)
        begun = self.guard(None, lambda: self._begun(pipeline)) if self.scopes else None
        if begun is None:
            return steps
        (generation,) = begun
        resumed = partial(self.guard, generation, lambda: self._current.enter(generation))
        handed_on = self.guard(generation, lambda: relayed(steps, resumed, partial(self._finish, generation)))
        return steps if handed_on is None else handed_on

    def _begun(self, pipeline: Any) -> tuple[Generation | None] | None:
        """(a new generation,), (None,) where no scope covers the pipeline, or None where it is part of another.

        A pipeline that calls itself before any loop, or a seam that is wrapped twice, makes one generation. Called
        while a loop is under way, or after it (by a callback), the pipeline makes another one.
        """
        outer = self._current.of_pipeline(pipeline)
        if self.guard.broken or (outer is not None and not outer.started):
            return None
        scope = self._scope_of(pipeline)
        return (None if scope is None else self.guard(None, lambda: self._open(scope, pipeline), scope),)

    def _step(self, wrapped: Callable[..., Any], pipeline: Any, args: Any, kwargs: Any) -> Any:
        generation = self.guard(None, lambda: self._live(self._current.of_pipeline(pipeline)))
        if not isinstance(generation, StepGeneration):
            return wrapped(*args, **kwargs)
        try:
            self.guard(generation, lambda: generation.enter_step(self._parameters[STEP], args, kwargs))
            return wrapped(*args, **kwargs)
        finally:
            generation.session = None  # the step is over: no forward belongs to it any more

    def _schedule(self, wrapped: Callable[..., Any], pipeline: Any, args: Any, kwargs: Any) -> Any:
        result = wrapped(*args, **kwargs)
        generation = self.guard(None, lambda: self._live(self._current.of_pipeline(pipeline)))
        if not isinstance(generation, SegmentGeneration):
            return result
        watch = partial(self._watch, generation)
        watched = self.guard(generation, lambda: generation.start_segment(result, watch))
        return result if watched is None else watched

    def _watch(self, generation: SegmentGeneration, session: Session, iteration: int) -> tuple[int, int] | None:
        return self.guard(generation, lambda: self._on_read(generation, session, iteration))

    def _on_read(self, generation: SegmentGeneration, session: Session, iteration: int) -> tuple[int, int] | None:
        if self._current.innermost is not generation or self._live(generation) is None:
            return None  # a list that outlived its loop, or is read by another thread
        return generation.read(session, iteration)

    def _forward(self, wrapped: Callable[..., Any], model: Any, args: Any, kwargs: Any) -> Any:
        generation = self.guard(None, lambda: self._live(self._current.of_model(unwrap(model))))
        session = None if generation is None else generation.session
        if generation is None or session is None or generation.inside:
            return wrapped(*args, **kwargs)
        served = self.guard(generation, lambda: self._serve(session, args, kwargs))
        if served is None:
            return wrapped(*args, **kwargs)
        output, pending = served
        if output is not None:
            return output
        if pending is None or pending.arguments is None:
            return self._run(generation, session, pending, partial(wrapped, *args, **kwargs))
        narrowed = self._run(generation, session, pending, partial(wrapped, **pending.arguments))
        # Where it cannot be completed, only the whole forward will do. It is the one case of a second forward: on
        # MAGI-1 (no other host is narrowed) it writes the same keys and values to the same places, and others behind.
        whole = self.guard(generation, lambda: session.complete(pending, narrowed))
        return wrapped(*args, **kwargs) if whole is None else whole

    def _run(self, generation: Generation, session: Session, pending: Pending | None, forward: partial[Any]) -> Any:
        """The host's forward, maybe with a stand-in in the place of its blocks; what it computed is kept."""
        standin, blocks = None if pending is None else pending.standin, self.architecture.blocks
        place = None if standin is None else self.guard(generation, lambda: standin.place(generation.model, blocks))
        started = self.guard(generation, generation.clock.start)
        try:
            if place is not None:
                place.modules[blocks] = place.replaced
            generation.inside = True
            output = forward()
        finally:
            generation.inside = False
            if place is not None:
                place.modules[blocks] = place.own
        if not generation.off:
            self.guard(generation, lambda: self._observe(session, generation.clock, started, pending, output))
        return output

    def _live(self, generation: Generation | None) -> Generation | None:
        """The generation, unless it is none of ours any more."""
        return generation if generation is not None and self.guard.live(generation) else None

    def _serve(self, session: Session, args: Any, kwargs: Any) -> tuple[Any, Pending | None]:
        return session.serve(bind_call(self._parameters[FORWARD], self.architecture.forward, args, kwargs))

    def _observe(self, session: Session, clock: Clock, started: Mark | None, pending: Pending | None, out: Any) -> None:
        if started is not None:
            clock.stop(started)
        if pending is not None:
            session.observe(pending, out)

    def _scope_of(self, pipeline: Any) -> Scope | None:
        """The newest scope that covers a pipeline."""
        model = unwrap(self.architecture.model(pipeline))
        return next((scope for scope in [*self.scopes][::-1] if scope.covers(pipeline, model)), None)

    def _open(self, scope: Scope, pipeline: Any) -> Generation:
        record = Record()
        stepwise = self.architecture.stepwise
        generation: Generation = (
            SegmentGeneration(self.architecture, scope, pipeline, record, self.quorum)
            if stepwise is None
            else StepGeneration(self.architecture, stepwise, scope, pipeline, record, self.quorum)
        )
        scope.run.begin(record)
        if self.architecture.name not in scope.run.hosts:
            scope.run.hosts.append(self.architecture.name)
        outer = self.architecture.model(pipeline)
        if outer is not generation.model:
            self._attach_compiled(type(outer))
        return generation

    def _attach_compiled(self, wrapper: type) -> None:
        """`torch.compile(model)` called the model's own `__call__` when it was made: the seam is the wrapper's then.

        The inner seam is passed through; dynamo must not try to compile our frames on the way.
        """
        if not self._ledger.holds(wrapper, "__call__"):
            self._ledger.replace(wrapper, "__call__", lambda raw: wrapt.FunctionWrapper(raw, self._forward))
            trace_rules = getattr(sys.modules.get("torch._dynamo"), "trace_rules", None)
            if trace_rules is not None:
                trace_rules.add("scope_patch")

    def _finish(self, generation: Generation | None, error: BaseException | None) -> None:
        """The pipeline returned or raised; the report is written, whatever fails."""
        if generation is None:
            return
        quiet = error is not None
        try:
            self.guard(generation, lambda: self._close(generation, error), quiet=quiet)
        finally:
            if generation.scope.tell is not None:
                self.guard(generation, generation.scope.tell, quiet=quiet)

    def _close(self, generation: Generation, error: BaseException | None) -> None:
        self.guard.live(generation)  # what failed in another thread switched this one off, too
        generation.close(error)
