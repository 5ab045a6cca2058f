"""Attaching to one host: wrappers on its seams, through which the host enters us.

Every such entry goes through the guard. A call of ours makes one call of the host's at most, with one exception (see
`_forward`).
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from types import GeneratorType
from typing import Any, TypeVar

import wrapt

from ..errors import NotApplied
from .agreement import Agreements
from .generation import Generation
from .guard import Current, Guard, Request, relayed, unwrap
from .host import Entry, Host
from .loops import Loop
from .seams import FORWARD, READ, VIDEO, Ledger, Seam, Wrapper
from .session import Session
from .signature import check_live, failures
from .velocity import PendingForward, asked_of, forward_call

logger = logging.getLogger("scope_patch")
T = TypeVar("T")
Served = tuple[Session | None, Any, PendingForward | None]
"""The section of a forward, the output to return instead of it, and the forward that is to run."""
OWN: Served = (None, None, None)


class Binding:
    """The wrappers of one host, and the requests that are served by them."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.requests: list[Request] = []
        self.bound: set[str] = set()
        self.refused: set[str] = set()
        self.ledger = Ledger()
        self._current = Current()
        self.guard = Guard(host.name, self._current, self.requests)
        self.agreements = Agreements(host.name)
        self._parameters: dict[tuple[str, str], list[str]] = {}

    def attach(self, entry: Entry) -> None:
        """Bind every seam of an entry that is not bound, or none. Raises NotApplied with the failed checks."""
        failed = failures(check_live(self.host, entry))
        if failed:
            self.refused.add(entry.name)
            raise NotApplied(f"{self.host.name} ({entry.name}): {'; '.join(failed)}")
        try:
            for seam in self.host.seams(entry):
                if seam.role != READ:
                    owner = getattr(sys.modules[seam.module], seam.owner)
                    self.wrap(owner, seam.replaced, self._wrapper(seam, self.host.loop_of(entry)))
                    signature = inspect.signature(inspect.unwrap(getattr(owner, seam.attribute)))
                    self._parameters[seam.owner, seam.attribute] = list(signature.parameters)[1:]
        except Exception:
            self.detach()  # all seams or none; other entries share these
            raise
        self.bound.add(entry.name)
        logger.info("%s: bound %d seams (%s)", self.host.name, len(self.ledger.entries), entry.name)

    def wrap(self, owner: type, name: str, wrapper: Wrapper) -> None:
        """Put a wrapper around a method, unless ours is there already: entries share their DiT."""
        if not self.ledger.holds(owner, name):
            self.ledger.replace(owner, name, lambda raw: wrapt.FunctionWrapper(raw, wrapper))

    def detach(self) -> None:
        """Put the host's own attributes back; below somebody else's patch ours stays in place, switched off."""
        self.bound.clear()
        for entry in self.ledger.restore():
            logger.info("%s.%s was patched on top of us: switched off in place", entry.owner.__name__, entry.name)

    def arguments(self, owner: str, method: str, args: Any, kwargs: Any) -> dict[str, Any]:
        """A call's arguments by the method's own parameter names; much faster than `inspect.Signature.bind`."""
        return {**dict(zip(self._parameters[owner, method], args, strict=False)), **kwargs}

    def _wrapper(self, seam: Seam, loop: Loop) -> Wrapper:
        if seam.role == VIDEO:
            return partial(self._video, seam, loop)
        return self._forward if seam.role == FORWARD else partial(loop.entered, self, seam)

    # In what wraps a seam, whatever is ours runs under the guard; outside of it there are only assignments.

    def _video(self, seam: Seam, loop: Loop, wrapped: Callable[..., Any], pipeline: Any, args: Any, kwargs: Any) -> Any:
        opened = partial(self._opened, seam, loop, pipeline, args, kwargs)
        begun = self.guard(None, opened) if self.requests else None
        if begun is None:
            return wrapped(*args, **kwargs)
        (generation,) = begun
        under_way = partial(self.guard, generation, lambda: self._current.enter(generation))
        finish: Callable[[BaseException | None], None] | None = partial(self._finish, generation)
        stretch, error = None, None
        try:
            stretch = under_way()
            result = wrapped(*args, **kwargs)
            if isinstance(result, GeneratorType):  # it has not begun, and is under way only while it works
                steps = result
                handed_on = self.guard(generation, lambda: relayed(steps, under_way, partial(self._finish, generation)))
                if handed_on is not None:
                    result, finish = handed_on, None
            return result
        except BaseException as raised:
            error = raised
            raise
        finally:
            if stretch is not None:
                stretch.over = True
            if finish is not None:
                finish(error)
            del error  # a traceback that holds this frame must not be held by it

    def _opened(self, seam: Seam, loop: Loop, pipeline: Any, args: Any, kwargs: Any) -> tuple[Generation | None] | None:
        """(a new generation,), (None,) where no request covers the pipeline, or None where it is part of another.

        A pipeline that calls itself before any loop, or a seam that is wrapped twice, makes one generation. Called
        while a loop is under way, or after it (by a callback), the pipeline makes another one.
        """
        outer = self._current.innermost
        if self.guard.broken or (outer is not None and outer.pipeline is pipeline and not outer.started):
            return None
        model = unwrap(self.host.model(pipeline))
        newest = [*self.requests][::-1]
        request = next((each for each in newest if each.covers(pipeline, model)), None)
        request = request or next((each for each in newest if each.covers_clone(pipeline, model)), None)
        if request is None:
            return (None,)
        arguments = self.arguments(seam.owner, seam.attribute, args, kwargs)
        return (self.guard(None, lambda: self._open(request, loop, pipeline, arguments), request),)

    def _open(self, request: Request, loop: Loop, pipeline: Any, arguments: dict[str, Any]) -> Generation:
        generation = Generation(self.host, loop, request, pipeline, self.agreements, arguments)
        request.run.begin(generation.record)
        if self.host.name not in request.run.hosts:
            request.run.hosts.append(self.host.name)
        outer = self.host.model(pipeline)
        if outer is not generation.model:
            # `torch.compile(model)` called the model's own `__call__` when it was made: the seam is the wrapper's then,
            # and the inner one is passed through. Dynamo must not try to compile our frames on the way.
            self.wrap(type(outer), "__call__", self._forward)
            trace_rules = getattr(sys.modules.get("torch._dynamo"), "trace_rules", None)
            if trace_rules is not None:
                trace_rules.add("scope_patch")
        self.guard(generation, lambda: loop.opened(self, generation))
        return generation

    def on_loop(self, work: Callable[[Generation], T], of: Any = None) -> T | None:
        """What a loop kind does for the generation under way here, guarded; None where there is none of ours.

        Args:
            of: the pipeline whose generation it must be; None: whosever.
        """
        found = self.guard(None, lambda: self._live(of))
        return None if found is None else self.guard(found, lambda: work(found))

    @property
    def live(self) -> Generation | None:
        """The generation under way here, if it is still ours."""
        return self.guard(None, self._live)

    def _live(self, of: Any = None) -> Generation | None:
        found = self._current.innermost
        ours = found is not None and (of is None or found.pipeline is of) and self.guard.live(found)
        return found if ours else None

    @property
    def innermost(self) -> Generation | None:
        """The generation under way here, ours or (since something failed) not any more."""
        return self.guard(None, lambda: self._current.innermost)

    def _forward(self, wrapped: Callable[..., Any], model: Any, args: Any, kwargs: Any) -> Any:
        generation = self.innermost
        if generation is None or generation.inside:
            return wrapped(*args, **kwargs)
        if self.guard(generation, lambda: self._elsewhere(generation, model)):  # where that failed, it may be narrowed
            return wrapped(*args, **kwargs)
        given = partial(self.arguments, self.host.dit.owner, self.host.dit.method, args, kwargs)
        session, output, pending = self.guard(generation, lambda: self._serve(generation, given())) or OWN
        if output is not None:
            return output
        forward = partial(wrapped, *args, **kwargs)
        if session is None or pending is None:
            return self._whole(generation, forward, given)
        if pending.arguments is None and pending.attending is None:
            return self._run(generation, forward, session, pending)
        section, ran = session, pending
        other = forward if pending.arguments is None else partial(wrapped, **pending.arguments)
        made = self._run(generation, other, section, ran)
        # Where it cannot be completed, only the whole forward will do. These are the only cases of a second forward: on
        # MAGI-1 it writes the same keys and values to the same places, and others behind; on other hosts, kept keys and
        # values were not attended to.
        whole = self.guard(generation, lambda: section.complete(ran, made))
        return self._whole(generation, forward, given) if whole is None else whole

    def _whole(self, generation: Generation, forward: partial[Any], given: partial[dict[str, Any]]) -> Any:
        """The host's own forward: of what it asks for, or, where its loop was made to ask for less, with the rest."""
        more = self.guard(generation, lambda: generation.widened(given()))
        self.guard(generation, lambda: generation.own(more or given()))
        if more is None:
            return self._run(generation, forward)
        wide = self._run(generation, partial(forward.func, **more))
        asked = self.guard(generation, lambda: asked_of(wide, given()[self.host.dit.latents].shape))
        return forward() if asked is None else asked

    def _elsewhere(self, generation: Generation, model: Any) -> bool:
        """Whether it is not the accelerated one that is called. Wrappers are classes of other networks, too."""
        found, dit = unwrap(model), self.host.dit
        if found is generation.model:
            return False
        generation.elsewhere += isinstance(found, getattr(sys.modules[dit.module], dit.owner))
        return True

    def _serve(self, generation: Generation, arguments: dict[str, Any]) -> Served:
        """The section of a forward, and what it makes of it; nothing where it is the host's own."""
        generation.calls += 1
        if not self.guard.live(generation):
            return OWN
        why, loop = self.host.extra(arguments), generation.loop
        if why:
            generation.record.force(why, generation.runs(arguments)[0])
            return OWN
        session = None
        if loop.awaits(generation):
            call = forward_call(arguments, self.host.dit, loop.ranks)
            session = loop.locate(generation, call)
        if session is None or session.iteration is None:
            generation.stray()
            return OWN
        return (session, *session.serve(call))

    def _run(
        self,
        generation: Generation,
        forward: partial[Any],
        session: Session | None = None,
        pending: PendingForward | None = None,
    ) -> Any:
        """The host's forward, maybe with a stand-in in the place of its blocks; what it computed is kept."""
        standin, attending = (None, None) if pending is None else (pending.standin, pending.attending)

        def observe() -> None:
            if stop is not None:
                stop()
            if session is not None and pending is not None:
                session.recount(pending)
                if not generation.off:
                    session.observe(pending, output)

        with ExitStack() as within:
            if attending is not None:
                self.guard(generation, lambda: within.enter_context(attending))
            if standin is not None:
                placed = standin.placed(generation.model, self.host.dit.blocks)
                self.guard(generation, lambda: within.enter_context(placed))
            stop = self.guard(generation, generation.stopwatch.start)
            generation.inside = True
            try:
                output = forward()
            finally:
                generation.inside = False
        self.guard(generation, observe)
        return output

    def _finish(self, generation: Generation | None, error: BaseException | None) -> None:
        """The pipeline returned or raised; the report is written, whatever fails."""
        if generation is None:
            return
        quiet = error is not None
        try:
            self.guard(generation, lambda: self._close(generation, error), quiet=quiet)
        finally:
            if generation.request.tell is not None:
                self.guard(generation, partial(generation.request.tell, generation.record), quiet=quiet)

    def _close(self, generation: Generation, error: BaseException | None) -> None:
        self.guard.live(generation)  # what failed in another thread switched this one off, too
        generation.close(error)
