"""A mode under which our code must not look at a tensor's numbers: on a GPU the host would wait for the device there.

On a CPU nothing waits, so what is forbidden is what would: reading, and copies between devices that are waited for.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType

import torch
from conftest import ROOT
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

OURS = (f"{ROOT}/scope_patch/", f"{ROOT}/registry/")
BETWEEN = (f"{Path(torch.__file__).parent}/", __file__, f"{ROOT}/examples/magi_cpu/shims/")
READS = {
    *("_local_scalar_dense", "allclose", "equal", "is_nonzero", "masked_select", "nonzero", "repeat_interleave"),
    *("_unique2", "unique_dim", "unique_consecutive"),
    # A mask as an index is counted first; a list is copied to the device.
    *("index", "index_put", "index_put_"),
}
"""Operations."""
METHODS = {"item", "tolist", "numpy", "cpu", "__array__", "__repr__", "__format__"}
"""Methods of tensors, some of which dispatch no operation where the tensor is on the CPU."""
MAY = {
    ("planning.py", "schedule"),  # the table and the plan, made at the first iteration and the first forward
    ("planning.py", "verdicts"),
    ("infinity.py", "decide"),
    ("section.py", "_new_segment"),
    ("solver.py", "constants"),  # a solver's tables, at the first step
    ("solver.py", "weights"),  # of tensors that it made itself, on the CPU
    ("generation.py", "end_section"),  # after the loop
    ("generation.py", "close"),
}
"""Functions of ours that may look, with all they call: outside of the loop, as often as they like."""
PASSES = {("frozen.py", "__torch_function__")}
"""Functions of ours through which the host's own operations pass, as they are."""
LOOK = {("session.py", "check_timestep")}
"""Functions of ours that look within the loop; how often is counted."""


class LookedError(AssertionError):
    """Code of ours looked at a tensor while the loop was running."""


def running() -> tuple[tuple[str, str], FrameType | None] | None:
    """((file, function) of ours that is running, the frame of one of LOOK that it works for, or None).

    None where it is the host's code that runs, or ours that may look.
    """
    frame = sys._getframe(1)
    while frame is not None and _kind(frame.f_code) == "between":
        frame = frame.f_back
    if frame is None or _kind(frame.f_code) == "theirs":
        return None
    innermost, looking = _name(frame.f_code), None
    while frame is not None:
        kind = _kind(frame.f_code)
        if kind == "may":
            return None
        if kind == "look":
            looking = frame
        frame = frame.f_back
    return innermost, looking


_kinds: dict[int, tuple[str, CodeType]] = {}
"""By identity, as the hash of a code object is one of all that is in it; kept, so that no other one gets its place."""


def _kind(code: CodeType) -> str:
    """Whose code it is: asked of every frame below every operation."""
    found = _kinds.get(id(code))
    if found is None:
        found = _kinds[id(code)] = (_kind_of(code), code)
    return found[0]


def _kind_of(code: CodeType) -> str:
    if code.co_filename.startswith(BETWEEN) or _name(code) in PASSES:
        return "between"
    if not code.co_filename.startswith(OURS):
        return "theirs"
    return "may" if _name(code) in MAY else "look" if _name(code) in LOOK else "ours"


def _name(code: CodeType) -> tuple[str, str]:
    return code.co_filename.rpartition("/")[2], code.co_name


class Operations(TorchDispatchMode):
    """Attributes: seen, how many operations were ours; looks, in how many calls one of LOOK looked."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self._calls = 0, set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch guards every operation against being compiled, which nothing here is

    @property
    def looks(self) -> int:
        return len(self._calls)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        self.seen += self.check(str(func), name in READS or waits(name, args, kwargs))
        return func(*args, **kwargs)

    def check(self, what: str, bad: bool) -> bool:
        """Whether code of ours is running. Raises LookedError where what it does is bad, unless it is one of LOOK."""
        found = running()
        if found is not None and bad:
            (file, function), call = found
            if call is None:
                raise LookedError(f"{what} in {function} of {file}")
            self._calls.add(call)  # kept: no other frame gets its place
        return found is not None


class Methods(TorchFunctionMode):
    """What tensors are asked by methods, some of which are an operation as well."""

    def __init__(self, operations: Operations) -> None:
        super().__init__()
        self._operations = operations

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        devices = [value for value in (*args[1:], *kwargs.values()) if isinstance(value, str | torch.device)]
        bad = name in METHODS or (name == "to" and any(torch.device(d).type == "cpu" for d in devices))
        self._operations.check(name, bad)
        return func(*args, **kwargs)


def waits(name, args, kwargs) -> bool:
    """Whether an operation is a copy between devices that the host waits for."""
    if name == "_to_copy":
        return kwargs.get("device", args[0].device) != args[0].device and not kwargs.get("non_blocking")
    return name == "copy_" and args[0].device != args[1].device and not (*args[2:], *kwargs.values(), False)[0]


@contextmanager
def no_sync() -> Iterator[Operations]:
    """While it lasts, code of ours that looks at a tensor outside MAY raises LookedError."""
    with Operations() as operations, Methods(operations):
        yield operations
