"""Places where the host's code is entered, facts it must have, and the verdict on each. Imports no torch."""

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
