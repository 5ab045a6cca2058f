"""What we replaced, so that it can be put back object by object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LONGEST_CHAIN = 100


@dataclass(frozen=True)
class Entry:
    """One replacement: on `owner`, attribute `name` (its own, or inherited: `had_own`) was `raw`."""

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
    """Replacements in the order they were made; undone in reverse."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def replace(self, owner: type, name: str, make: Callable[[Any], Any]) -> None:
        """Replace `owner.name` by `make(raw)`, where raw is what the class (or a base) holds, descriptors unbound."""
        had_own = name in vars(owner)
        raw = vars(owner)[name] if had_own else next(vars(base)[name] for base in owner.__mro__ if name in vars(base))
        replacement = make(raw)
        setattr(owner, name, replacement)
        self.entries.append(Entry(owner, name, had_own, raw, replacement))

    def holds(self, owner: type, name: str) -> bool:
        """Whether a replacement of ours is in place there, possibly below somebody else's patch."""
        for entry in [entry for entry in self.entries if entry.owner is owner and entry.name == name]:
            if entry.in_place():
                return True
            self.entries.remove(entry)  # somebody put back what was there before us
        return False

    def restore(self) -> list[Entry]:
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
