"""The kinds of denoise loop that a registry file names: how each tells where it is, and what its table is.

`bind` asks one for the seams to wrap and hands it what happens there. A clock is in `clock`, and steps that are scales
of an image are in `scales`. Nothing here imports torch or a host before a host runs.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, SupportsIndex

from ..errors import NotApplied
from . import source
from .clock import STEP, Clock, Loop, is_solver, wrap_solver
from .seams import LOOP, READ, Check, Seam

if TYPE_CHECKING:
    from ..method.schedule import Interval, Schedule, Table
    from .bind import Binding
    from .generation import Generation
    from .host import Entry
    from .session import Session

__all__ = ["Called", "Clock", "Loop", "Watched"]


class WatchedIntervals(list["Interval"]):
    """The host's own list, whose indexing is the loop position; an index may be answered by another interval.

    Iterating, slicing, `len` and comparison see the host's values.
    """

    def __init__(
        self, intervals: Sequence[Interval], binding: Binding, read: Callable[[int, Generation], Interval | None]
    ) -> None:
        super().__init__(intervals)
        self._binding, self._read = binding, read

    def __getitem__(self, key: Any) -> Any:
        own = super().__getitem__(key)
        if not isinstance(key, SupportsIndex):
            return own
        position = key.__index__()
        replaced = self._binding.on_loop(partial(self._read, position if position >= 0 else position + len(self)))
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
    solver: Callable[[Any], Any] = lambda pipeline: getattr(pipeline, "scheduler", None)

    def __str__(self) -> str:
        return f"a watched list: the loop indexes the intervals that {self.method} returns"

    def seams(self, entry: Entry) -> tuple[Seam, ...]:
        return (Seam(LOOP, entry.module, entry.owner, self.method, self.parameters, entry.bases),)

    def checks(self, entry: Entry, owner: ast.ClassDef) -> Iterator[Check]:
        schedule = source.find_method(owner, self.method)
        if schedule is not None:
            lengths = source.returned_lengths(schedule)
            found = "" if lengths == {self.parts} else f"found {lengths}"
            yield Check(f"{entry.owner}.{self.method} returns {self.parts} things", not found, found)
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
            if binding.ledger.holds(owner, self.method):
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
        intervals, these = result[self.position], "the schedule function's intervals"
        if not isinstance(intervals, list):
            raise NotApplied(f"{these} are a {type(intervals).__name__}, expected a list of pairs")
        if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in intervals):
            raise NotApplied(f"{these} are not (start, end) pairs")
        session = generation.begin(partial(self.table, result), f"segment of {len(intervals)} iterations")
        generation.session = session
        watch = WatchedIntervals(intervals, binding, partial(self._read, generation, session))
        return (*result[: self.position], watch, *result[self.position + 1 :])

    def _read(self, owner: Generation, session: Session, iteration: int, generation: Generation) -> Interval | None:
        """The loop of a generation reads an interval; None where it is to have its own.

        Args:
            owner, session: whose list it is.
            generation: the one under way.
        """
        if generation is not owner:
            return None  # a list that outlived its loop, or is read by another thread
        if session is generation.session:
            return session.enter(iteration)
        # Of a schedule that was made before the newest one. Forwards that follow are no iteration's of that: they are
        # the host's own until the loop is seen again.
        if generation.session is not None:
            generation.session.leave()
        return None


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
        place = entry.module, entry.owner
        step = Seam(LOOP, *place, self.method, self.parameters, mentions=self.mentions)
        sums = [Seam(LOOP, *place, self.integrates, self.parameters)] if self.integrates else []
        return (step, *sums, *(Seam(READ, *place, name, parameters) for name, parameters in self.reads))

    def entered(self, binding: Binding, seam: Seam, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        given = partial(binding.arguments, seam.owner, seam.attribute, args, kwargs)
        if seam.attribute == self.integrates:
            binding.on_loop(lambda generation: self._integrate(given(), generation), of=instance)
            return wrapped(*args, **kwargs)
        generation = binding.on_loop(lambda generation: self._begun(given(), generation), of=instance)
        try:
            return wrapped(*args, **kwargs)
        finally:
            if generation is not None:
                generation.session = None  # the step is over: no forward belongs to it any more

    def _begun(self, arguments: Mapping[str, Any], generation: Generation) -> Generation:
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
