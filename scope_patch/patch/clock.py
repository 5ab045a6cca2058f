"""What every kind of denoise loop answers; and the commonest kind: a clock, an object that is told of every step.

A clock is mostly a diffusers scheduler. Its methods are seams of loops of other kinds, too: before a solver steps,
skipped steps may be taken again. Nothing here imports torch or a host before a host runs.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from ..errors import NotApplied
from . import source
from .seams import LOOP, Check, Seam

if TYPE_CHECKING:
    from ..method.schedule import Schedule, Table
    from .bind import Binding
    from .generation import Generation
    from .host import Entry
    from .session import Session
    from .velocity import ForwardCall

STEP = "step"
GIVEN = ("model_output", "timestep", "sample")
"""What a diffusers scheduler's `step` is called with."""
DOUBTFUL = (3, 5, 9)
"""Calls of the DiT in the first step at which its timestep is looked at: guidance takes two, some hosts more."""


class Loop:
    """What every kind answers; the defaults are of a loop that says nothing by itself.

    Attributes:
        ranks: dimensions that the DiT's timestep may have.
        joint: one solver steps all latent frames, else there is one each.
        unverifiable: why skipped iterations of such a loop cannot be verified, or "".
    """

    ranks: tuple[int, ...] = (2,)
    joint: bool = False
    unverifiable: str = ""

    def __str__(self) -> str:
        raise NotImplementedError

    def problem(self) -> str:
        """What the declaration lacks, or ""."""
        return ""

    def seams(self, entry: Entry) -> tuple[Seam, ...]:
        """Methods that are wrapped (LOOP) or called (READ)."""
        return ()

    def checks(self, entry: Entry, owner: ast.ClassDef) -> Iterator[Check]:
        """Structural facts in the text of the class that makes the video."""
        yield from ()

    def opened(self, binding: Binding, generation: Generation) -> None:
        """A generation begins."""

    def takes_again(self, pipeline: Any) -> bool:
        """Whether we know how it integrates, so that skipped steps can be taken again."""
        return False

    def told(self, generation: Generation, what: str, solver: Any) -> None:
        """An object of the class of its solver (its scheduler) was called, and has returned."""

    def entered(self, binding: Binding, seam: Seam, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        """A LOOP seam is called. Returns what the host gets."""
        raise NotImplementedError

    def awaits(self, generation: Generation) -> bool:
        """Whether a forward that comes now may be a denoise step's."""
        return generation.session is not None

    def idle(self, generation: Generation) -> bool:
        """Whether a generation that is over never told where its loop was."""
        return not generation.started

    def locate(self, generation: Generation, call: ForwardCall) -> Session | None:
        """The section that a forward belongs to, at its present iteration; None: none, it is the host's own."""
        return generation.session

    def looks(self, schedule: Schedule) -> set[int]:
        """Iterations at which the DiT's timesteps are compared with the table's."""
        return set()

    def session(self) -> type[Session] | None:
        """What carries a section out, where it is not made of whole forwards of the DiT."""
        return None


# A solver's own methods: loops of several hosts, and several of one host's, share its class.


def is_solver(kind: Any) -> bool:
    """Whether objects of this class step as a diffusers scheduler does, as far as its signature says."""
    step: Any = getattr(kind, STEP, None)
    try:
        names = tuple(inspect.signature(step).parameters)
    except (TypeError, ValueError):  # there is none, or it has no signature
        return False
    return names[1 : 1 + len(GIVEN)] == GIVEN


def wrap_solver(binding: Binding, owner: type, name: str) -> None:
    """Wrap a method of a solver's class, once, whatever loops it serves."""
    binding.wrap(owner, name, partial(called_solver, binding, name))


def called_solver(binding: Binding, name: str, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """A method of a solver is called: skipped steps may be taken again before it steps, and the loop may have gone on
    behind it. Returns what the host gets."""
    found = binding.live  # once: there are as many steps as latent frames
    if found is None or found.stepping:  # a class whose base is wrapped, too, is one solver
        return wrapped(*args, **kwargs)
    session = found.session if name == STEP else None
    again = session is not None and session.replays is not None and not session.replays.off
    found.stepping = True
    try:
        if again:
            latents = binding.guard(found, lambda: _before_step(found, wrapped, instance, args, kwargs))
            if latents is not None and len(args) > 2:
                args = (*args[:2], latents, *args[3:])
            elif latents is not None:
                kwargs = {**kwargs, "sample": latents}
        result = wrapped(*args, **kwargs)
        if again or found.loop.joint:
            binding.guard(found, lambda: _after_call(found, name, instance, result))
        return result
    finally:
        found.stepping = False


def _before_step(generation: Generation, wrapped: Any, solver: Any, args: Any, kwargs: Any) -> Any:
    """The latents that a solver is to get; None: its own."""
    session = generation.session
    assert session is not None and session.replays is not None
    given = {**dict(zip(GIVEN, args, strict=False)), **kwargs}
    step = getattr(wrapped, "__func__", None)
    if step is None or not {*GIVEN} <= given.keys():
        session.replays.give_up(f"{type(solver).__name__}.{STEP} is called in a way that we do not know")
        return None
    return session.step(step, solver, given["model_output"], given["sample"])


def _after_call(generation: Generation, name: str, solver: Any, result: Any) -> None:
    session = generation.session
    if name == STEP and session is not None:
        session.stepped(solver, result[0] if isinstance(result, tuple) else getattr(result, "prev_sample", result))
    generation.loop.told(generation, name, solver)


def scheduler_table(scheduler: Any, slots: int) -> Table:
    """`timesteps` and `sigmas` of a diffusers scheduler, all latent frames in step.

    Raises NotApplied where they are not of one length, do not fall, or a step calls the DiT more than once.
    """
    import torch

    from ..method.schedule import Table

    name, order = type(scheduler).__name__, getattr(scheduler, "order", 1)
    if order != 1:
        raise NotApplied(f"{name} calls the DiT {order} times a step; take one of order 1 (Euler, UniPC)")
    first = getattr(scheduler, "begin_index", None) or 0
    try:
        timesteps, sigmas = (
            torch.as_tensor(getattr(scheduler, table)).detach().to("cpu", torch.float64)[first:]
            for table in ("timesteps", "sigmas")
        )
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise NotApplied(f"{name} has no `timesteps` and `sigmas` that we can read: {error}") from error
    count = len(timesteps)
    if timesteps.dim() != 1 or sigmas.dim() != 1 or not count or len(sigmas) not in (count, count + 1):
        raise NotApplied(f"{name}: {len(sigmas)} sigmas for {count} timesteps")
    if not (sigmas[1:count] < sigmas[: count - 1]).all():
        raise NotApplied(f"{name}: the sigmas do not fall from step to step")
    every = (count, slots)
    return Table(
        timesteps=timesteps[:, None].expand(every).contiguous(),
        noise_levels=sigmas[:count, None].expand(every).contiguous(),
        mask=torch.ones(every, dtype=torch.bool),
        intervals=[(0, slots)] * count,
    )


@dataclass(eq=False)
class Ticks:
    """Where a generation's clock stands.

    Attributes: clock, the object itself; steps, those of the section that it was told of; heard, it was told of any;
        calls, of the DiT before that; silent, steps before any call.
    """

    clock: Any
    steps: int = 0
    heard: bool = False
    calls: int = 0
    silent: int = 0


@dataclass(frozen=True)
class Clock(Loop):
    """All latent frames in step: `for t in timesteps: ... scheduler.step(...)`.

    `begins` begins a section and `step` ends a step; a section that has had all its steps is followed by another one.
    The table is read at a section's first forward: callers overwrite it after `begins`.

    Attributes:
        of: pipeline -> the object that is told.
        made_by: (module, class) of that object, where it is a local variable of the loop; `of` then has no say.
        table: (that object, latent frames) -> the table.
    """

    of: Callable[[Any], Any] = attrgetter("scheduler")
    step: str = STEP
    begins: str = "set_timesteps"
    made_by: tuple[str, str] | None = None
    table: Callable[[Any, int], Table] = scheduler_table
    ranks = (1, 2)
    joint = True

    def __str__(self) -> str:
        where = "what the pipeline holds (its scheduler)" if self.made_by is None else ".".join(self.made_by)
        return f"a clock: `{self.step}` of {where} ends a step, `{self.begins}` begins a section"

    def problem(self) -> str:
        lacks = [name for name in ("step", "begins") if not getattr(self, name)]
        return f"`loop` is a Clock without `{lacks[0]}`: nothing says when a step ends" if lacks else ""

    def seams(self, entry: Entry) -> tuple[Seam, ...]:
        if self.made_by is None:
            return ()
        return tuple(Seam(LOOP, *self.made_by, name) for name in (self.begins, self.step))

    def checks(self, entry: Entry, owner: ast.ClassDef) -> Iterator[Check]:
        yield Check(f"{entry.owner} calls {self.step} of its clock", source.calls(owner, self.step))

    def opened(self, binding: Binding, generation: Generation) -> None:
        """The clock's class is known only now: it is wrapped like any other seam."""
        generation.place = Ticks(None)
        if self.made_by is None:
            clock = generation.place.clock = self.of(generation.pipeline)
            for name in (self.begins, self.step):
                if not callable(getattr(clock, name, None)):
                    raise NotApplied(f"{type(clock).__name__} has no {name}, so that nothing says where the loop is")
                wrap_solver(binding, type(clock), name)

    def entered(self, binding: Binding, seam: Seam, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        return called_solver(binding, seam.attribute, wrapped, instance, args, kwargs)

    def takes_again(self, pipeline: Any) -> bool:
        if self.made_by is None:
            return is_solver(type(self.of(pipeline)))
        module, owner = self.made_by
        return is_solver(getattr(sys.modules.get(module), owner, None))

    def awaits(self, generation: Generation) -> bool:
        return generation.place.clock is not None

    def locate(self, generation: Generation, call: ForwardCall) -> Session | None:
        """Before a forward: a section begins with its first one."""
        ticks: Ticks = generation.place
        if generation.session is None:
            ticks.steps = 0
            table = partial(self.table, ticks.clock, call.slots)
            generation.session = generation.begin(table, f"section of {call.slots} latent frames")
        session = generation.session
        if session.iteration != ticks.steps:
            session.enter(ticks.steps)
        ticks.calls += 1
        if not ticks.heard and ticks.calls in DOUBTFUL:
            try:
                session.check_timestep(call)
            except NotApplied:  # steps go by, and the clock does not say so
                generation.stray()
        return session

    def idle(self, generation: Generation) -> bool:
        return not generation.place.heard

    def looks(self, schedule: Schedule) -> set[int]:
        return {0, 1}

    def told(self, generation: Generation, what: str, clock: Any) -> None:
        """Only of the clock of the generation under way: others of its class tick, too."""
        ticks: Ticks = generation.place
        if what == self.begins and self.made_by is not None:
            ticks.clock = clock
        if ticks.clock is not clock:
            return
        if what == self.begins:
            generation.end_section()
        elif generation.session is None:
            ticks.silent += 1
            if ticks.silent > 1 and not generation.calls and not generation.elsewhere:
                generation.stray()  # steps go by, and the DiT is called in a way that we do not see
        else:
            ticks.heard = True
            ticks.steps += 1
            if ticks.steps >= generation.session.segment.iterations:
                generation.end_section()
