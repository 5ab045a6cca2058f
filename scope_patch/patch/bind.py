"""Attaching to one architecture: wrappers on its seams, through which the host enters us.

Every such entry goes through the guard. A call of ours makes at most one call of the host's, never a second try.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import wrapt

from ..errors import NotApplied
from ..report.record import Generation as Record
from .architecture import FORWARD, GENERATION, READ, SCHEDULE, STEP, Architecture, Seam
from .call import bind as bind_call
from .clock import Clock, Mark
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

    def _generation(self, wrapped: Callable[..., Any], pipeline: Any, args: Any, kwargs: Any) -> Any:
        generation = self._begun(pipeline)
        if generation is None:
            return wrapped(*args, **kwargs)
        with self._entered(generation):
            return wrapped(*args, **kwargs)

    def _walk(self, wrapped: Callable[..., Any], pipeline: Any, args: Any, kwargs: Any) -> Any:
        """A generation that hands out chunks as they are finished: it is under way only while it works."""
        generation, steps = self._begun(pipeline), wrapped(*args, **kwargs)
        if generation is None:
            return steps
        return relayed(steps, lambda: self._current.during(generation), lambda error: self._close(generation, error))

    def _begun(self, pipeline: Any) -> Generation | None:
        """A new generation, where a scope covers the pipeline."""
        # A pipeline that calls itself, or a seam that is wrapped twice, makes one generation.
        if not self.scopes or self.guard.broken or self._current.of_pipeline(pipeline) is not None:
            return None
        scope = self.guard(None, lambda: self._scope_of(pipeline))
        return None if scope is None else self.guard(None, lambda: self._open(scope, pipeline), scope)

    def _step(self, wrapped: Callable[..., Any], pipeline: Any, args: Any, kwargs: Any) -> Any:
        generation = self._current.of_pipeline(pipeline)
        if not isinstance(generation, StepGeneration) or self.guard.broken:
            return wrapped(*args, **kwargs)
        self.guard(generation, lambda: generation.enter_step(self._parameters[STEP], args, kwargs))
        try:
            return wrapped(*args, **kwargs)
        finally:
            generation.leave_step()

    def _schedule(self, wrapped: Callable[..., Any], pipeline: Any, args: Any, kwargs: Any) -> Any:
        result = wrapped(*args, **kwargs)
        generation = self._current.of_pipeline(pipeline)
        if not isinstance(generation, SegmentGeneration) or generation.refused or self.guard.broken:
            return result
        watched = self.guard(generation, lambda: generation.start_segment(result, self._on_read))
        return result if watched is None else watched

    def _on_read(self, session: Session, iteration: int) -> tuple[int, int] | None:
        generation = self._current.innermost
        if generation is None or generation.session is not session or self.guard.broken:
            return None  # a list that outlived its loop, or belongs to another thread's
        return self.guard(generation, lambda: session.enter(iteration))

    def _forward(self, wrapped: Callable[..., Any], model: Any, args: Any, kwargs: Any) -> Any:
        generation = self._current.of_model(unwrap(model))
        session = generation.session if generation is not None else None
        if generation is None or session is None or generation.inside or self.guard.broken:
            return wrapped(*args, **kwargs)
        served = self.guard(generation, lambda: self._serve(session, args, kwargs))
        if served is None:
            return wrapped(*args, **kwargs)
        output, pending = served
        if output is not None:
            return output
        if pending is not None and pending.arguments is not None:
            args, kwargs = (), pending.arguments
        clock = generation.clock
        started = self.guard(generation, clock.start)
        undo = self._stand_in(generation, pending)
        generation.inside = True
        try:
            output = wrapped(*args, **kwargs)
        finally:
            generation.inside = False
            undo()
        self.guard(generation, lambda: self._observe(session, clock, started, pending, output))
        return output if pending is None or pending.whole is None else pending.whole

    def _stand_in(self, generation: Generation, pending: Pending | None) -> Callable[[], None]:
        """At the residual level, put the stand-in where the blocks are. Returns what undoes it."""
        standin = None if pending is None else pending.standin
        if standin is None:
            return lambda: None
        installed = self.guard(generation, lambda: standin.install(generation.model, self.architecture.blocks))
        return installed or (lambda: None)

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
        return next((scope for scope in reversed(self.scopes) if scope.covers(pipeline, model)), None)

    def _open(self, scope: Scope, pipeline: Any) -> Generation:
        record = Record()
        stepwise = self.architecture.stepwise
        generation: Generation = (
            SegmentGeneration(self.architecture, scope, pipeline, record)
            if stepwise is None
            else StepGeneration(self.architecture, stepwise, scope, pipeline, record)
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

    @contextmanager
    def _entered(self, generation: Generation) -> Iterator[None]:
        error: BaseException | None = None
        try:
            with self._current.during(generation):
                yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._close(generation, error)

    def _close(self, generation: Generation, error: BaseException | None) -> None:
        self.guard(generation, lambda: generation.close(error))
        if generation.scope.tell is not None:
            self.guard(generation, generation.scope.tell)
