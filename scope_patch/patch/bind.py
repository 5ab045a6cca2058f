"""Attaching to one architecture: wrappers on its seams, one guard around every entry from the host into us.

Whatever fails in here is logged once and switches this architecture off; the host goes on with its own forward
(`strict` raises instead). A call of ours makes at most one call of the host's, never a second try.
"""

from __future__ import annotations

import inspect
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import wrapt

from ..errors import NotApplied, ScopePatchError
from ..report.record import Generation as Record
from .architecture import FORWARD, GENERATION, SCHEDULE, Architecture, Seam
from .call import bind as bind_call
from .clock import Clock, Mark
from .current import Current
from .generation import Generation
from .ledger import Ledger
from .scope import Scope, unwrap
from .session import Pending, Session
from .signature import check_live, failures

logger = logging.getLogger("scope_patch")
T = TypeVar("T")


class Binding:
    """The wrappers of one architecture, and the scopes that are served by them."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.scopes: list[Scope] = []
        self.bound: set[str] = set()
        self.refused: set[str] = set()
        self.broken = False
        self._ledger = Ledger()
        self._current = Current()
        self._signature: inspect.Signature | None = None

    def attach(self, group: str) -> None:
        """Bind every seam of a group, or none. Raises NotApplied with the failed checks."""
        if group in self.bound:
            return
        failed = failures(check_live(self.architecture, group))
        if failed:
            self.refused.add(group)
            raise NotApplied(f"{self.architecture.name} ({group}): {'; '.join(failed)}")
        for seam in self.architecture.groups[group]:
            owner = getattr(sys.modules[seam.module], seam.owner)
            if not self._ledger.holds(owner, seam.replaced):
                self._ledger.replace(owner, seam.replaced, partial(self._wrap, seam))
            if seam.role == FORWARD:
                self._signature = inspect.signature(inspect.unwrap(getattr(owner, seam.attribute)))
        self.bound.add(group)
        logger.info("%s: bound %d seams (%s)", self.architecture.name, len(self._ledger.entries), group)

    def detach(self) -> None:
        """Put the host's own attributes back; below somebody else's patch ours stays in place, switched off."""
        self.bound.clear()
        for entry in self._ledger.restore():
            logger.info("%s.%s was patched on top of us: switched off in place", entry.owner.__name__, entry.name)

    def _wrap(self, seam: Seam, raw: Any) -> Any:
        wrappers = {GENERATION: self._generation, SCHEDULE: self._schedule, FORWARD: self._forward}
        return wrapt.FunctionWrapper(raw, wrappers[seam.role])

    def _generation(self, wrapped: Callable[..., Any], pipeline: Any, args: Any, kwargs: Any) -> Any:
        generation = None
        # A pipeline that calls itself, or a seam that is wrapped twice, makes one generation.
        if self.scopes and not self.broken and self._current.of_pipeline(pipeline) is None:
            scope = self._guard(None, lambda: self._scope_of(pipeline))
            generation = None if scope is None else self._guard(None, lambda: self._open(scope, pipeline), scope)
        if generation is None:
            return wrapped(*args, **kwargs)
        with self._entered(generation):
            return wrapped(*args, **kwargs)

    def _schedule(self, wrapped: Callable[..., Any], pipeline: Any, args: Any, kwargs: Any) -> Any:
        result = wrapped(*args, **kwargs)
        generation = self._current.of_pipeline(pipeline)
        if generation is None or self.broken:
            return result
        watched = self._guard(generation, lambda: generation.start_segment(result, self._on_read))
        return result if watched is None else watched

    def _on_read(self, session: Session, iteration: int) -> tuple[int, int] | None:
        generation = self._current.innermost
        if generation is None or generation.session is not session or self.broken:
            return None  # a list that outlived its loop, or belongs to another thread's
        return self._guard(generation, lambda: session.enter(iteration))

    def _forward(self, wrapped: Callable[..., Any], model: Any, args: Any, kwargs: Any) -> Any:
        generation = self._current.of_model(unwrap(model))
        session = generation.session if generation is not None else None
        if generation is None or session is None or generation.inside or self.broken:
            return wrapped(*args, **kwargs)
        served = self._guard(generation, lambda: self._serve(session, args, kwargs))
        if served is None:
            return wrapped(*args, **kwargs)
        output, pending = served
        if output is not None:
            return output
        clock = generation.clock
        started = self._guard(generation, clock.start)
        generation.inside = True
        try:
            output = wrapped(*args, **kwargs)
        finally:
            generation.inside = False
        self._guard(generation, lambda: self._observe(session, clock, started, pending, output))
        return output

    def _serve(self, session: Session, args: Any, kwargs: Any) -> tuple[Any, Pending | None]:
        assert self._signature is not None, "a forward is wrapped only after its signature was read"
        return session.serve(bind_call(self._signature, self.architecture.forward, args, kwargs))

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
        generation = Generation(self.architecture, scope, pipeline, record)
        scope.run.generations.append(record)
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
        self._current.generations.append(generation)
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._current.generations.pop()
            self._guard(generation, lambda: generation.close(error))
            if generation.scope.tell is not None:
                self._guard(generation, generation.scope.tell)

    def _guard(self, generation: Generation | None, work: Callable[[], T], scope: Scope | None = None) -> T | None:
        """Run our own code on behalf of the host: None where it failed, and the host goes on without us."""
        before = time.perf_counter()
        if generation is not None:
            scope = generation.scope
        strict = any(each.run.settings.strict for each in ([scope] if scope is not None else self.scopes))
        try:
            return work()
        except NotApplied as reason:
            if strict:
                raise
            logger.warning("%s runs unpatched: %s", self.architecture.name, reason)
            if generation is not None:
                generation.record.applied = False
                generation.record.reasons.append(str(reason))
        except Exception as error:
            if strict:
                raise ScopePatchError(f"scope_patch failed on {self.architecture.name}: {error!r}") from error
            self._break(error)
        finally:
            if generation is not None:
                generation.record.seconds.overhead += time.perf_counter() - before
        return None

    def _break(self, error: Exception) -> None:
        """Something of ours failed: off for this architecture, said once, and noted in every generation under way."""
        self.broken = True
        logger.warning(
            "scope_patch failed on %s and is off for the rest of this process; the host goes on unpatched "
            "(--strict raises instead)",
            self.architecture.name,
            exc_info=True,
        )
        for record in (generation.record for generation in self._current.generations):
            record.guard("failure")
            record.applied = record.forwards_skipped > 0
            record.reasons.append(f"switched off after a failure of ours: {error!r}")
