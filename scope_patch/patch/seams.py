"""Places where the host's code is entered, and what stands there instead; facts it must have, and the verdict on each.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

READ = "read"
"""Nothing is replaced; we call this method, or its class must be there."""
VIDEO = "video"
"""One call makes one video; state begins and ends with it."""
LOOP = "loop"
"""Tells where the denoise loop is; what that means is the loop kind's (`loops`)."""
FORWARD = "forward"
"""The DiT forward."""
LONGEST_CHAIN = 100

Wrapper = Callable[[Any, Any, Any, Any], Any]
"""wrapt's: (wrapped, instance, args, kwargs) -> what the host gets."""


@dataclass(frozen=True)
class Seam:
    """One place where the host's code is entered.

    Attributes:
        role: READ, VIDEO, LOOP or FORWARD.
        module: the defining module (never `__main__`).
        owner: the class, by name.
        attribute: the method whose signature is checked.
        parameters: parameter names that must be there, in this order (others may stand between and behind).
        bases: class names that must be in the owner's MRO, besides itself.
        patched: the attribute that is replaced, where it is another one. `__call__` stands in for a DiT's `forward`:
            sequence parallelism and offload hooks replace `forward` on the instance, and `__call__` comes before it.
        mentions: words that the method's text must hold, as names or strings: what it passes on by keyword.
    """

    role: str
    module: str
    owner: str
    attribute: str
    parameters: tuple[str, ...] = ("self",)
    bases: tuple[str, ...] = ()
    patched: str = ""
    mentions: tuple[str, ...] = ()

    @property
    def replaced(self) -> str:
        return self.patched or self.attribute


@dataclass(frozen=True)
class Fact:
    """A structural fact we rely on: `owner.__init__` in `module` assigns `attribute` by calling `made_by`."""

    module: str
    owner: str
    attribute: str
    made_by: str

    def __str__(self) -> str:
        return f"{self.module}.{self.owner} has {self.attribute}, a {self.made_by}"


@dataclass(frozen=True)
class Check:
    """One question to the host's code, whether the answer is the expected one, and what was found."""

    name: str
    ok: bool
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}" if self.detail else self.name


@dataclass(frozen=True)
class Replaced:
    """On `owner`, attribute `name` (its own, or inherited: `had_own`) was `raw`."""

    owner: type
    name: str
    had_own: bool
    raw: Any
    replacement: Any

    def in_place(self) -> bool:
        """Whether the owner's attribute leads to the replacement, directly or by way of wrappers (`__wrapped__`).

        One hidden below a wrapper that does not show what it wraps counts as gone: wrapping twice does no harm, since a
        generation, a segment and a forward are each entered once; believing in a wrapper that is not there would.
        """
        found = vars(self.owner).get(self.name)
        for _ in range(LONGEST_CHAIN):
            if found is None or found is self.replacement:
                break
            found = getattr(found, "__wrapped__", None)
        return found is self.replacement


class Ledger:
    """What we replaced, in the order that it was, so that it can be put back object by object."""

    def __init__(self) -> None:
        self.entries: list[Replaced] = []

    def replace(self, owner: type, name: str, make: Callable[[Any], Any]) -> None:
        """Replace `owner.name` by `make(raw)`, where raw is what the class (or a base) holds, descriptors unbound."""
        raw = next(vars(base)[name] for base in owner.__mro__ if name in vars(base))
        had_own, replacement = name in vars(owner), make(raw)
        setattr(owner, name, replacement)
        self.entries.append(Replaced(owner, name, had_own, raw, replacement))

    def holds(self, owner: type, name: str) -> bool:
        """Whether a replacement of ours is in place there, possibly below somebody else's patch."""
        for entry in [entry for entry in self.entries if entry.owner is owner and entry.name == name]:
            if entry.in_place():
                return True
            self.entries.remove(entry)  # somebody put back what was there before us
        return False

    def restore(self) -> list[Replaced]:
        """Put back everything that is still ours. Returns what stays in place, below somebody else's patch."""
        for entry in reversed(self.entries):
            if vars(entry.owner).get(entry.name) is not entry.replacement:
                continue
            if entry.had_own:
                setattr(entry.owner, entry.name, entry.raw)
            else:
                delattr(entry.owner, entry.name)
        self.entries = [entry for entry in self.entries if entry.in_place()]
        return list(self.entries)
