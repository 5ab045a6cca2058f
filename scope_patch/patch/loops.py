"""The kinds of denoise loop: how each tells where it is, and what its table is. One small class a kind.

A registry file makes one of these; `bind` asks it for the seams to wrap and hands it what happens there. Nothing here
imports torch or a host before a host runs.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, SupportsIndex

from ..errors import NotApplied
from . import source
from .seams import LOOP, READ, Check, Seam
from .steps import STEP, called_solver, is_solver, wrap_solver

if TYPE_CHECKING:
    from ..method.schedule import Interval, Schedule, Table
    from .bind import Binding
    from .generation import Generation
    from .host import Entry
    from .session import Session
    from .velocity import ForwardCall


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
        """For people."""
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


# ---------------------------------------------------------------------------------------------------------------------
# A clock: an object that is told of every step.


def _scheduler(pipeline: Any) -> Any:
    return pipeline.scheduler


def _solver(pipeline: Any) -> Any:
    return getattr(pipeline, "scheduler", None)


def scheduler_table(scheduler: Any, slots: int) -> Table:
    """`timesteps` and `sigmas` of a diffusers scheduler, all latent frames in step.

    Raises NotApplied where they are not of one length, do not fall, or a step calls the DiT more than once.
    """
    import torch

    from ..method.schedule import Table

    order = getattr(scheduler, "order", 1)
    if order != 1:
        raise NotApplied(
            f"{type(scheduler).__name__} calls the DiT {order} times a step; take one of order 1 (Euler, UniPC)"
        )
    first = getattr(scheduler, "begin_index", None) or 0
    try:
        timesteps, sigmas = (
            torch.as_tensor(getattr(scheduler, name)).detach().to("cpu", torch.float64)[first:]
            for name in ("timesteps", "sigmas")
        )
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise NotApplied(
            f"{type(scheduler).__name__} has no `timesteps` and `sigmas` that we can read: {error}"
        ) from error
    count = len(timesteps)
    if timesteps.dim() != 1 or sigmas.dim() != 1 or not count or len(sigmas) not in (count, count + 1):
        raise NotApplied(f"{type(scheduler).__name__}: {len(sigmas)} sigmas for {count} timesteps")
    if not (sigmas[1:count] < sigmas[: count - 1]).all():
        raise NotApplied(f"{type(scheduler).__name__}: the sigmas do not fall from step to step")
    every = (count, slots)
    return Table(
        timesteps=timesteps[:, None].expand(every).contiguous(),
        noise_levels=sigmas[:count, None].expand(every).contiguous(),
        mask=torch.ones(every, dtype=torch.bool),
        intervals=[(0, slots)] * count,
    )


DOUBTFUL = (3, 5, 9)
"""Calls of the DiT in the first step at which its timestep is looked at: guidance takes two, some hosts more."""


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

    of: Callable[[Any], Any] = _scheduler
    step: str = "step"
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
            clock = self.of(generation.pipeline)
            generation.place.clock = clock
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
        return isinstance(generation.place, Ticks) and generation.place.clock is not None

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
        if not ticks.heard and ticks.calls in DOUBTFUL and not session.stands(call):
            generation.stray()  # steps go by, and the clock does not say so
        return session

    def idle(self, generation: Generation) -> bool:
        return not (isinstance(generation.place, Ticks) and generation.place.heard)

    def looks(self, schedule: Schedule) -> set[int]:
        return {0, 1}

    def told(self, generation: Generation, what: str, clock: Any) -> None:
        """Only of the clock of the generation under way: others of its class tick, too."""
        ticks = generation.place
        if not isinstance(ticks, Ticks):
            return
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
            if ticks.steps >= len(generation.session):
                generation.end_section()


# ---------------------------------------------------------------------------------------------------------------------
# A list that the loop indexes.


class WatchedIntervals(list["Interval"]):
    """The host's own list, whose indexing is the loop position; an index may be answered by another interval.

    Iterating, slicing, `len` and comparison see the host's values.
    """

    def __init__(self, intervals: Sequence[Interval], on_read: Callable[[int], Interval | None]) -> None:
        super().__init__(intervals)
        self._on_read = on_read

    def __getitem__(self, key: Any) -> Any:
        own = super().__getitem__(key)
        if not isinstance(key, SupportsIndex):
            return own
        position = key.__index__()
        replaced = self._on_read(position if position >= 0 else position + len(self))
        return own if replaced is None else replaced

    def __reduce__(self) -> tuple[type, tuple[list[Interval]]]:
        return list, (list(self),)  # copies and pickles are plain: they belong to no loop


@dataclass(frozen=True)
class Watched(Loop):
    """A schedule function returns a list of intervals, one an iteration, which the loop indexes by its counter.

    Attributes:
        method: the schedule function, of the class that makes the video.
        parameters: its parameter names.
        table: what it returned -> the table, made at the loop's first read: callers edit tensors before that.
        parts: how many things it returns, as a tuple.
        position: of the list of intervals among them.
        solver: pipeline -> a solver of the class that steps the latent frames; None: it has none that we know.
    """

    method: str
    parameters: tuple[str, ...]
    table: Callable[[tuple[Any, ...]], Table]
    parts: int = 4
    position: int = 3
    solver: Callable[[Any], Any] = _solver

    def __str__(self) -> str:
        return f"a watched list: the loop indexes the intervals that {self.method} returns"

    def seams(self, entry: Entry) -> tuple[Seam, ...]:
        return (Seam(LOOP, entry.module, entry.owner, self.method, self.parameters, entry.bases),)

    def checks(self, entry: Entry, owner: ast.ClassDef) -> Iterator[Check]:
        schedule = source.find_method(owner, self.method)
        if schedule is not None:
            lengths = source.returned_lengths(schedule)
            fine = lengths == {self.parts}
            found = "" if fine else f"found {lengths}"
            yield Check(f"{entry.owner}.{self.method} returns {self.parts} things", fine, found)
        # Anywhere in the class: the loop position is known from nothing else.
        indexed = source.indexes_result(owner, self.method, self.position)
        yield Check(f"{entry.owner} indexes the intervals of {self.method}", indexed)
        methods = [node for node in owner.body if isinstance(node, ast.FunctionDef)]
        loops = [source.ScheduleLoop(method, self.method, self.position) for method in methods]
        counted = all(loop.by_its_counter for loop in loops)
        yield Check(f"{entry.owner} reads an interval in its loop over them, by the loop counter", counted)
        yield Check(f"{entry.owner} cuts latents and timesteps by the interval", all(loop.cuts_both for loop in loops))

    def opened(self, binding: Binding, generation: Generation) -> None:
        """A subclass may make its own schedule of ours: what it returns is what its loop reads."""
        solver = self.solver(generation.pipeline)
        if callable(getattr(solver, STEP, None)):
            wrap_solver(binding, type(solver), STEP)
        for owner in type(generation.pipeline).__mro__:
            if binding.holds(owner, self.method):
                break
            if self.method in vars(owner):
                seam = Seam(LOOP, owner.__module__, owner.__name__, self.method)
                binding.wrap(owner, self.method, partial(self.entered, binding, seam))

    def takes_again(self, pipeline: Any) -> bool:
        return is_solver(type(self.solver(pipeline)))

    def entered(self, binding: Binding, seam: Seam, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        generation = binding.on_loop(self._making, of=instance)
        try:
            result = wrapped(*args, **kwargs)
        finally:
            if generation is not None:
                generation.place = None
        watched = None if generation is None else binding.on_loop(partial(self.returned, binding, result), of=instance)
        return result if watched is None else watched

    def _making(self, generation: Generation) -> Generation | None:
        """The generation, unless this call is a part of another one, of a subclass."""
        if generation.place is self:
            return None
        generation.place = self
        return generation

    def returned(self, binding: Binding, result: Any, generation: Generation) -> Any:
        """The schedule function's result with the intervals watched. Raises NotApplied where it is not what we know."""
        if type(result) is not tuple or len(result) != self.parts:  # what is more than a tuple would come back as less
            found = f"{len(result)} things" if type(result) is tuple else f"a {type(result).__name__}"
            raise NotApplied(f"the schedule function returned {found}, expected {self.parts} in a tuple")
        intervals = result[self.position]
        if not isinstance(intervals, list):
            raise NotApplied(
                f"the schedule function's intervals are a {type(intervals).__name__}, expected a list of pairs"
            )
        if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in intervals):
            raise NotApplied("the schedule function's intervals are not (start, end) pairs")
        session = generation.begin(partial(self.table, result), f"segment of {len(intervals)} iterations")
        generation.session = session
        watch = WatchedIntervals(intervals, partial(binding.on_read, generation, session))
        return (*result[: self.position], watch, *result[self.position + 1 :])


# ---------------------------------------------------------------------------------------------------------------------
# Steps that are calls.


@dataclass(frozen=True)
class Called(Loop):
    """Every denoise step is a call whose arguments say which input (of several) and which step.

    Attributes:
        method: the step, of the class that makes the video.
        parameters: its parameter names.
        position: those that say which input and which step.
        table: (pipeline, input) -> the table of all its steps, made before the first one.
        mentions: words in the step's text: what it passes on to the DiT by keyword.
        reads: (method, parameters) of the host's that `table` calls.
        integrates: the method that integrates the step's velocities, with the parameters of `method`; "": none.
        integrated: (pipeline, input) -> (latents, velocities, slots of the video that are given) of that.
    """

    method: str
    parameters: tuple[str, ...]
    position: tuple[str, str]
    table: Callable[[Any, int], Table]
    mentions: tuple[str, ...] = ()
    reads: Sequence[tuple[str, tuple[str, ...]]] = ()
    integrates: str = ""
    integrated: Callable[[Any, int], tuple[Any, Any, int]] | None = None
    ranks = (1, 2)

    def __str__(self) -> str:
        return f"called steps: every call of {self.method} is one, and its {' and '.join(self.position)} say which"

    def seams(self, entry: Entry) -> tuple[Seam, ...]:
        step: tuple[Seam, ...] = (
            Seam(LOOP, entry.module, entry.owner, self.method, self.parameters, mentions=self.mentions),
        )
        read = (Seam(READ, entry.module, entry.owner, name, parameters) for name, parameters in self.reads)
        if self.integrates:
            step = (*step, Seam(LOOP, entry.module, entry.owner, self.integrates, self.parameters))
        return (*step, *read)

    def entered(self, binding: Binding, seam: Seam, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        given = partial(binding.arguments, seam.owner, seam.attribute, args, kwargs)
        if seam.attribute == self.integrates:
            binding.on_loop(lambda generation: self._integrate(given(), generation), of=instance)
            return wrapped(*args, **kwargs)
        step = partial(self._begun, given)
        generation = binding.on_loop(step, of=instance)
        try:
            return wrapped(*args, **kwargs)
        finally:
            if generation is not None:
                generation.session = None  # the step is over: no forward belongs to it any more

    def _begun(self, given: Callable[[], Mapping[str, Any]], generation: Generation) -> Generation:
        arguments = given()
        section, step = (int(arguments[name]) for name in self.position)
        session = generation.sections.get(section)
        if session is None:
            session = generation.begin(partial(self._read, generation.pipeline, section), f"input {section}", section)
        session.enter(step)
        generation.session = session  # only now: where entering failed, its forward is none of ours
        return generation

    def takes_again(self, pipeline: Any) -> bool:
        return bool(self.integrates)

    def _integrate(self, arguments: Mapping[str, Any], generation: Generation) -> None:
        section = int(arguments[self.position[0]])
        session = generation.sections.get(section)
        if session is not None and session.replays is not None and self.integrated is not None:
            session.integrate(*self.integrated(generation.pipeline, section))

    def _read(self, pipeline: Any, section: int) -> Table:
        try:
            return self.table(pipeline, section)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise NotApplied(f"the schedule cannot be read from the host's own methods: {error!r}") from error

    def looks(self, schedule: Schedule) -> set[int]:
        """Before the first that may be skipped, and where the window is at its widest, so that the order shows."""
        widths = [end - start for start, end in schedule.intervals]
        return {1, widths.index(max(widths))}
