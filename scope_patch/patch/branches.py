"""Which CFG branch a DiT call belongs to, by what it is conditioned on, and the histories of each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..method.forecast import Part, Points
from ..method.history import BranchHistory
from ..method.memory import Memory
from ..method.schedule import Interval
from .host import Dit
from .solver import written

FORGET_AFTER = 2
"""Iterations a branch may stay away before its history is dropped."""
MOST_CALLS = 16
"""Forwards in one iteration; more of them, and the loop has gone on without our seeing it."""
LOOSE = (
    "{} of the DiT's calls: another tensor at every step, so that guidance branches are told apart by their place in a "
    "step, and what changes there in mid-run is not noticed"
)
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
DEEPEST = 4
"""Containers within containers that are looked into."""
Mark = tuple[Any, ...]


@dataclass(frozen=True)
class Conditioning:
    """Attributes:
    marks: by argument, where its tensors lie and how often they were written to.
    held: those tensors, so that their places stay their own.
    """

    marks: Mapping[str, tuple[Mark, ...]]
    held: tuple[Any, ...] = ()

    def differs(self, other: Conditioning) -> set[str]:
        """The arguments that are not as in the other one."""
        names = self.marks.keys() | other.marks.keys()
        return {name for name in names if self.marks.get(name) != other.marks.get(name)}


def conditioning(arguments: Mapping[str, Any], dit: Dit) -> Conditioning:
    """What a call with these arguments, by parameter name, is conditioned on."""
    names = dit.conditioning or [name for name in arguments if name not in (dit.latents, dit.timestep)]
    leaves = {name: list(_leaves(arguments.get(name))) for name in names}
    marks = {name: tuple(map(_mark, found)) for name, found in leaves.items() if found}
    return Conditioning(marks, tuple(leaf for found in leaves.values() for leaf in found))


def _leaves(value: Any, depth: int = 0) -> Iterator[Any]:
    """What is in a value, plain values left out: lists and dictionaries are often made anew around the same tensors."""
    if isinstance(value, PLAIN):
        return
    kind = type(value)
    if depth < DEEPEST and kind in (list, tuple, dict):
        for each in value.values() if kind is dict else value:
            yield from _leaves(each, depth + 1)
    else:
        yield value


def _mark(value: Any) -> Mark:
    """Equal for equal places and versions. A view that is made anew at every step is at the same place.

    Inference tensors have no version: what is written into them is not seen.
    """
    if not isinstance(value, Tensor):
        return (id(value),)
    if type(value) is not Tensor or value.layout is not torch.strided or value.is_meta:
        return id(value), written(value)
    return value.data_ptr(), written(value), value.shape, value.stride(), value.dtype, value.device


class Branch:
    """One CFG branch: what it is conditioned on, and its histories.

    There is one history for all slots, or, where slots are chunks of a moving window, one a chunk: a chunk keeps its
    history wherever the window stands.

    Attributes:
        given: what its last call was conditioned on.
        steady: arguments that were the same in two of its iterations; another one is another prompt.
        loose: arguments that never were: a change of them says nothing.
        doubt: arguments that changed when nothing was known of them yet: nothing is made of what was computed before
            until the next call says whether it is of another prompt.
        seen: its last iteration, and which call that was there.
    """

    def __init__(self, given: Conditioning, chunked: bool, history: Callable[[], BranchHistory]) -> None:
        self.given = self._earlier = given
        self._chunked = chunked
        self._histories: defaultdict[int, BranchHistory] = defaultdict(history)
        self.steady: set[str] = set()
        self.loose: set[str] = set()
        self.doubt: set[str] = set()
        self.seen = (0, 0)
        self._since = 0
        self.output_type: type[Any] = tuple
        self._like: tuple[Any, ...] | None = None

    def take(self, given: Conditioning) -> bool:
        """Whether a call that is conditioned on this may be its next; if so, it is from now on.

        It may not where what was steady is another.
        """
        changed = given.differs(self.given) - self.loose
        if self.doubt and (not changed or not given.differs(self._earlier)):  # or two prompts by turns
            self.steady |= self.doubt
            for history in self.histories:
                history.keep_since(self._since)
        if changed & self.steady:
            self.doubt = set()
            return False
        if changed and self.doubt:
            self.loose |= changed
        elif changed:
            self._since = 1 + max((each.number for history in self.histories for each in history.anchors), default=0)
        self.doubt = changed - self.loose
        self.steady |= given.marks.keys() - changed - self.loose
        self._earlier, self.given = self.given, given
        return True

    def meet(self, latents: Tensor) -> None:
        """A call comes with these latents: of another dtype, device, batch or picture size, they make it begin anew."""
        like = (latents.dtype, latents.device, latents.shape[:2], latents.shape[3:])
        if self._like not in (None, like):
            self.forget()
        self._like = like

    @property
    def histories(self) -> list[BranchHistory]:
        return list(self._histories.values())

    def forget(self) -> None:
        self._histories.clear()

    def parts(self, interval: Interval) -> list[Part]:
        """The histories that together are of the slots in `interval`; of chunks behind it they are dropped."""
        if not self._chunked:
            return [Part(self._histories[0], interval)]
        for chunk in [chunk for chunk in self._histories if chunk < interval[0]]:
            del self._histories[chunk]
        return [Part(self._histories[key], (key, key + 1)) for key in range(*interval)]


class Branches:
    """The branches of one segment, told apart by what they are conditioned on, not by counting calls.

    A second call with the same conditioning in one iteration (prompt and negative prompt may be one object) is a branch
    of its own. Conditioning that changes in mid-loop, as another tensor or in place, is a new branch, and so starts
    with a real forward. Where it is another one at every step, branches are told apart by their place in the step, and
    `remark` is told of that.
    """

    def __init__(
        self,
        keeps: int,
        chunked: bool = False,
        memory: Memory | None = None,
        remark: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self._new = partial(Branch, chunked=chunked, history=partial(BranchHistory, keeps, memory))
        self._remark = remark
        self._known: list[Branch] = []
        self._iteration = -1
        self._calls = 0
        self._told: set[str] = set()
        self._parts: list[Points] = []

    def enter(self, iteration: int) -> None:
        """A new iteration begins; branches that stayed away are forgotten."""
        self._iteration, self._calls = iteration, 0
        self._known = [branch for branch in self._known if iteration - branch.seen[0] <= FORGET_AFTER]

    @property
    def called(self) -> tuple[int, ...]:
        """Those that were called in the present iteration."""
        return tuple(id(branch) for branch in self._known if branch.seen[0] == self._iteration)

    def forget(self) -> None:
        """What was computed until now says nothing about what comes."""
        for branch in self._known:
            branch.forget()

    def find(self, given: Conditioning) -> Branch | None:
        """The branch of a call in the present iteration; None where that cannot be the present one any more."""
        if self._calls >= MOST_CALLS:
            return None
        waiting = [branch for branch in self._known if branch.seen[0] != self._iteration]
        waiting.sort(key=lambda branch: (-branch.seen[0], branch.seen[1]))
        same = next((branch for branch in waiting if not given.differs(branch.given)), None)
        branch = same or next(iter(waiting), None)  # the one in this place of the step, where none is the same
        if branch is None or not branch.take(given):
            made = self._new(given)
            if branch is not None:
                made.steady, made.loose = set(branch.steady), set(branch.loose)
            self._known.append(made)
            branch = made
        if branch.loose - self._told:
            self._told |= branch.loose
            self._remark(LOOSE.format(", ".join(sorted(self._told))))
        branch.seen = self._iteration, self._calls
        self._calls += 1
        return branch

    def parts(self, interval: Interval) -> list[Part]:
        """Of all branches that have computed something: the histories that have a velocity of these slots."""
        branches = [branch for branch in self._known if any(h.anchors for h in branch.histories)]
        return [part for branch in branches for part in branch.parts(interval) if part.history.anchors]

    def know(self, parts: Sequence[Part]) -> Points:
        """What is known of these parts, joined; the same object until one of them changes."""
        known = [part.history.points(part.interval) for part in parts]
        if len(known) != len(self._parts) or any(a is not b for a, b in zip(known, self._parts, strict=True)):
            self._parts, self._joined = known, Points.join(known)
        return self._joined
